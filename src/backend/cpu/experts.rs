//! Products with the matrices of the experts that each token chose. Rows that chose the same expert are multiplied together, so that its
//! weights are read and unpacked once for several of them.

use std::ops::Range;

use super::isa::Isa;
use super::panels::{Kind, Panels, ROWS};
use super::pool::{Disjoint, Pool};
use super::{Cpu, Memory, products, simd, vector};
use crate::numerics::{ActivationRow, Precision};
use crate::ops::{self, ExpertMatmul};
use crate::plan::Weight;
use crate::quant::DOT_ROWS;

impl Cpu {
    /// Rows of a step.
    pub(super) fn expert_products(&mut self, op: &ExpertMatmul, rows: usize) {
        let shapes = self.plan.shapes();
        let w = &self.plan.weights[op.weight.0];
        let (used, width, own) = (op.used(&shapes), op.rows(&shapes), op.has_slots(&shapes));
        let mut out = self.memory.take_float(op.out);
        let mut rounded = std::mem::take(&mut self.memory.rounded);
        let memory = &self.memory;
        // A panel holds rows of one expert only.
        let panels = memory.panels[op.weight.0].as_ref().filter(|_| width.is_multiple_of(ROWS));
        let x_rows = if own { rows * used } else { rows };
        let floats = match panels {
            Some(_) => products::prepared(
                self.isa,
                &memory.buffers[op.x.0],
                (w.cols, x_rows),
                w.format.bytes == 2,
                &mut rounded,
            ),
            None => Vec::new(),
        };
        let step = Step {
            isa: self.isa,
            precise: self.plan.precision == Precision::Precise,
            memory,
            op,
            w,
            data: self.weights.data(w),
            width,
            bias: op.bias.map_or(&[][..], |b| &memory.vectors[b.0]),
            panels,
            floats,
            x_rows,
            cells: Disjoint::new(&mut out),
        };
        let mut groups = step.groups(rows, used, own);
        step.gather(&mut groups, &mut self.pool);
        step.run(&groups, &mut self.pool);
        self.memory.rounded = rounded;
        self.memory.put_float(op.out, out);
    }
}

/// The slots that chose one expert.
struct Group {
    expert: usize,
    /// `row * used + slot`, ascending.
    slots: Vec<usize>,
    /// The rows of activations of these slots.
    x_rows: Vec<usize>,
    gathered: Gathered,
}

/// Quantised activations of a group, as its kernel reads them.
enum Gathered {
    /// Nothing is gathered: a single row, or plain numbers.
    Not,
    Ordered(simd::Ordered),
    Tiles(simd::Tiles),
}

/// A step, and what its products read and write.
struct Step<'a> {
    isa: Isa,
    precise: bool,
    memory: &'a Memory,
    op: &'a ExpertMatmul,
    w: &'a Weight,
    data: &'a [u8],
    /// Rows of an expert's matrix.
    width: usize,
    bias: &'a [f32],
    panels: Option<&'a Panels>,
    /// Rows of activations that are plain numbers.
    floats: Vec<&'a [f32]>,
    /// How many rows of activations there are.
    x_rows: usize,
    /// The results, `[row, slot, width]`.
    cells: Disjoint<f32>,
}

