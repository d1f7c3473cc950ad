//! Products of two operands, summed over the axes that both have and the result has not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid};
use super::view::View;
use crate::backend::cpu::{Isa, vectorized};
use crate::backend::gpu::Kernel;
use crate::numerics::{flush, s8, settle};
use crate::shaders::{TENSOR_CONTRACT as SHADER, params::TensorContract as Params};

/// Operands below this magnitude count as 0, so that no product or difference of two can be subnormal (2^-50).
pub(super) const FLOOR: f32 = f32::from_bits((127 - 50) << 23);
/// Rows and columns of a GPU's tile.
const TILE: usize = 64;
/// Columns that the CPU computes at once.
const PANEL: usize = 16;
/// Terms of a block.
const BLOCK: usize = 32;

/// `out[batch, m, n] = Σ a[batch, m, k] b[batch, n, k]`. The operands have their axes in this order, so many of each kind. Products are
/// summed by S8 in blocks of 32 and S8 over blocks, in the row-major order of the axes `k`.
#[derive(Debug)]
pub(super) struct Contract {
    pub name: &'static str,
    /// Axes that both operands and the result have, and those of only one.
    pub batch: usize,
    pub rows: usize,
    pub columns: usize,
}

/// The views of an operand: of its batches, of its rows, and of the terms of a row. All but the first begin at 0.
struct Parts {
    batch: View,
    rows: View,
    terms: View,
}

impl Parts {
    fn of(view: &View, batch: usize, rows: usize) -> Self {
        let axes: Vec<usize> = (0..view.shape.len()).collect();
        let part = |axes: &[usize]| View { offset: 0, ..view.part(axes) };
        let (first, rest) = axes.split_at(batch);
        let (rows, terms) = rest.split_at(rows);
        Self { batch: view.part(first), rows: part(rows), terms: part(terms) }
    }

    /// Where every row of every batch begins. Places of parts may lie before 0, and wrap.
    fn each(&self) -> impl Iterator<Item = usize> + '_ {
        self.batch.places().flat_map(|batch| self.rows.places().map(move |row| batch.wrapping_add(row)))
    }
}

impl Contract {
    fn parts(&self, a: &View, b: &View) -> [Parts; 2] {
        [Parts::of(a, self.batch, self.rows), Parts::of(b, self.batch, self.columns)]
    }
}

vectorized! {
    /// Columns of a row: `a` has its terms, `panel` those of each column behind each other; whole blocks.
    fn columns(a: &[f32], panel: &[f32], out: &mut [f32; PANEL]) {
        let mut outer = [[0.0f32; PANEL]; 8];
        let blocks = a.chunks_exact(BLOCK).zip(panel.chunks_exact(BLOCK * PANEL));
        for (block, (a, panel)) in blocks.enumerate() {
            let mut lanes = [[0.0f32; PANEL]; 8];
            for (l, lane) in lanes.iter_mut().enumerate() {
                for k in [l, l + 8, l + 16, l + 24] {
                    for (sum, b) in lane.iter_mut().zip(&panel[k * PANEL..(k + 1) * PANEL]) {
                        *sum += a[k] * b;
                    }
                }
            }
            for (c, sum) in outer[block % 8].iter_mut().enumerate() {
                *sum += s8::tree(&lanes.map(|lane| lane[c]));
            }
        }
        for (c, out) in out.iter_mut().enumerate() {
            *out = settle(s8::tree(&outer.map(|lane| lane[c])));
        }
    }
}

