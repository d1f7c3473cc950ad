//! The CPU backend: the definition of every result's bits.

mod pool;

use std::ops::Range;

pub use pool::Pool;

use super::{Backend, BackendError, Batch, Listener, Sizes};
use crate::model::Model;
use crate::numerics::{ActivationRow, Precision};
use crate::ops;
use crate::plan::{BufferId, BufferKind, Op, Plan, Step, WeightId};
use crate::quant::DOT_ROWS;

/// Weight rows per task of a matrix product.
const ROWS_PER_TASK: usize = 16;

/// Memory of a plan's buffer.
#[derive(Debug)]
enum Storage {
    Float(Vec<f32>),
    Quantized { block: usize, hi: Vec<i8>, lo: Vec<i8>, scale: Vec<f32> },
}

/// Keys and values of a layer as f16 bits, `[position][kv_width]`.
#[derive(Debug)]
struct Cache {
    k: Vec<u16>,
    v: Vec<u16>,
}

/// Runs plans on the CPU.
pub struct Cpu {
    model: Model,
    plan: Plan,
    sizes: Sizes,
    pool: Pool,
    memory: Memory,
}

/// Everything a step reads and writes.
struct Memory {
    buffers: Vec<Storage>,
    caches: Vec<Cache>,
    vectors: Vec<Vec<f32>>,
    rope: Vec<f32>,
    scores: Vec<f32>,
}

/// A pointer that tasks of a pool write disjoint elements through.
#[derive(Clone, Copy)]
struct Disjoint<T>(*mut T, usize);

// SAFETY: every use gives each task its own elements.
unsafe impl<T: Send> Send for Disjoint<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// # Safety
    /// No two live slices may overlap, and the slice that `self` was made from must outlive them.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.1);
        // SAFETY: in bounds; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

impl Cpu {
    /// Prepares a plan of `model` for `threads` threads.
    pub fn new(model: &Model, plan: Plan, sizes: Sizes, threads: usize) -> Self {
        let buffers = plan
            .buffers
            .iter()
            .enumerate()
            .map(|(i, b)| {
                let rows = if BufferId(i) == plan.logits { sizes.logits_rows } else { sizes.batch };
                let n = rows * b.width;
                match b.kind {
                    BufferKind::Float => Storage::Float(vec![0.0; n]),
                    BufferKind::Quantized(block) => Storage::Quantized {
                        block,
                        hi: vec![0; n],
                        lo: if plan.precision == Precision::Precise { vec![0; n] } else { Vec::new() },
                        scale: vec![0.0; n / block],
                    },
                }
            })
            .collect();
        let cache = || vec![0; sizes.context * plan.kv_width];
        let vectors = plan
            .weights
            .iter()
            .map(|w| {
                let mut values = Vec::new();
                if w.rows == 1 {
                    values.resize(w.cols, 0.0);
                    w.format.dequantize(model.data(w), &mut values);
                }
                values
            })
            .collect();
        let memory = Memory {
            buffers,
            caches: (0..plan.layers).map(|_| Cache { k: cache(), v: cache() }).collect(),
            vectors,
            rope: ops::rope::table(sizes.context, &plan.rope_frequencies),
            scores: Vec::new(),
        };
        Self { model: model.clone(), plan, sizes, pool: Pool::new(threads), memory }
    }

