//! Matrix products: the share of each thread, and the kernel that takes it.

use std::ops::Range;

use super::isa::Isa;
use super::panels::{self, Kind, Matrix, Panels, ROWS};
use super::pool::{Disjoint, Pool};
use super::{Cpu, Memory, Storage, simd, vector};
use crate::numerics::{ActivationRow, Precision};
use crate::ops;
use crate::plan::{BufferId, Op, Plan, Step, WeightId, WeightSource};
use crate::quant::{CHUNK, DOT_ROWS, Format};

/// Weight rows per task of a scalar matrix product.
const ROWS_PER_TASK: usize = 16;

impl Cpu {
    /// Products of the same activations with one or more matrices.
    pub(super) fn matmuls(&mut self, x: BufferId, products: &[Step], rows: usize) {
        let mut results = Vec::with_capacity(products.len());
        for step in products {
            let Op::Matmul(ops::Matmul { weight, bias, out, .. }) = step.op else { continue };
            let w = &self.plan.weights[weight.0];
            results.push(Product { weight, bias, out, width: w.rows, y: self.memory.take_float(out) });
        }
        let cols = self.plan.buffers[x.0].width;
        if results.iter().all(|p| self.memory.panels[p.weight.0].is_some()) {
            self.panel_products(x, cols, rows, &mut results);
            results.into_iter().for_each(|p| self.memory.put_float(p.out, p.y));
            return;
        }
        for mut product in results {
            let w = &self.plan.weights[product.weight.0];
            let data = self.weights.data(w);
            scalar_products(&mut self.pool, &self.memory, w.format, data, (x, cols, rows), &mut product);
            self.memory.put_float(product.out, product.y);
        }
    }

    fn panel_products(&mut self, x: BufferId, cols: usize, rows: usize, products: &mut [Product]) {
        let mut rounded = std::mem::take(&mut self.memory.rounded);
        let mut tiles = std::mem::take(&mut self.memory.tiles);
        let mut ordered = std::mem::take(&mut self.memory.ordered);
        let memory = &self.memory;
        // Every matrix that reads plain numbers has the same kind of them, or its own step.
        let exact = products.first().is_some_and(|p| self.plan.weights[p.weight.0].format.bytes == 2);
        let floats = prepared(self.isa, &memory.buffers[x.0], (cols, rows), exact, &mut rounded);
        let mut quantized = memory.rows(x, 0..rows, cols);
        let (isa, precise) = (self.isa, self.plan.precision == Precision::Precise);
        let in_tiles = isa == Isa::Amx && !precise && quantized.count > 0 && simd::Tiles::pay(rows);
        if in_tiles {
            tiles.fill(&quantized, &mut self.pool);
        } else if quantized.count > 1 {
            quantized = ordered.fill(&quantized, &mut self.pool);
        }
        // Few rows of activations meet several panels at once.
        let step = simd::panels(rows);
        let parts: Vec<_> = products
            .iter_mut()
            .filter_map(|p| {
                let panels = memory.panels[p.weight.0].as_ref()?;
                let bias = p.bias.map_or(&[][..], |b| &memory.vectors[b.0]);
                Some(Part { isa, panels, bias, cells: Disjoint::new(&mut p.y) })
            })
            .collect();
        let tasks = shares(parts.iter().map(|p| p.panels.count()), step, self.pool.threads());
        self.pool.run(tasks.len(), |task| {
            let (part, range) = &tasks[task];
            let part = &parts[*part];
            let mut y = [[0.0; ROWS]; simd::TOKENS];
            for first in range.clone().step_by(step) {
                // SAFETY: the columns of a panel belong to this task alone.
                let store = |panel, row, y: &[[f32; ROWS]]| unsafe { part.store(panel, row, y) };
                if in_tiles {
                    simd::product(part.panels, first, &tiles, |row, y| store(first, row, y));
                    continue;
                }
                let some = first..(first + step).min(range.end);
                for tile in (0..rows).step_by(simd::TOKENS) {
                    let tokens = tile..(tile + simd::TOKENS).min(rows);
                    let count = tokens.len();
                    match part.panels.kind {
                        Kind::Blocks(_) => {
                            simd::blocks(isa, part.panels, some.clone(), &quantized.tile(tile), precise, &mut y)
                        }
                        Kind::Float { .. } => simd::floats(isa, part.panels, some.clone(), &floats[tokens], &mut y),
                    }
                    some.clone().zip(y.chunks(count)).for_each(|(panel, y)| store(panel, tile, y));
                }
            }
        });
        (self.memory.rounded, self.memory.tiles, self.memory.ordered) = (rounded, tiles, ordered);
    }
}

/// Rows of plain numbers as kernels take them: rounded where products with them are to be exact, and padded to whole chunks.
pub(super) fn prepared<'a>(
    isa: Isa,
    x: &Storage,
    (cols, rows): (usize, usize),
    exact: bool,
    memory: &'a mut Vec<f32>,
) -> Vec<&'a [f32]> {
    let Storage::Float(values) = x else { return Vec::new() };
    let padded = cols.next_multiple_of(CHUNK);
    memory.resize(memory.len().max(rows * padded), 0.0);
    for (row, out) in values.chunks_exact(cols).take(rows).zip(memory.chunks_exact_mut(padded)) {
        out[cols..].fill(0.0);
        vector::prepare(isa, row, exact, out);
    }
    memory.chunks_exact(padded).take(rows).collect()
}

