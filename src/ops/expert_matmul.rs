//! Products with the matrices of the chosen experts: `y[row, slot, n] = Σ w[e, n, k] x[row, (slot,) k] (+ bias[e, n])` with the expert
//! `e` that the slot's route names. Only the chosen experts' weights are read.

use super::examples::{Example, Floats, Matrix, Scene, bits, columns};
use super::float64::{Memory64, dot};
use super::quantize_activations::Activations;
use super::shapes::{BufferId, BufferKind, Shapes, WeightId, ensure, same};
use super::{Call, Operand, Operation, Part, Whole, matmul, matmul::ROWS, quantize_activations};
use crate::numerics::Precision;
use crate::quant::{CHUNK, FORMATS, Format};
pub use crate::shaders::{EXPERT_MATMUL as SHADER, params::Experts as Params};

/// Multiplies rows with the matrices of the experts that `routes` names ([`super::Route`]), or of all, one after the other, of the `[experts * rows, cols]` of `weight`.
/// `x` is one row for all slots, or has `cols` elements for each; `out` has `rows` elements for each.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ExpertMatmul {
    pub weight: WeightId,
    pub experts: usize,
    /// `[experts * rows]`.
    pub bias: Option<WeightId>,
    pub x: BufferId,
    pub routes: Option<BufferId>,
    pub out: BufferId,
}

impl ExpertMatmul {
    /// Experts that are used.
    pub(crate) fn used(&self, shapes: &Shapes<'_>) -> usize {
        self.routes.map_or(self.experts, |routes| shapes.width(routes) / 2)
    }

    /// Rows of an expert's matrix.
    pub(crate) fn rows(&self, shapes: &Shapes<'_>) -> usize {
        shapes.weights[self.weight.0].rows / self.experts
    }

    /// Whether the activations have two planes.
    pub(crate) fn is_precise(&self, shapes: &Shapes<'_>) -> bool {
        let integers = shapes.weights[self.weight.0].format.activation_block().is_some();
        integers && shapes.precision == Precision::Precise
    }

    /// Whether `x` has elements for each slot.
    pub(crate) fn has_slots(&self, shapes: &Shapes<'_>) -> bool {
        shapes.width(self.x) != shapes.weights[self.weight.0].cols
    }
}

impl Operation for ExpertMatmul {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), self.routes]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn matrix(&self) -> Option<WeightId> {
        Some(self.weight)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (w, x, experts) = (shapes.weight(self.weight)?, &shapes.buffers[self.x.0], self.experts);
        let kind = w.format.activation_block().map_or(BufferKind::Float, BufferKind::Quantized);
        ensure!(x.kind == kind, "multiplies '{}' with '{}', which needs {kind:?} activations", x.name, w.name);
        let routes = self.routes.map_or(Ok(2 * experts), |routes| shapes.float(routes))?;
        ensure!(
            routes.is_multiple_of(2) && routes / 2 <= experts,
            "reads routes of {routes} elements to {experts} experts"
        );
        ensure!(experts > 0 && w.rows.is_multiple_of(experts), "shares {} rows among {experts} experts", w.rows);
        ensure!(
            [w.cols, w.cols * (routes / 2)].contains(&x.width),
            "multiplies rows of {} with {} columns",
            x.width,
            w.cols
        );
        same("matrix rows and an output", w.rows / experts * (routes / 2), shapes.float(self.out)?)?;
        self.bias.map_or(Ok(()), |bias| shapes.vector(bias, w.rows))
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, part: &Part) -> Call {
        let w = &shapes.weights[self.weight.0];
        let (used, rows, slots) = (self.used(shapes), self.rows(shapes), self.has_slots(shapes));
        let block = w.format.activation_block();
        // Integers of all slots are one row of blocks; plain numbers are a row for each slot.
        let per_slot = |yes: bool| u32::from(slots && yes);
        let x_width = shapes.width(self.x);
        let stride = block.map_or(w.cols, |b| quantize_activations::stride(x_width, b, shapes.precision));
        let term = block.unwrap_or(CHUNK);
        let p = Params {
            cols: if block.is_some() { x_width } else { w.cols } as u32,
            blocks: w.cols.div_ceil(term) as u32,
            block: term as u32,
            x_stride: stride as u32,
            expert_rows: rows as u32,
            used: used as u32,
            slot_rows: per_slot(block.is_none()),
            slot_blocks: per_slot(block.is_some()),
            streams: part.streams,
            rows: part.rows as u32,
            row_base: part.row_base as u32,
            first: part.first as u32,
            has_bias: u32::from(self.bias.is_some()),
            all: u32::from(self.routes.is_none()),
        };
        let read = Operand::Rows;
        let operands = vec![
            Operand::Matrix,
            Operand::Matrix,
            read(self.x),
            read(self.x),
            Operand::Vector(self.bias),
            self.routes.map_or(Operand::Vector(None), Operand::Rows),
            read(self.out),
        ];
        let groups = [p.used * p.expert_rows.div_ceil(ROWS), 1, 1];
        Call { format: Some(w.format), precise: self.is_precise(shapes), ..Call::new(&SHADER, &p, groups, operands) }
    }
}