    fn step(&mut self, step: &Step, batch: &Batch<'_>, rows: Range<usize>) {
        let m = &mut self.memory;
        match step.op {
            Op::Embedding { weight, out } => {
                let w = &self.plan.weights[weight.0];
                let (data, bytes) = (self.model.data(w), w.format.row_bytes(w.cols));
                let out = m.float_mut(out);
                for row in rows {
                    let id = batch.ids[row] as usize;
                    ops::embedding::cpu(w.format, &data[id * bytes..][..bytes], &mut out[row * w.cols..][..w.cols]);
                }
            }
            Op::RmsNorm { x, weight, out, eps } => {
                let width = self.plan.buffers[x.0].width;
                let p = ops::rms_norm::Params::new(width, eps);
                let mut result = m.take_float(out);
                for row in rows {
                    let at = row * width..(row + 1) * width;
                    ops::rms_norm::cpu(&p, &m.float(x)[at.clone()], &m.vectors[weight.0], &mut result[at]);
                }
                m.put_float(out, result);
            }
            Op::QuantizeActivations { x, out } => self.quantize_activations(x, out, rows),
            Op::Matmul { weight, bias, x, out } => self.matmul(weight, bias, x, out, rows),
            Op::Rope { x, head_dim, pairs, neox } => {
                let width = self.plan.buffers[x.0].width;
                let p = ops::rope::Params {
                    width: width as u32,
                    head_dim: head_dim as u32,
                    pairs: pairs as u32,
                    neox: u32::from(neox),
                };
                let mut values = m.take_float(x);
                for row in rows {
                    let angles = &m.rope[(batch.position + row) * 2 * pairs..][..2 * pairs];
                    ops::rope::cpu(&p, angles, &mut values[row * width..][..width]);
                }
                m.put_float(x, values);
            }
            Op::KvStore { k, v, layer } => {
                let width = self.plan.kv_width;
                let (from, to) = (rows.start * width..rows.end * width, (batch.position + rows.start) * width);
                let n = from.len();
                let [k, v] = [k, v].map(|b| match &m.buffers[b.0] {
                    Storage::Float(x) => &x[from.clone()],
                    Storage::Quantized { .. } => &[],
                });
                ops::kv_store::cpu(k, &mut m.caches[layer].k[to..to + n]);
                ops::kv_store::cpu(v, &mut m.caches[layer].v[to..to + n]);
            }
            Op::Attention { q, out, layer, heads, kv_heads, head_dim } => {
                let p = ops::attention::Params::new(heads, kv_heads, head_dim, self.sizes.context);
                self.attention(&p, q, out, layer, batch.position, rows);
            }
            Op::SiluMul { a, b, out } => {
                let width = self.plan.buffers[out.0].width;
                let mut result = m.take_float(out);
                let at = rows.start * width..rows.end * width;
                ops::silu_mul::cpu(&m.float(a)[at.clone()], &m.float(b)[at.clone()], &mut result[at]);
                m.put_float(out, result);
            }
            Op::Add { x, b } => {
                let width = self.plan.buffers[x.0].width;
                let mut result = m.take_float(x);
                let at = rows.start * width..rows.end * width;
                ops::add::cpu(&mut result[at.clone()], &m.float(b)[at]);
                m.put_float(x, result);
            }
        }
    }

    fn quantize_activations(&mut self, x: BufferId, out: BufferId, rows: Range<usize>) {
        let width = self.plan.buffers[x.0].width;
        let precision = self.plan.precision;
        let values = self.memory.take_float(x);
        if let Storage::Quantized { block, hi, lo, scale } = &mut self.memory.buffers[out.0] {
            for row in rows {
                let at = row * width..(row + 1) * width;
                let scales = width / *block;
                let lo = if lo.is_empty() { &mut [][..] } else { &mut lo[at.clone()] };
                let scale = &mut scale[row * scales..][..scales];
                ops::quantize_activations::cpu(*block, precision, &values[at.clone()], &mut hi[at], lo, scale);
            }
        }
        self.memory.put_float(x, values);
    }

    fn matmul(&mut self, weight: WeightId, bias: Option<WeightId>, x: BufferId, out: BufferId, rows: Range<usize>) {
        let w = &self.plan.weights[weight.0];
        let (data, bytes) = (self.model.data(w), w.format.row_bytes(w.cols));
        // Logits are stored from row 0 on; everything else where the activations stand.
        let out_row = if out == self.plan.logits { 0 } else { rows.start };
        let mut result = self.memory.take_float(out);
        let memory = &self.memory;
        let cells = Disjoint::new(&mut result);
        let bias = bias.map(|b| &memory.vectors[b.0]);
        self.pool.run(w.rows.div_ceil(ROWS_PER_TASK), |task| {
            let weight_rows = task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(w.rows);
            for first in rows.clone().step_by(DOT_ROWS) {
                let count = DOT_ROWS.min(rows.end - first);
                let xs: [ActivationRow<'_>; DOT_ROWS] =
                    std::array::from_fn(|i| memory.activations(x, first + i.min(count - 1), w.cols));
                for n in weight_rows.clone() {
                    let mut y = [0.0; DOT_ROWS];
                    let raw = &data[n * bytes..][..bytes];
                    ops::matmul::cpu(w.format, raw, &xs[..count], bias.map(|b| b[n]), &mut y[..count]);
                    for (i, y) in y[..count].iter().enumerate() {
                        let at = (out_row + first - rows.start + i) * w.rows + n;
                        // SAFETY: column `n` belongs to this task alone.
                        let cell = unsafe { cells.slice(at..at + 1) };
                        cell[0] = *y;
                    }
                }
            }
        });
        self.memory.put_float(out, result);
    }

    fn attention(
        &mut self,
        p: &ops::attention::Params,
        q: BufferId,
        out: BufferId,
        layer: usize,
        position: usize,
        rows: Range<usize>,
    ) {
        let (heads, head_dim, context) = (p.heads as usize, p.head_dim as usize, self.sizes.context);
        let mut result = self.memory.take_float(out);
        let mut scores = std::mem::take(&mut self.memory.scores);
        let tasks = rows.len() * heads;
        scores.resize(scores.len().max(tasks * context), 0.0);
        let memory = &self.memory;
        let (cells, scratch) = (Disjoint::new(&mut result), Disjoint::new(&mut scores));
        self.pool.run(tasks, |task| {
            let (row, head) = (rows.start + task / heads, task % heads);
            let at = (row * heads + head) * head_dim..(row * heads + head + 1) * head_dim;
            // SAFETY: a task has its own head of its own row, and its own scores.
            let (out, scores) =
                unsafe { (cells.slice(at.clone()), scratch.slice(task * context..(task + 1) * context)) };
            let cache = &memory.caches[layer];
            ops::attention::cpu(p, head, position + row + 1, &memory.float(q)[at], &cache.k, &cache.v, scores, out);
        });
        self.memory.put_float(out, result);
        self.memory.scores = scores;
    }

    /// The words of a step's output (see [`Listener`]).
    fn output(&self, step: &Step, batch: &Batch<'_>, rows: Range<usize>) -> Vec<u32> {
        let m = &self.memory;
        if let Op::KvStore { layer, .. } = step.op {
            let at = (batch.position + rows.start) * self.plan.kv_width;
            let at = at..at + rows.len() * self.plan.kv_width;
            let pairs = |cache: &[u16]| -> Vec<u32> {
                cache[at.clone()].chunks(2).map(|p| u32::from(p[0]) | (u32::from(p[1]) << 16)).collect()
            };
            let cache = &m.caches[layer];
            return [pairs(&cache.k), pairs(&cache.v)].concat();
        }
        let Some(out) = step.op.output() else { return Vec::new() };
        let width = self.plan.buffers[out.0].width;
        let rows = if out == self.plan.logits { 0..rows.len() } else { rows };
        match &m.buffers[out.0] {
            Storage::Float(x) => x[rows.start * width..rows.end * width].iter().map(|x| x.to_bits()).collect(),
            Storage::Quantized { block, hi, lo, scale } => {
                let scales = width / block;
                let stride = ops::quantize_activations::stride(width, *block, self.plan.precision);
                let mut words = Vec::with_capacity(rows.len() * stride);
                for row in rows.clone() {
                    for plane in [hi, lo] {
                        let row = plane.get(row * width..(row + 1) * width).unwrap_or_default();
                        words.extend(
                            row.chunks(4).map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]].map(|q| q as u8))),
                        );
                    }
                    words.extend(scale[row * scales..][..scales].iter().map(|s| s.to_bits()));
                    words.resize((row + 1 - rows.start) * stride, 0);
                }
                words
            }
        }
    }
}

