//! Products with the matrices of the experts that each token chose.

use super::panels::{Kind, Panels, ROWS};
use super::pool::Disjoint;
use super::{Cpu, Storage, simd, vector};
use crate::numerics::Precision;
use crate::ops;
use crate::quant::CHUNK;

impl Cpu {
    /// Rows of a step.
    pub(super) fn expert_products(&mut self, op: &ops::ExpertMatmul, rows: usize) {
        let shapes = self.plan.shapes();
        let w = &self.plan.weights[op.weight.0];
        let (used, width, slots) = (op.used(&shapes), op.rows(&shapes), op.has_slots(&shapes));
        let mut out = self.memory.take_float(op.out);
        let memory = &self.memory;
        let routes = op.routes.map(|routes| memory.float(routes));
        let bias = op.bias.map_or(&[][..], |b| &memory.vectors[b.0]);
        // A panel holds rows of one expert only.
        let panels = memory.panels[op.weight.0].as_ref().filter(|_| width.is_multiple_of(ROWS));
        let (isa, precise) = (self.isa, self.plan.precision == Precision::Precise);
        let (data, bytes) = (self.weights.data(w), w.format.row_bytes(w.cols));
        let cells = Disjoint::new(&mut out);
        let parts = width.div_ceil(ROWS);
        self.pool.run(rows * used * parts, |task| {
            let (product, part) = (task / parts, task % parts);
            let (row, slot) = (product / used, product % used);
            // A number that `Route` wrote.
            let expert = routes.map_or(slot, |routes| routes[row * 2 * used + slot] as usize).min(op.experts - 1);
            let x_row = if slots { product } else { row };
            let some = part * ROWS..((part + 1) * ROWS).min(width);
            let at = expert * width + some.start;
            // SAFETY: a task has its own rows of its own slot.
            let out = unsafe { cells.slice(product * width + some.start..product * width + some.end) };
            let bias = bias.get(at..at + some.len()).unwrap_or_default();
            match panels {
                Some(panels) => {
                    let mut y = [[0.0; ROWS]];
                    panel(isa, panels, at / ROWS, memory, op.x, x_row, w.cols, precise, &mut y);
                    vector::store(isa, &y[0][..some.len()], bias, out);
                }
                None => {
                    let x = memory.activations(op.x, x_row, w.cols);
                    for (i, out) in out.iter_mut().enumerate() {
                        let raw = &data[(at + i) * bytes..][..bytes];
                        ops::matmul::cpu(w.format, raw, &[x], bias.get(i).copied(), std::slice::from_mut(out));
                    }
                }
            }
        });
        self.memory.put_float(op.out, out);
    }
}

/// The products of the rows of a panel with a row of activations.
fn panel(
    isa: super::Isa,
    panels: &Panels,
    panel: usize,
    memory: &super::Memory,
    x: crate::plan::BufferId,
    row: usize,
    cols: usize,
    precise: bool,
    y: &mut [[f32; ROWS]],
) {
    match (panels.kind, &memory.buffers[x.0]) {
        (Kind::Float { bytes, .. }, Storage::Float(values)) => {
            let mut rounded = vec![0.0; cols.next_multiple_of(CHUNK)];
            vector::prepare(isa, &values[row * cols..][..cols], bytes == 2, &mut rounded[..cols]);
            simd::floats(isa, panels, panel..panel + 1, &[&rounded], y);
        }
        _ => simd::blocks(isa, panels, panel..panel + 1, &memory.rows(x, row..row + 1, cols), precise, y),
    }
}