impl Whole for ExpertMatmul {
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        let shapes = from.shapes();
        let (cols, used, rows) = (shapes.weights[self.weight.0].cols, self.used(&shapes), self.rows(&shapes));
        let (x, bias, slots) = (from.rows(self.x), from.vector(self.bias), self.has_slots(&shapes));
        let routes = self.routes.map(|routes| from.rows(routes));
        let mut out = Vec::new();
        for row in 0..x.len() / shapes.width(self.x) {
            for slot in 0..used {
                let expert = routes.map_or(slot, |routes| routes[row * 2 * used + slot] as usize);
                let x = &x[if slots { row * used + slot } else { row } * cols..][..cols];
                let product = |n| dot(&from.weight(self.weight, n), x) + bias.get(n).copied().unwrap_or_default();
                out.extend((expert * rows..(expert + 1) * rows).map(product));
            }
        }
        out
    }

    /// One row for all slots and one for each, routes and all experts, a bias and none.
    fn examples(floats: Floats<'_>) -> Vec<Example> {
        let mut all = Vec::new();
        for (i, format) in FORMATS.iter().enumerate() {
            for precision in [Precision::Fast, Precision::Precise] {
                all.extend(example(floats, format, precision, [i % 2 == 0, i % 3 != 0, i % 4 < 2]));
            }
        }
        all
    }
}

/// Two rows through three of five experts of 9 rows each, or through all.
fn example(
    floats: Floats<'_>,
    format: &'static Format,
    precision: Precision,
    [slots, routed, biased]: [bool; 3],
) -> Option<Example> {
    let (tokens, experts, rows, cols) = (2, 5, 9, columns(format, 2));
    let chosen: &[usize] = if routed { &[4, 0, 2] } else { &[0, 1, 2, 3, 4] };
    let used = chosen.len();
    let matrix = Matrix::random(floats, format, experts * rows, cols);
    let width = if slots { used * cols } else { cols };
    let a = Activations::new(floats(tokens * width), width, format, precision);
    let bias = if biased { floats(experts * rows) } else { Vec::new() };
    let mut expected = vec![0.0; tokens * used * rows];
    for (i, out) in expected.chunks_mut(1).enumerate() {
        let (row, slot, n) = (i / (used * rows), i / rows % used, i % rows);
        let (n, at) = (chosen[slot] * rows + n, row * width + if slots { slot * cols } else { 0 });
        matmul::cpu(format, matrix.row(n), &[a.row(at, cols)], bias.get(n).copied(), out);
    }
    let mut scene = Scene { precision, ..Scene::default() };
    let (weight, bias) = (scene.matrix(&matrix), if biased { scene.vector(&bias) } else { None });
    let x = scene.rows(width, a.kind(), a.words(precision));
    // Experts, then what they weigh.
    let route: Vec<f32> = chosen.iter().map(|e| *e as f32).chain(chosen.iter().map(|_| 1.0)).collect();
    let routes = routed.then(|| scene.floats(2 * used, &route.repeat(tokens)));
    let out = scene.floats(used * rows, &vec![0.0; expected.len()]);
    let shape = format!("[{tokens}, {width}] times {used} of {experts} [{rows}, {cols}]");
    let op = ExpertMatmul { weight, experts, bias, x, routes, out };
    scene.example(&op, [tokens, 0, 0], shape, (Operand::Rows(out), bits(&expected)))
}
