//! Products of two operands, summed over the axes that both have and the result has not.

use std::sync::{Mutex, OnceLock};

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid};
use super::view::View;
use crate::backend::cpu::{Isa, vectorized};
use crate::backend::gpu::Kernel;
use crate::numerics::{flush, settle};
use crate::shaders::{TENSOR_CONTRACT as SHADER, params::TensorContract as Params};

/// Operands below this magnitude count as 0, so that no product or difference of two can be subnormal (2^-50).
pub(super) const FLOOR: f32 = f32::from_bits((127 - 50) << 23);
/// Rows and columns of a GPU's tile.
const TILE: usize = 64;
/// Rows and columns that the CPU computes at once.
const ROWS: usize = 4;
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

/// Sums of some rows and the columns of a panel.
type Sums = [[f32; PANEL]; ROWS];

#[inline(always)]
fn plus(mut a: Sums, b: Sums) -> Sums {
    for (a, b) in a.iter_mut().zip(b) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
    a
}

/// The tree of S8 over lanes, which are made in the order in which it takes them, so that few wait for their partners. A closure
/// would not be compiled for the instructions of its caller.
macro_rules! tree {
    ($l:ident => $lane:expr) => {{
        macro_rules! lane {
            ($n:literal) => {{
                let $l: usize = $n;
                $lane
            }};
        }
        let even = plus(plus(lane!(0), lane!(4)), plus(lane!(2), lane!(6)));
        plus(even, plus(plus(lane!(1), lane!(5)), plus(lane!(3), lane!(7))))
    }};
}

/// The terms `l`, `l + 8`, … of a block, added up.
#[inline(always)]
fn lane(rows: &[&[f32; BLOCK]; ROWS], panel: &[[f32; PANEL]; BLOCK], l: usize) -> Sums {
    let mut sums = [[0.0; PANEL]; ROWS];
    for k in [l, l + 8, l + 16, l + 24] {
        for (sums, row) in sums.iter_mut().zip(rows) {
            for (sum, b) in sums.iter_mut().zip(&panel[k]) {
                *sum += row[k] * b;
            }
        }
    }
    sums
}

vectorized! {
    /// Sums of rows and a panel's columns: a row has its terms, the panel those of all its columns behind each other; whole blocks.
    fn products(rows: [&[f32]; ROWS], panel: &[f32], out: &mut Sums) {
        let mut lanes = [[[0.0; PANEL]; ROWS]; 8];
        let rows = rows.map(|row| row.as_chunks::<BLOCK>().0);
        let panels = panel.as_chunks::<PANEL>().0.as_chunks::<BLOCK>().0;
        for (block, panel) in panels.iter().enumerate() {
            let rows = rows.map(|row| &row[block]);
            lanes[block % 8] = plus(lanes[block % 8], tree!(l => lane(&rows, panel, l)));
        }
        *out = tree!(l => lanes[l]);
        for sum in out.as_flattened_mut() {
            *sum = settle(*sum);
        }
    }
}

/// What the products of a batch read: its rows, and its columns in panels.
struct Packed {
    rows: Vec<f32>,
    panels: Vec<f32>,
}

impl Primitive for Contract {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], domain: Domain<'_>) -> Result<(), Fault> {
        let (x, y) = (&inputs[0], &inputs[1]);
        let [a, b] = self.parts(x.view, y.view);
        let (m, n, k) = (a.rows.len(), b.rows.len(), a.terms.len());
        // Without terms there are blocks of zeros.
        let padded = k.next_multiple_of(BLOCK).max(BLOCK);
        let number = |word: u32| flush(f32::from_bits(word), FLOOR);
        let [a_terms, b_terms] = [&a, &b].map(|parts| parts.terms.places().collect::<Vec<_>>());
        let panels = n.div_ceil(PANEL);
        // Places of parts may lie before 0, and wrap.
        let pack = |a_base: usize, b_base: usize| {
            let mut rows = vec![0.0; m * padded];
            for (row, place) in rows.chunks_exact_mut(padded).zip(a.rows.places()) {
                let base = a_base.wrapping_add(place);
                let terms = row.iter_mut().zip(&a_terms);
                terms.for_each(|(term, place)| *term = number(x.buffer[base.wrapping_add(*place)]));
            }
            let mut columns = vec![0.0; panels * padded * PANEL];
            for (column, place) in b.rows.places().enumerate() {
                let base = b_base.wrapping_add(place);
                let panel = &mut columns[column / PANEL * padded * PANEL..][..padded * PANEL];
                let terms = panel.iter_mut().skip(column % PANEL).step_by(PANEL).zip(&b_terms);
                terms.for_each(|(term, place)| *term = number(y.buffer[base.wrapping_add(*place)]));
            }
            Packed { rows, panels: columns }
        };
        let bases: Vec<_> = a.batch.places().zip(b.batch.places()).collect();
        let Domain { pool, isa } = domain;
        let packed: Vec<OnceLock<Packed>> = bases.iter().map(|_| OnceLock::new()).collect();
        pool.run(bases.len(), |i| {
            packed[i].get_or_init(|| pack(bases[i].0, bases[i].1));
        });
        // A task makes some rows of one batch; there are a few for each thread.
        let each = m.div_ceil((4 * pool.threads()).div_ceil(bases.len())).next_multiple_of(ROWS);
        let parts =
            |(batch, out)| <[u32]>::chunks_mut(out, each * n).enumerate().map(move |(i, out)| (batch, i * each, out));
        let tasks: Vec<_> = out.chunks_mut(m * n).enumerate().flat_map(parts).map(Mutex::new).collect();
        pool.run(tasks.len(), |i| {
            let Ok(mut task) = tasks[i].lock() else { return };
            let (batch, first, out) = &mut *task;
            let Some(packed) = packed[*batch].get() else { return };
            for (i, out) in out.chunks_mut(ROWS * n).enumerate() {
                let (at, last) = (*first + i * ROWS, out.len() / n - 1);
                let rows = std::array::from_fn(|r| &packed.rows[(at + r.min(last)) * padded..][..padded]);
                for (panel, terms) in packed.panels.chunks_exact(padded * PANEL).enumerate() {
                    let mut sums = [[0.0; PANEL]; ROWS];
                    products(isa, rows, terms, &mut sums);
                    for (out, sums) in out.chunks_mut(n).zip(sums) {
                        let columns = out[panel * PANEL..].iter_mut();
                        columns.zip(sums).for_each(|(out, sum)| *out = sum.to_bits());
                    }
                }
            }
        });
        Ok(())
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
        // One stride leads through all rows, or all terms, where they are one axis.
        let axes = [&a.rows, &a.terms, &b.rows, &b.terms].map(View::folded);
        let [a_row, a_term, b_row, b_term] =
            [0, 1, 2, 3].map(|i: usize| axes[i].first().map_or(0, |(_, stride)| *stride as u32));
        let general = axes.iter().any(|axes| axes.len() > 1);
        let params = Params { batches: params_batches, rows, columns, terms, a_row, a_term, b_row, b_term, slot };
        // Lanes of S8 that get no block change nothing; a kernel without them has more registers for others.
        let lanes = k.div_ceil(BLOCK).next_power_of_two().min(8) as u32;
        let kernel = Kernel::new(&SHADER).with("LANES", lanes);
        let views = [&a.batch, &a.rows, &a.terms, &b.batch, &b.rows, &b.terms];
        vec![Dispatch {
            kernel: if general { kernel.with("GENERAL", 1) } else { kernel },
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
