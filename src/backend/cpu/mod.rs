//! The CPU backend: the definition of every result's bits.

mod bandwidth;
mod cores;
mod experts;
mod isa;
mod memory;
mod panels;
mod pool;
mod products;
mod simd;
mod vector;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

pub use bandwidth::read_bandwidth;
pub use cores::{physical as physical_cores, usable as usable_processors};
pub use isa::Isa;
pub use pool::Pool;
pub(crate) use vector::vectorized;

use panels::{Panels, ROWS};
use pool::Disjoint;
use products::{repack, same_activations};

use super::kept::Kept;
use super::{Backend, BackendError, Batch, Interrupt, Lane, Limits, Listener, Sampled, Sampling, Sizes, StepTime};
use crate::host::Instant;
use crate::numerics::{ActivationRow, Precision};
use crate::ops::{self, Row};
use crate::plan::{BufferId, BufferKind, CacheSpec, Op, Plan, Step, WeightSource};

/// Memory of a plan's buffer.
#[derive(Debug)]
enum Storage {
    Float(Vec<f32>),
    Quantized { block: usize, hi: Plane, lo: Plane, scale: Vec<f32> },
}

/// Integers of quantised activations, with their sums over 16 and 32 elements, and the latter as floats, for the vector
/// paths.
#[derive(Debug, Default)]
struct Plane {
    q: Vec<i8>,
    sums: [Vec<i16>; 2],
    totals: Vec<f32>,
}

impl Plane {
    fn new(n: usize) -> Self {
        Self { q: vec![0; n], sums: [vec![0; n / 16], vec![0; n / 32]], totals: vec![0.0; n / 32] }
    }

    fn cells(&mut self) -> (Disjoint<i8>, [Disjoint<i16>; 2], Disjoint<f32>) {
        (Disjoint::new(&mut self.q), self.sums.each_mut().map(|s| Disjoint::new(s)), Disjoint::new(&mut self.totals))
    }
}

/// Keys and values as f16 bits, `[position, width]`, from position `first` on.
#[derive(Debug)]
struct Cache {
    k: Vec<u16>,
    v: Vec<u16>,
    /// A multiple of [`TILE`](crate::plan::TILE).
    first: usize,
    /// Whether keys are in tiles of 16 positions, for the vector paths.
    tiled: bool,
}

impl Cache {
    /// Makes room at the end: drops the positions before `first`.
    fn slide(&mut self, first: usize, width: usize) {
        if first > self.first {
            let dropped = (first - self.first) * width;
            for cache in [&mut self.k, &mut self.v] {
                let kept = dropped.min(cache.len())..;
                cache.copy_within(kept, 0);
            }
        }
        self.first = first;
    }

    /// Where a position's rows begin.
    fn at(&self, position: usize, width: usize) -> usize {
        (position - self.first) * width
    }
}

/// Where element `i` of a row of keys is in tiles: `[tile][element][row]`.
fn tiled(row: usize, i: usize, width: usize) -> usize {
    (row / ROWS * width + i) * ROWS + row % ROWS
}