/// A repacked matrix and where its products go.
struct Part<'a> {
    isa: Isa,
    panels: &'a Panels,
    bias: &'a [f32],
    cells: Disjoint<f32>,
}

impl Part<'_> {
    /// Stores the products of a panel with rows of activations from `row` on.
    ///
    /// # Safety
    /// No other thread may use these rows' columns of the panel.
    unsafe fn store(&self, panel: usize, row: usize, y: &[[f32; ROWS]]) {
        let width = self.panels.rows;
        let columns = panel * ROWS..((panel + 1) * ROWS).min(width);
        let bias = self.bias.get(columns.clone()).unwrap_or_default();
        for (i, y) in (row..).zip(y) {
            // SAFETY: the caller's.
            let cells = unsafe { self.cells.slice(i * width + columns.start..i * width + columns.end) };
            vector::store(self.isa, y, bias, cells);
        }
    }
}

/// Ranges of panels of several matrices as tasks, with the matrix of each: the first are large, so that memory is read
/// in long runs, the last are single steps, so that no thread is late.
fn shares(counts: impl Iterator<Item = usize> + Clone, step: usize, threads: usize) -> Vec<(usize, Range<usize>)> {
    let mut left: usize = counts.clone().sum();
    let mut tasks = Vec::new();
    for (matrix, count) in counts.enumerate() {
        let mut first = 0;
        while first < count {
            let wanted = (left / (2 * threads)).max(1).next_multiple_of(step);
            let end = (first + wanted).min(count);
            tasks.push((matrix, first..end));
            left -= end - first;
            first = end;
        }
    }
    tasks
}

/// A matrix product and where its results go.
struct Product {
    weight: WeightId,
    bias: Option<WeightId>,
    out: BufferId,
    width: usize,
    y: Vec<f32>,
}

/// The definition: every weight row from the file's bytes, times rows of the activations `x` of `cols` elements.
fn scalar_products(
    pool: &mut Pool,
    memory: &Memory,
    format: &Format,
    data: &[u8],
    (x, cols, rows): (BufferId, usize, usize),
    product: &mut Product,
) {
    let bytes = format.row_bytes(cols);
    let width = product.width;
    let cells = Disjoint::new(&mut product.y);
    let bias = product.bias.map(|b| &memory.vectors[b.0]);
    pool.run(width.div_ceil(ROWS_PER_TASK), |task| {
        for first in (0..rows).step_by(DOT_ROWS) {
            let count = DOT_ROWS.min(rows - first);
            let row = |i: usize| memory.activations(x, first + i.min(count - 1), cols);
            let xs: [ActivationRow<'_>; DOT_ROWS] = std::array::from_fn(row);
            for n in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(width) {
                let mut y = [0.0; DOT_ROWS];
                let raw = &data[n * bytes..][..bytes];
                ops::matmul::cpu(format, raw, &xs[..count], bias.map(|b| b[n]), &mut y[..count]);
                for (i, y) in y[..count].iter().enumerate() {
                    let at = (first + i) * width + n;
                    // SAFETY: column `n` belongs to this task alone.
                    let cell = unsafe { cells.slice(at..at + 1) };
                    cell[0] = *y;
                }
            }
        }
    });
}

/// The steps from the first on that multiply the same activations, in formats of the same kind.
pub(super) fn same_activations<'a>(plan: &Plan, steps: &'a [Step]) -> &'a [Step] {
    let key = |s: &Step| match s.op {
        Op::Matmul(ops::Matmul { x, weight, .. }) => Some((x, plan.weights[weight.0].format.bytes == 2)),
        _ => None,
    };
    let first = steps.first().and_then(key);
    let is_same = |s: &Step| first.is_some() && key(s) == first;
    // Products of one result would be written at once: the later one runs by itself.
    let again = |i: usize| steps[..i].iter().any(|earlier| earlier.op.output() == steps[i].op.output());
    let same = steps.iter().enumerate().take_while(|(i, s)| is_same(s) && !again(*i)).count();
    &steps[..same.max(1).min(steps.len())]
}

/// Panels of every matrix that is multiplied with, for the vector paths.
pub(super) fn repack(weights: &dyn WeightSource, plan: &Plan, isa: Isa, pool: &mut Pool) -> Vec<Option<Panels>> {
    let mut panels: Vec<_> = plan.weights.iter().map(|_| None).collect();
    if isa == Isa::Scalar {
        return panels;
    }
    let looked_up =
        |id| plan.steps.iter().any(|s| matches!(s.op, Op::Embedding(ops::Embedding { weight, .. }) if weight == id));
    let mut ids = Vec::new();
    for step in &plan.steps {
        if let Op::Matmul(ops::Matmul { weight, .. }) | Op::ExpertMatmul(ops::ExpertMatmul { weight, .. }) = step.op
            && !ids.contains(&weight)
        {
            ids.push(weight);
        }
    }
    let matrix = |id: &WeightId| {
        let w = &plan.weights[id.0];
        Matrix { format: w.format, raw: weights.data(w), rows: w.rows, cols: w.cols }
    };
    let matrices: Vec<_> = ids.iter().map(matrix).collect();
    let done = |i: usize| {
        if !looked_up(ids[i]) {
            weights.release(&plan.weights[ids[i].0]);
        }
    };
    // Without the memory the file's bytes are read, by the definition.
    for (id, packed) in ids.iter().zip(panels::repack(&matrices, pool, done).into_iter().flatten()) {
        panels[id.0] = Some(packed);
    }
    panels
}