impl Memory {
    fn float(&self, id: BufferId) -> &[f32] {
        match &self.buffers[id.0] {
            Storage::Float(x) => x,
            Storage::Quantized { .. } => &[],
        }
    }

    fn float_mut(&mut self, id: BufferId) -> &mut [f32] {
        match &mut self.buffers[id.0] {
            Storage::Float(x) => x,
            Storage::Quantized { .. } => &mut [],
        }
    }

    /// Moves a buffer out while others are read.
    fn take_float(&mut self, id: BufferId) -> Vec<f32> {
        match &mut self.buffers[id.0] {
            Storage::Float(x) => std::mem::take(x),
            Storage::Quantized { .. } => Vec::new(),
        }
    }

    fn put_float(&mut self, id: BufferId, values: Vec<f32>) {
        self.buffers[id.0] = Storage::Float(values);
    }

    /// Row `row` of a buffer of `cols` elements as a matrix product reads it.
    fn activations(&self, id: BufferId, row: usize, cols: usize) -> ActivationRow<'_> {
        let at = row * cols..(row + 1) * cols;
        match &self.buffers[id.0] {
            Storage::Float(x) => ActivationRow::Float(&x[at]),
            Storage::Quantized { block, hi, lo, scale } => ActivationRow::Quantized {
                scale: &scale[at.start / block..at.end / block],
                lo: if lo.is_empty() { None } else { Some(&lo[at.clone()]) },
                hi: &hi[at],
            },
        }
    }
}

impl Backend for Cpu {
    fn forward(&mut self, batch: Batch<'_>, mut listener: Option<Listener<'_>>) -> Result<&[f32], BackendError> {
        super::check_ids(batch.ids, self.plan.vocabulary())?;
        let n = batch.ids.len();
        let (row0, rows) = batch.logits.range(n);
        let (body, head) = (std::mem::take(&mut self.plan.body), std::mem::take(&mut self.plan.head));
        for (steps, range) in [(&body, 0..n), (&head, row0..row0 + rows)] {
            if range.is_empty() {
                continue;
            }
            for step in steps {
                self.step(step, &batch, range.clone());
                if let Some(listener) = &mut listener {
                    listener(step, &self.output(step, &batch, range.clone()));
                }
            }
        }
        (self.plan.body, self.plan.head) = (body, head);
        Ok(&self.memory.float(self.plan.logits)[..rows * self.plan.vocabulary()])
    }

    fn batch_size(&self) -> usize {
        self.sizes.batch
    }

    fn context(&self) -> usize {
        self.sizes.context
    }

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> String {
        format!("{} threads", self.pool.threads())
    }
}