thread_local! {
    /// A thread's scores; of its own, they stay in its caches.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs plans on the CPU.
pub struct Cpu {
    weights: Arc<dyn WeightSource>,
    plan: Plan,
    sizes: Sizes,
    pool: Pool,
    isa: Isa,
    memory: Memory,
    limits: Limits,
    kept: Kept,
    interrupt: Interrupt,
}

/// Everything a step reads and writes.
struct Memory {
    buffers: Vec<Storage>,
    caches: Vec<Cache>,
    vectors: Vec<Vec<f32>>,
    /// Matrices repacked for the path; `None` where the file's bytes are read.
    panels: Vec<Option<Panels>>,
    /// Rows of activations as plain numbers are multiplied with: rounded, padded to a multiple of 32.
    rounded: Vec<f32>,
    /// The same of integers, where they are multiplied in tiles.
    tiles: simd::Tiles,
    /// The same where they are not.
    ordered: simd::Ordered,
    /// Cosines and sines, by table of angles.
    angles: Vec<Vec<f32>>,
}

impl Cpu {
    /// Prepares a plan for `threads` threads and this processor's best isa.
    ///
    /// # Errors
    /// As [`Self::with_isa`].
    pub fn new(
        weights: &(impl WeightSource + Clone + 'static),
        plan: Plan,
        sizes: Sizes,
        threads: usize,
    ) -> Result<Self, BackendError> {
        Self::with_isa(weights, plan, sizes, threads, Isa::best())
    }

    /// Prepares a plan for `threads` threads. The backend keeps a clone of `weights`.
    ///
    /// # Errors
    /// If the plan cannot run, the processor lacks the path's instructions, or there is too little memory.
    pub fn with_isa(
        weights: &(impl WeightSource + Clone + 'static),
        mut plan: Plan,
        sizes: Sizes,
        threads: usize,
        isa: Isa,
    ) -> Result<Self, BackendError> {
        plan.check()?;
        sizes.fit(&mut plan);
        if !isa.is_available() {
            return Err(BackendError::Instructions { wanted: isa.name() });
        }
        memory::check(&plan, sizes, isa != Isa::Scalar)?;
        let mut pool = Pool::new(threads);
        let panels = repack(weights, &plan, isa, &mut pool);
        let buffers = plan
            .buffers
            .iter()
            .map(|b| {
                let n = sizes.rows(b) * b.width;
                match b.kind {
                    BufferKind::Float => Storage::Float(vec![0.0; n]),
                    BufferKind::Quantized(block) => Storage::Quantized {
                        block,
                        hi: Plane::new(n),
                        lo: if plan.precision == Precision::Precise { Plane::new(n) } else { Plane::default() },
                        scale: vec![0.0; n / block],
                    },
                }
            })
            .collect();
        let cache = |spec: &CacheSpec| {
            let empty = || vec![0; spec.kept(sizes.context).next_multiple_of(ROWS) * spec.width()];
            Cache { k: empty(), v: empty(), first: 0, tiled: isa != Isa::Scalar && spec.head_dim.is_multiple_of(ROWS) }
        };
        let vectors = plan
            .weights
            .iter()
            .map(|w| {
                let mut values = Vec::new();
                if w.rows == 1 {
                    values.resize(w.cols, 0.0);
                    w.format.dequantize(weights.data(w), &mut values);
                }
                values
            })
            .collect();
        let memory = Memory {
            buffers,
            caches: plan.caches.iter().map(cache).collect(),
            vectors,
            panels,
            rounded: Vec::new(),
            tiles: simd::Tiles::default(),
            ordered: simd::Ordered::default(),
            angles: plan.angles.iter().map(|angles| ops::rope::table(sizes.context, angles)).collect(),
        };
        let limits = sizes.limits(&plan);
        Ok(Self {
            weights: Arc::new(weights.clone()),
            plan,
            sizes,
            pool,
            isa,
            memory,
            limits,
            kept: Kept::default(),
            interrupt: Interrupt::default(),
        })
    }

    /// Runs a batch. `together` runs products of the same activations as one; `after` hears which steps were run, and
    /// for which rows.
    fn run<F>(&mut self, batch: &Batch<'_>, together: bool, mut after: F) -> Result<(), BackendError>
    where
        F: FnMut(&Self, &[Step], usize),
    {
        batch.is_for(&self.limits)?;
        self.kept.check(&self.plan.caches, batch.position())?;
        self.kept.write(batch.position(), batch.position() + batch.rows());
        for (cache, spec) in self.memory.caches.iter_mut().zip(&self.plan.caches) {
            cache.slide(self.kept.first(spec), spec.width());
        }
        let steps = std::mem::take(&mut self.plan.steps);
        let mut rest = &steps[..];
        let mut interrupted = Ok(());
        while let Some(step) = rest.first() {
            interrupted = self.interrupt.check();
            if interrupted.is_err() {
                break;
            }
            let group = if together { same_activations(&self.plan, rest) } else { &rest[..1] };
            rest = &rest[group.len()..];
            let rows = if self.plan.is_wanted(&step.op) { batch.wanted().len() } else { batch.rows() };
            if rows == 0 {
                continue;
            }
            match step.op {
                Op::Matmul(ops::Matmul { x, .. }) => self.matmuls(x, group, rows),
                _ => self.step(step, batch, rows),
            }
            after(self, group, rows);
        }
        self.plan.steps = steps;
        interrupted
    }

    fn step(&mut self, step: &Step, batch: &Batch<'_>, rows: usize) {
        let m = &mut self.memory;
        match step.op {
            Op::Embedding(ops::Embedding { weight, out }) => {
                let w = &self.plan.weights[weight.0];
                let (data, bytes) = (self.weights.data(w), w.format.row_bytes(w.cols));
                let out = m.float_mut(out);
                for (row, &id) in batch.ids().iter().enumerate() {
                    let id = id as usize;
                    ops::embedding::cpu(w.format, &data[id * bytes..][..bytes], &mut out[row * w.cols..][..w.cols]);
                }
            }
            Op::QuantizeActivations(ops::QuantizeActivations { x, out }) => self.quantize_activations(x, out, rows),
            Op::Matmul(ops::Matmul { x, .. }) => self.matmuls(x, std::slice::from_ref(step), rows),
            Op::KvStore(ops::KvStore { k, v, cache }) => {
                let width = self.plan.caches[cache.0].width();
                let n = rows * width;
                let [k, v] = [k, v].map(|b| match &m.buffers[b.0] {
                    Storage::Float(x) => &x[..n],
                    Storage::Quantized { .. } => &[],
                });
                let cache = &mut m.caches[cache.0];
                let to = cache.at(batch.position(), width);
                ops::kv_store::cpu(v, &mut cache.v[to..to + n]);
                if !cache.tiled {
                    ops::kv_store::cpu(k, &mut cache.k[to..to + n]);
                    return;
                }
                for (row, k) in (batch.position() - cache.first..).zip(k.chunks_exact(width)) {
                    for (i, &k) in k.iter().enumerate() {
                        cache.k[tiled(row, i, width)] = crate::numerics::f16_bits(k) as u16;
                    }
                }
            }
            Op::ExpertMatmul(ref op) => self.expert_products(op, rows),
            Op::Attention(ref op) => self.attention(op, batch.position(), rows),
            Op::Gather(ops::Gather { x, out }) => {
                let width = self.plan.buffers[x.0].width;
                let wanted: Vec<u32> = batch.wanted().map(|row| row as u32).collect();
                let mut result = m.take_float(out);
                ops::gather::cpu(width, &wanted, m.float(x), &mut result);
                m.put_float(out, result);
            }
            ref op => self.per_row(op, batch.position(), rows),
        }
    }

    /// Rows of an op that is computed row by row.
    fn per_row(&mut self, op: &Op, position: usize, rows: usize) {
        let (Some(facts), Some(out), shapes) = (op.per_row(), op.output(), self.plan.shapes()) else { return };
        let (m, isa, width) = (&mut self.memory, self.isa, shapes.width(out));
        let mut result = m.take_float(out);
        let m = &*m;
        // What is changed in place was taken: its rows are empty here, and the op has them in its output.
        let reads = facts.reads().map(|id| id.map_or((&[][..], 0), |id| (m.float(id), shapes.width(id))));
        let vector = facts.vector().map_or(&[][..], |id| &m.vectors[id.0]);
        let table = facts.angles().map(|id| (&m.angles[id.0], 2 * shapes.angles[id.0].frequencies.len()));
        self.pool.rows(&mut result, width, rows, |at, out| {
            let angles = table.map_or(&[][..], |(table, n)| &table[(position + at.start / width) * n..][..n]);
            let row = at.start / width;
            let reads = reads.map(|(x, width)| x.get(row * width..(row + 1) * width).unwrap_or_default());
            vector::row(isa, op, &shapes, Row { reads, vector, angles }, out);
        });
        self.memory.put_float(out, result);
    }

    fn quantize_activations(&mut self, x: BufferId, out: BufferId, rows: usize) {
        let width = self.plan.buffers[x.0].width;
        let (precision, isa) = (self.plan.precision, self.isa);
        let values = self.memory.take_float(x);
        if let Storage::Quantized { block, hi, lo, scale } = &mut self.memory.buffers[out.0] {
            let (block, both) = (*block, !lo.q.is_empty());
            let (planes, scale) = ([hi.cells(), lo.cells()], Disjoint::new(scale));
            self.pool.run(rows, |row| {
                let part = |n: usize| row * width / n..(row + 1) * width / n;
                let x = &values[part(1)];
                // SAFETY: each task has its own row.
                unsafe {
                    let low = if both { planes[1].0.slice(part(1)) } else { &mut [] };
                    let (hi, scale) = (planes[0].0.slice(part(1)), scale.slice(part(block)));
                    if isa == Isa::Scalar {
                        ops::quantize_activations::cpu(block, precision, x, hi, low, scale);
                    } else {
                        vector::quantize_activations(isa, block, precision, x, hi, low, scale);
                        for (q, sums, totals) in &planes[..if both { 2 } else { 1 }] {
                            let sums = [sums[0].slice(part(16)), sums[1].slice(part(32))];
                            vector::add_up(isa, q.slice(part(1)), sums, totals.slice(part(32)));
                        }
                    }
                }
            });
        }
        self.memory.put_float(x, values);
    }

    fn attention(&mut self, op: &ops::Attention, position: usize, rows: usize) {
        let p = &op.params(&self.plan.shapes(), self.sizes.context);
        let (heads, head_dim) = (p.heads as usize, p.head_dim as usize);
        let mut result = self.memory.take_float(op.out);
        let (memory, isa) = (&self.memory, self.isa);
        let (cache, width) = (&memory.caches[op.cache.0], self.plan.caches[op.cache.0].width());
        let sinks = op.scoring.sinks.map_or(&[][..], |id| &memory.vectors[id.0]);
        // Heads that share keys and values go together where tasks are left that keep all threads busy.
        let group = heads / p.kv_heads as usize;
        let busy = |tasks: usize| tasks >= 2 * self.pool.threads() || tasks.is_multiple_of(self.pool.threads());
        let fits = |n: &usize| cache.tiled && group.is_multiple_of(*n) && busy(rows * heads / n);
        let together = (1..=simd::HEADS).rev().find(fits).unwrap_or(1);
        // Scores, and a head's queries for the vector paths.
        let room = (self.sizes.context.next_multiple_of(ROWS) + head_dim) * together;
        let cells = Disjoint::new(&mut result);
        self.pool.run(rows * heads / together, |task| {
            let first = task * together;
            let (row, head) = (first / heads, first % heads);
            let at = (row * heads + head) * head_dim..(row * heads + head + together) * head_dim;
            // SAFETY: a task has its own heads of its own row.
            let out = unsafe { cells.slice(at.clone()) };
            let (count, q) = (position + row + 1, &memory.float(op.q)[at]);
            let seen = cache.at(p.first(count).1, width);
            let (k, v) = (&cache.k[seen..], &cache.v[seen..]);
            SCORES.with_borrow_mut(|scores| {
                scores.resize(scores.len().max(room), 0.0);
                if cache.tiled {
                    simd::attention(isa, p, head, count, q, k, v, sinks, scores, out);
                } else {
                    ops::attention::cpu(p, head, count, q, k, v, sinks, scores, out);
                }
            });
        });
        self.memory.put_float(op.out, result);
    }

    /// The words of a step's output (see [`Listener`]).
    fn output(&self, step: &Step, batch: &Batch<'_>, rows: usize) -> Vec<u32> {
        let m = &self.memory;
        if let Op::KvStore(ops::KvStore { cache: id, .. }) = step.op {
            let (cache, width) = (&m.caches[id.0], self.plan.caches[id.0].width());
            let first = batch.position() - cache.first;
            let rows = first..first + rows;
            let place = |row: usize, i: usize| if cache.tiled { tiled(row, i, width) } else { row * width + i };
            let k: Vec<u16> = rows
                .clone()
                .flat_map(|row| (0..width).map(move |i| (row, i)))
                .map(|(row, i)| cache.k[place(row, i)])
                .collect();
            let v = &cache.v[rows.start * width..rows.end * width];
            let pairs = |x: &[u16]| x.chunks(2).map(|p| u32::from(p[0]) | (u32::from(p[1]) << 16)).collect::<Vec<_>>();
            return [pairs(&k), pairs(v)].concat();
        }
        let Some(out) = step.op.output() else { return Vec::new() };
        let width = self.plan.buffers[out.0].width;
        match &m.buffers[out.0] {
            Storage::Float(x) => x[..rows * width].iter().map(|x| x.to_bits()).collect(),
            Storage::Quantized { block, hi, lo, scale } => {
                let scales = width / block;
                let stride = ops::quantize_activations::stride(width, *block, self.plan.precision);
                let mut words = Vec::with_capacity(rows * stride);
                for row in 0..rows {
                    for plane in [hi, lo] {
                        let row = plane.q.get(row * width..(row + 1) * width).unwrap_or_default();
                        words.extend(
                            row.chunks(4).map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]].map(|q| q as u8))),
                        );
                    }
                    words.extend(scale[row * scales..][..scales].iter().map(|s| s.to_bits()));
                    words.resize((row + 1) * stride, 0);
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

    /// Rows of quantised activations as the vector kernels read them.
    fn rows(&self, id: BufferId, rows: Range<usize>, cols: usize) -> simd::Rows<'_> {
        let Storage::Quantized { block, hi, lo, scale } = &self.buffers[id.0] else { return simd::Rows::default() };
        let part = |n: usize| rows.start * cols / n..rows.end * cols / n;
        let planes = [hi, lo].map(|p| simd::Plane {
            q: p.q.get(part(1)).unwrap_or_default(),
            sums: [p.sums[0].get(part(16)).unwrap_or_default(), p.sums[1].get(part(32)).unwrap_or_default()],
            totals: p.totals.get(part(32)).unwrap_or_default(),
        });
        simd::Rows { count: rows.len(), cols, planes, scale: &scale[part(*block)] }
    }

    /// Row `row` of a buffer of `cols` elements as a matrix product reads it.
    fn activations(&self, id: BufferId, row: usize, cols: usize) -> ActivationRow<'_> {
        let at = row * cols..(row + 1) * cols;
        match &self.buffers[id.0] {
            Storage::Float(x) => ActivationRow::Float(&x[at]),
            Storage::Quantized { block, hi, lo, scale } => ActivationRow::Quantized {
                scale: &scale[at.start / block..at.end / block],
                lo: if lo.q.is_empty() { None } else { Some(&lo.q[at.clone()]) },
                hi: &hi.q[at],
            },
        }
    }
}

impl Backend for Cpu {
    fn run(
        &mut self,
        lane: Lane,
        sampling: Sampling<'_>,
        _logits: bool,
        emit: &mut dyn FnMut(Sampled<'_>) -> bool,
    ) -> Result<(), BackendError> {
        super::run_by_batches(self, lane, sampling, emit)
    }

    fn forward(&mut self, batch: Batch<'_>, listener: Option<Listener<'_>>) -> Result<&[f32], BackendError> {
        let wanted = batch.wanted().len() * self.plan.vocabulary();
        match listener {
            None => self.run(&batch, true, |_, _, _| {})?,
            Some(listener) => self.run(&batch, false, |cpu, steps, rows| {
                steps.iter().for_each(|step| listener(step, &cpu.output(step, &batch, rows)));
            })?,
        }
        Ok(&self.memory.float(self.plan.logits)[..wanted])
    }

    fn profile(&mut self, batch: Batch<'_>) -> Result<Vec<StepTime>, BackendError> {
        let mut times = Vec::new();
        let mut start = Instant::now();
        self.run(&batch, true, |_, steps, _| {
            let time = start.elapsed();
            let names = steps.iter().map(|s| s.name.clone()).collect();
            let op = steps[0].op.name().to_owned();
            times.push(StepTime { op, steps: names, time, launches: Vec::new() });
            start = Instant::now();
        })?;
        Ok(times)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn resumes(&self, position: usize) -> bool {
        self.kept.resumes(&self.plan.caches, position)
    }

    fn stop_on(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> String {
        // Where there was no memory for panels, the file's bytes are read, which is much slower.
        let is_product = |s: &Step| matches!(s.op, Op::Matmul(_) | Op::ExpertMatmul(_));
        let slow = self.isa != Isa::Scalar
            && self.plan.steps.iter().any(is_product)
            && self.memory.panels.iter().all(Option::is_none);
        let slow = if slow { ", no memory to repack weights" } else { "" };
        format!("{} threads, {}{slow}", self.pool.threads(), self.isa.name())
    }
}