impl Primitive for Contract {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], domain: Domain<'_>) -> Result<(), Fault> {
        let (x, y) = (&inputs[0], &inputs[1]);
        let [a, b] = self.parts(x.view, y.view);
        let (m, n, k) = (a.rows.len(), b.rows.len(), a.terms.len());
        let padded = k.next_multiple_of(BLOCK);
        let number = |word: u32| flush(f32::from_bits(word), FLOOR);
        let mut rows = vec![0.0; a.batch.len() * m * padded];
        let places: Vec<usize> = a.terms.places().collect();
        for (row, base) in rows.chunks_exact_mut(padded.max(1)).zip(a.each()) {
            row.iter_mut().zip(&places).for_each(|(r, place)| *r = number(x.buffer[base.wrapping_add(*place)]));
        }
        // Panels of columns: the terms k of all columns of a panel are neighbours.
        let panels = n.div_ceil(PANEL);
        let mut columns_of = vec![0.0; b.batch.len() * panels * padded * PANEL];
        let places: Vec<usize> = b.terms.places().collect();
        for (i, base) in b.each().enumerate() {
            let (batch, column) = (i / n, i % n);
            let panel = &mut columns_of[(batch * panels + column / PANEL) * padded * PANEL..][..padded * PANEL];
            let panel = panel.iter_mut().skip(column % PANEL).step_by(PANEL);
            panel.zip(&places).for_each(|(p, place)| *p = number(y.buffer[base.wrapping_add(*place)]));
        }
        let Domain { pool, isa } = domain;
        // A task makes some rows of one batch; there are a few for each thread.
        let each = m.div_ceil((4 * pool.threads()).div_ceil(a.batch.len().max(1))).max(1);
        let tasks: Vec<_> = out
            .chunks_mut((m * n).max(1))
            .enumerate()
            .flat_map(|(batch, out)| {
                out.chunks_mut((each * n).max(1)).enumerate().map(move |(i, out)| (batch, i * each, Mutex::new(out)))
            })
            .collect();
        let finite = AtomicBool::new(true);
        pool.run(tasks.len(), |i| {
            let (batch, first, out) = &tasks[i];
            let Ok(mut out) = out.lock() else { return };
            let count = out.len() / n.max(1);
            for panel in 0..panels {
                let terms = &columns_of[(batch * panels + panel) * padded * PANEL..][..padded * PANEL];
                for row in 0..count {
                    let a = &rows[(batch * m + first + row) * padded..][..padded];
                    let mut sums = [0.0; PANEL];
                    columns(isa, a, terms, &mut sums);
                    let part = &mut out[row * n..(row + 1) * n][panel * PANEL..];
                    for (out, sum) in part.iter_mut().zip(sums) {
                        if !sum.is_finite() {
                            finite.store(false, Ordering::Relaxed);
                        }
                        *out = sum.to_bits();
                    }
                }
            }
        });
        if finite.into_inner() { Ok(()) } else { Err(Fault::NotFinite) }
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let (x, y) = (&inputs[0], &inputs[1]);
        let [a, b] = self.parts(x.view, y.view);
        let terms: Vec<_> = a.terms.places().zip(b.terms.places()).collect();
        let (m, n) = (a.rows.len(), b.rows.len());
        let columns: Vec<usize> = b.each().collect();
        for (i, (row, out)) in a.each().zip(out.chunks_mut(n.max(1))).enumerate() {
            for (out, column) in out.iter_mut().zip(&columns[i / m * n..]) {
                *out =
                    terms.iter().map(|(k, l)| x.buffer[row.wrapping_add(*k)] * y.buffer[column.wrapping_add(*l)]).sum();
            }
        }
        Ok(())
    }

    fn gpu(&self, inputs: &[&View], _: &[usize], slot: u32) -> Vec<Dispatch> {
        let [a, b] = self.parts(inputs[0], inputs[1]);
        let (batches, m, n, k) = (a.batch.len(), a.rows.len(), b.rows.len(), a.terms.len());
        let [params_batches, rows, columns, terms] = [batches, m, n, k].map(|n| n as u32);
        let params = Params { batches: params_batches, rows, columns, terms, slot };
        let views = [&a.batch, &a.rows, &a.terms, &b.batch, &b.rows, &b.terms];
        vec![Dispatch {
            kernel: Kernel::new(&SHADER),
            params: bytemuck::bytes_of(&params).to_vec(),
            groups: grid((batches * m.div_ceil(TILE) * n.div_ceil(TILE)) as u32),
            bindings: vec![
                Bound::Words(views.iter().flat_map(|view| view.words()).collect()),
                Bound::Faults,
                Bound::Input(0),
                Bound::Input(1),
                Bound::Out,
            ],
            rows: 1,
            position: 0,
        }]
    }
}