impl Step<'_> {
    /// The slots of `rows` rows by expert; experts that nobody chose have no group.
    fn groups(&self, rows: usize, used: usize, own: bool) -> Vec<Group> {
        let routes = self.op.routes.map(|routes| self.memory.float(routes));
        let mut by_expert = vec![Vec::new(); self.op.experts];
        for slot in 0..rows * used {
            let (row, number) = (slot / used, slot % used);
            // A number that `Route` wrote.
            let expert = routes.map_or(number, |routes| routes[row * 2 * used + number] as usize);
            by_expert[expert.min(self.op.experts - 1)].push(slot);
        }
        let chosen = by_expert.into_iter().enumerate().filter(|(_, slots)| !slots.is_empty());
        let group = |(expert, slots): (usize, Vec<usize>)| {
            let x_rows = slots.iter().map(|slot| if own { *slot } else { slot / used }).collect();
            Group { expert, slots, x_rows, gathered: Gathered::Not }
        };
        chosen.map(group).collect()
    }

    /// Puts the activations of each group in order, where it has several.
    fn gather(&self, groups: &mut [Group], pool: &mut Pool) {
        let xs = self.memory.rows(self.op.x, 0..self.x_rows, self.w.cols);
        if self.panels.is_none() || xs.count == 0 || groups.iter().all(|group| group.slots.len() == 1) {
            return;
        }
        let count = groups.len();
        let cells = Disjoint::new(groups);
        pool.run(count, |i| {
            // SAFETY: each task has its own group.
            let Some(group) = (unsafe { cells.get(i) }) else { return };
            let in_tiles = self.isa == Isa::Amx && !self.precise && simd::Tiles::pay(group.slots.len());
            group.gathered = match group.x_rows[..] {
                [_] => Gathered::Not,
                ref rows if in_tiles => Gathered::Tiles(simd::Tiles::of(&xs, rows)),
                ref rows => Gathered::Ordered(simd::Ordered::of(&xs, rows)),
            };
        });
    }

    /// Computes all groups: a task has some panels of an expert, and all rows that chose it.
    fn run(&self, groups: &[Group], pool: &mut Pool) {
        let parts = self.width.div_ceil(ROWS);
        let mut tasks = Vec::new();
        for group in groups {
            // Few rows of activations meet several panels at once.
            let step = if self.panels.is_some() { simd::panels(group.slots.len()) } else { 1 };
            tasks.extend((0..parts).step_by(step).map(|part| (group, part..(part + step).min(parts))));
        }
        pool.run(tasks.len(), |task| {
            let (group, part) = &tasks[task];
            match self.panels {
                // SAFETY: a task has its own columns of its own slots.
                Some(panels) => unsafe { self.by_panels(panels, group, part) },
                // SAFETY: as above.
                None => unsafe { self.by_rows(group, part.start) },
            }
        });
    }

    /// The products of a group with some panels of its expert.
    ///
    /// # Safety
    /// No other thread may use these columns of the group's slots.
    unsafe fn by_panels(&self, panels: &Panels, group: &Group, part: &Range<usize>) {
        let first = group.expert * self.width / ROWS;
        let some = first + part.start..first + part.end;
        let store = |panel: usize, row: usize, y: &[[f32; ROWS]]| {
            let column = (panel - first) * ROWS;
            let bias = self.bias.get(panel * ROWS..(panel + 1) * ROWS).unwrap_or_default();
            for (slot, y) in group.slots[row..].iter().zip(y) {
                // SAFETY: the caller's.
                let cells = unsafe { self.cells.slice(slot * self.width + column..slot * self.width + column + ROWS) };
                vector::store(self.isa, y, bias, cells);
            }
        };
        if let Gathered::Tiles(tiles) = &group.gathered {
            return some.for_each(|panel| simd::product(panels, panel, tiles, |row, y| store(panel, row, y)));
        }
        let mut y = [[0.0; ROWS]; simd::TOKENS];
        for tile in (0..group.slots.len()).step_by(simd::TOKENS) {
            let rows = &group.x_rows[tile..(tile + simd::TOKENS).min(group.slots.len())];
            match (panels.kind, &group.gathered) {
                (Kind::Float { .. }, _) => {
                    let xs: Vec<_> = rows.iter().map(|row| self.floats[*row]).collect();
                    simd::floats(self.isa, panels, some.clone(), &xs, &mut y);
                }
                (_, Gathered::Ordered(all)) => {
                    simd::blocks(self.isa, panels, some.clone(), &all.rows().tile(tile), self.precise, &mut y);
                }
                _ => {
                    let xs = self.memory.rows(self.op.x, rows[0]..rows[0] + 1, self.w.cols);
                    simd::blocks(self.isa, panels, some.clone(), &xs, self.precise, &mut y);
                }
            }
            some.clone().zip(y.chunks(rows.len())).for_each(|(panel, y)| store(panel, tile, y));
        }
    }

    /// The definition: up to [`ROWS`] rows of an expert's matrix from the file's bytes, times the group's activations.
    ///
    /// # Safety
    /// No other thread may use these columns of the group's slots.
    unsafe fn by_rows(&self, group: &Group, part: usize) {
        let bytes = self.w.format.row_bytes(self.w.cols);
        for (slots, x_rows) in group.slots.chunks(DOT_ROWS).zip(group.x_rows.chunks(DOT_ROWS)) {
            let row = |i: usize| self.memory.activations(self.op.x, x_rows[i.min(x_rows.len() - 1)], self.w.cols);
            let xs: [ActivationRow<'_>; DOT_ROWS] = std::array::from_fn(row);
            for column in part * ROWS..((part + 1) * ROWS).min(self.width) {
                let n = group.expert * self.width + column;
                let mut y = [0.0; DOT_ROWS];
                let (raw, y) = (&self.data[n * bytes..][..bytes], &mut y[..slots.len()]);
                ops::matmul::cpu(self.w.format, raw, &xs[..slots.len()], self.bias.get(n).copied(), y);
                for (slot, y) in slots.iter().zip(y) {
                    let at = slot * self.width + column;
                    // SAFETY: the caller's.
                    let cell = unsafe { self.cells.slice(at..at + 1) };
                    cell[0] = *y;
                }
            }
        }
    }
}
