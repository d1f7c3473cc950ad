//! Steps to dispatches: which kernel, with which parameters and buffers.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::bytes_of;

use super::device::Device;
use super::matrix::Halves;
use super::pipelines::{self, Kernel, Pipeline};
use super::tiled::{self, Quantize};
use super::weights::Shard;
use crate::backend::{BackendError, Sizes};
use crate::numerics::Precision;
use crate::ops;
use crate::plan::{BufferId, BufferKind, CacheId, CacheSpec, Op, Plan, Step, WeightId};

/// A recorded dispatch.
pub(super) struct Dispatch {
    /// The kernel and its format.
    pub name: String,
    pub pipeline: Arc<Pipeline>,
    pub bindings: wgpu::BindGroup,
    pub grid: Grid,
    /// What is bound: the parameters, and the storage buffers in the order of their bindings.
    pub params: Vec<u8>,
    pub buffers: Vec<wgpu::Buffer>,
}

/// How many workgroups a dispatch has.
#[derive(Clone, Copy)]
pub(super) enum Grid {
    /// So many, and in the second dimension one for `each` rows of the batch.
    #[allow(missing_docs)]
    Rows { x: u32, each: u32 },
    /// Always the same.
    Fixed([u32; 2]),
    /// One for every 32 positions of the cache, and so many in the second dimension.
    Tiles(u32),
}

impl Grid {
    /// The workgroups for `rows` rows, the first of them at `position`.
    pub fn groups(self, position: usize, rows: usize) -> [u32; 2] {
        match self {
            Self::Rows { x, each } => [x, (rows as u32).div_ceil(each)],
            Self::Fixed(groups) => groups,
            Self::Tiles(y) => [position as u32 / 32 + 1, y],
        }
    }
}

impl Dispatch {
    /// Records it for `rows` rows, the first of them at `position`; `state` is the byte offset of their state.
    ///
    /// # Errors
    /// If its kernel was not compiled yet, and cannot be.
    pub fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        state: u32,
        position: usize,
        rows: usize,
    ) -> Result<(), BackendError> {
        pass.set_pipeline(self.pipeline.code()?);
        pass.set_bind_group(0, &self.bindings, &[state]);
        let [x, y] = self.grid.groups(position, rows);
        pass.dispatch_workgroups(x, y, 1);
        Ok(())
    }
}

/// Compiles what dispatches need, all at the same time, where that was not done yet.
pub(super) fn ready<'a>(dispatches: impl Iterator<Item = &'a Dispatch>) -> Result<(), BackendError> {
    pipelines::compile(dispatches.map(|d| &*d.pipeline), || Ok(()))
}

/// A step's dispatches.
pub(super) struct Lowered {
    pub step: Step,
    pub dispatches: Vec<Dispatch>,
    /// Those for many rows, where there are others.
    pub tiled: Vec<Dispatch>,
}

impl Lowered {
    /// The dispatches for so many rows.
    pub fn at(&self, rows: usize) -> &[Dispatch] {
        if rows < tiled::MIN_ROWS || self.tiled.is_empty() { &self.dispatches } else { &self.tiled }
    }
}

/// A weight on the GPU.
pub(super) enum Resident {
    /// A matrix in its format.
    Matrix(Vec<Shard>),
    /// A vector as f32.
    Vector(wgpu::Buffer),
}

/// All buffers of a plan on the GPU.
pub(super) struct Resources {
    pub sizes: Sizes,
    pub body_state: wgpu::Buffer,
    pub head_state: wgpu::Buffer,
    pub ids: wgpu::Buffer,
    pub buffers: Vec<wgpu::Buffer>,
    pub caches: Vec<[wgpu::Buffer; 2]>,
    /// Cosines and sines, by table of angles.
    pub angles: Vec<wgpu::Buffer>,
    /// For bindings that a kernel does not use.
    pub none: wgpu::Buffer,
    pub scores: wgpu::Buffer,
    pub halves: Halves,
    pub weights: Vec<Resident>,
    /// The values of vectors, by weight.
    pub vectors: HashMap<usize, Vec<f32>>,
}

impl Resources {
    /// Words of a cache's keys, then of its values, of `rows` positions from `position` on.
    pub fn cached(
        &self,
        device: &Device,
        plan: &Plan,
        cache: CacheId,
        position: usize,
        rows: usize,
    ) -> Result<Vec<u32>, BackendError> {
        let kv_width = plan.caches[cache.0].width();
        let word = |position, pair| ops::kv_store::cache_word(position, 2 * pair, kv_width);
        // Whole tiles are read.
        let first = position / 32 * 32;
        let start = word(first, 0);
        let words = ops::kv_store::cache_words(position + rows - first, kv_width);
        let mut out = Vec::new();
        for cache in &self.caches[cache.0] {
            let tiles = device.read(cache, 4 * start as u64, words)?;
            for p in position..position + rows {
                out.extend((0..kv_width / 2).map(|pair| tiles[word(p, pair) - start]));
            }
        }
        Ok(out)
    }
}

/// Makes dispatches of steps.
pub(super) struct Lowering<'a> {
    pub device: &'a mut Device,
    pub plan: &'a Plan,
    pub resources: &'a Resources,
}

/// What runs many rows: steps as they are, or one kernel for several.
pub(super) enum Group {
    /// The step at this place.
    Step(usize),
    /// So many steps from this place on.
    #[allow(missing_docs)]
    Together { first: usize, steps: usize, dispatch: Dispatch },
}

impl Lowering<'_> {
    /// The groups of the body's steps for many rows.
    pub fn groups(&mut self) -> Result<Vec<Group>, BackendError> {
        let (r, steps) = (self.resources, &self.plan.body);
        let state = &r.body_state;
        let mut groups = Vec::new();
        let mut at = 0;
        while at < steps.len() {
            let found = Quantize::find(self.plan, at);
            let dispatch = found.as_ref().map(|f| self.quantize(f, state)).transpose()?.flatten();
            let (Some(Quantize { steps, .. }), Some(dispatch)) = (found, dispatch) else {
                groups.push(Group::Step(at));
                at += 1;
                continue;
            };
            groups.push(Group::Together { first: at, steps, dispatch });
            at += steps;
        }
        Ok(groups)
    }

    /// The dispatch of a quantisation of many rows and what comes before it; `None` where the device has too little memory.
    fn quantize(&mut self, q: &Quantize, state: &wgpu::Buffer) -> Result<Option<Dispatch>, BackendError> {
        let r = self.resources;
        let buffer = |b: BufferId| &r.buffers[b.0];
        let halves = r.halves.activations(q.out);
        let Some((kernel, p)) = q.kernel(self.device, self.plan, halves.map(|h| h.1)) else { return Ok(None) };
        let y = q.residual.or(q.gate).map_or(&r.none, buffer);
        let norm = q.norm.map_or(&r.none, |n| vector(r, n.0));
        let halves = halves.map_or(r.halves.none(), |h| h.0);
        let buffers = [buffer(q.x), y, norm, buffer(q.out), halves];
        let grid = Grid::Rows { x: 1, each: 1 };
        dispatch(self.device, kernel, state, bytes_of(&p), grid, &buffers).map(Some)
    }

    /// The dispatches of a step; `head` tells which state it reads.
    pub fn lower(&mut self, step: &Step, head: bool) -> Result<Lowered, BackendError> {
        let (plan, r) = (self.plan, self.resources);
        let state = if head { &r.head_state } else { &r.body_state };
        let width = |b: BufferId| plan.buffers[b.0].width;
        let buffer = |b: BufferId| &r.buffers[b.0];
        let (mut dispatches, mut many) = (Vec::new(), Vec::new());
        let plain = Kernel::new;
        let device = &mut *self.device;
        let mut one =
            |device: &mut Device, kernel: Kernel, params: &[u8], groups: [u32; 3], buffers: &[&wgpu::Buffer]| {
                let grid = Grid::Rows { x: groups[0], each: 1 };
                dispatches.push(dispatch(device, kernel, state, params, grid, buffers)?);
                Ok::<_, BackendError>(())
            };
        match step.op {
            Op::Embedding { weight, out } => {
                let w = &plan.weights[weight.0];
                for shard in shards(r, weight) {
                    let p = ops::embedding::Params::new(w.format, w.cols, shard.row_base, shard.rows, shard.streams);
                    let kernel = Kernel::new(&ops::embedding::SHADER).format(w.format);
                    let buffers = [&shard.buffer, &shard.buffer, &r.ids, buffer(out)];
                    one(device, kernel, bytes_of(&p), ops::embedding::workgroups(&p, 1), &buffers)?;
                }
            }
            Op::RmsNorm { x, weight, out, eps } => {
                let p = ops::rms_norm::Params::new(width(x), eps);
                let groups = ops::rms_norm::workgroups(&p, 1);
                let buffers = [buffer(x), vector(r, weight), buffer(out)];
                one(device, plain(&ops::rms_norm::SHADER), bytes_of(&p), groups, &buffers)?;
            }
            Op::QuantizeActivations { x, out } => {
                let BufferKind::Quantized(block) = plan.buffers[out.0].kind else { return Ok(none(step)) };
                let p = ops::quantize_activations::Params::new(width(x), block, plan.precision);
                let precise = plan.precision == Precision::Precise;
                let kernel = Kernel::new(&ops::quantize_activations::SHADER).precise(precise);
                let groups = ops::quantize_activations::workgroups(&p, 1);
                one(device, kernel, bytes_of(&p), groups, &[buffer(x), buffer(out)])?;
                if r.halves.activations(out).is_some() {
                    many.extend(self.quantize(&Quantize::alone(x, out), state)?);
                }
            }
            Op::Matmul { weight, bias, x, out } => {
                let w = &plan.weights[weight.0];
                let block = w.format.activation_block();
                let precise = block.is_some() && plan.precision == Precision::Precise;
                for shard in shards(r, weight) {
                    let term = block.unwrap_or(crate::quant::CHUNK);
                    let p = ops::matmul::Params {
                        cols: w.cols as u32,
                        blocks: w.cols.div_ceil(term) as u32,
                        block: term as u32,
                        x_stride: match block {
                            Some(b) => ops::quantize_activations::stride(w.cols, b, plan.precision),
                            None => w.cols,
                        } as u32,
                        rows: shard.rows as u32,
                        row_base: shard.row_base as u32,
                        out_width: w.rows as u32,
                        has_bias: u32::from(bias.is_some()),
                        streams: shard.streams,
                        out_row0: u32::from(out == plan.logits),
                        first: shard.first as u32,
                    };
                    let kernel = Kernel::new(&ops::matmul::SHADER).format(w.format).precise(precise);
                    let bias = bias.map_or(&r.none, |b| vector(r, b));
                    let buffers = [&shard.buffer, &shard.buffer, buffer(x), buffer(x), bias, buffer(out)];
                    one(device, kernel, bytes_of(&p), ops::matmul::workgroups(&p, 1), &buffers)?;
                    let on_units = [&shard.buffer, bias, buffer(out)];
                    if let Some(product) = r.halves.product(device, state, w.format, &p, x, on_units)? {
                        many.extend(product);
                    } else if let Some((kernel, width)) = tiled::matmul(device, w.format, w.rows, precise)
                        .or_else(|| tiled::floats(device, w.format, w.cols))
                    {
                        let grid = Grid::Rows { x: p.rows.div_ceil(width), each: tiled::MATMUL_ROWS };
                        many.push(dispatch(device, kernel, state, bytes_of(&p), grid, &buffers)?);
                    }
                }
            }
            Op::Rope { x, head_dim, angles, neox } => {
                let pairs = plan.angles[angles.0].len();
                let (head_dim, pairs, neox) = (head_dim as u32, pairs as u32, u32::from(neox));
                let p = ops::rope::Params { width: width(x) as u32, head_dim, pairs, neox };
                let groups = ops::rope::workgroups(&p, 1);
                one(device, plain(&ops::rope::SHADER), bytes_of(&p), groups, &[&r.angles[angles.0], buffer(x)])?;
            }
            Op::KvStore { k, v, cache } => {
                let p = ops::kv_store::Params { width: plan.caches[cache.0].width() as u32 };
                let [k_cache, v_cache] = &r.caches[cache.0];
                let buffers = [buffer(k), buffer(v), k_cache, v_cache];
                one(device, plain(&ops::kv_store::SHADER), bytes_of(&p), ops::kv_store::workgroups(&p, 1), &buffers)?;
            }
            Op::Attention { q, out, cache, heads } => {
                let CacheSpec { kv_heads, head_dim } = plan.caches[cache.0];
                let p = ops::attention::Params::new(heads, kv_heads, head_dim, r.sizes.context);
                let [k_cache, v_cache] = &r.caches[cache.0];
                let buffers = [buffer(q), k_cache, v_cache, &r.scores, buffer(out)];
                one(device, plain(&ops::attention::SHADER), bytes_of(&p), ops::attention::workgroups(&p, 1), &buffers)?;
                if let Some((kernel, p)) = tiled::attention(device, plan, &step.op) {
                    let grid = Grid::Rows { x: heads as u32, each: tiled::ATTENTION_ROWS };
                    let buffers = [buffer(q), k_cache, v_cache, buffer(out)];
                    many.push(dispatch(device, kernel, state, bytes_of(&p), grid, &buffers)?);
                }
            }
            Op::SiluMul { a, b, out } => {
                let p = ops::silu_mul::Params { width: width(out) as u32 };
                let buffers = [buffer(a), buffer(b), buffer(out)];
                one(device, plain(&ops::silu_mul::SHADER), bytes_of(&p), ops::silu_mul::workgroups(&p, 1), &buffers)?;
            }
            Op::Add { x, b } => {
                let p = ops::add::Params { width: width(x) as u32 };
                let groups = ops::add::workgroups(&p, 1);
                one(device, plain(&ops::add::SHADER), bytes_of(&p), groups, &[buffer(x), buffer(b)])?;
            }
        }
        Ok(Lowered { step: step.clone(), dispatches, tiled: many })
    }
}

fn none(step: &Step) -> Lowered {
    Lowered { step: step.clone(), dispatches: Vec::new(), tiled: Vec::new() }
}

/// A matrix's shards.
pub(super) fn shards(r: &Resources, id: WeightId) -> &[Shard] {
    match &r.weights[id.0] {
        Resident::Matrix(shards) => shards,
        Resident::Vector(_) => &[],
    }
}

/// A vector's values.
pub(super) fn vector(r: &Resources, id: WeightId) -> &wgpu::Buffer {
    match &r.weights[id.0] {
        Resident::Vector(buffer) => buffer,
        Resident::Matrix(shards) => &shards[0].buffer,
    }
}

/// Binds one dispatch. `buffers` follow the state and the parameters, in the shader's order.
pub(super) fn dispatch(
    device: &mut Device,
    kernel: Kernel,
    state: &wgpu::Buffer,
    params: &[u8],
    grid: Grid,
    buffers: &[&wgpu::Buffer],
) -> Result<Dispatch, BackendError> {
    let limit = device.limits.max_compute_workgroups_per_dimension;
    if let Grid::Rows { x, .. } | Grid::Fixed([x, _]) = grid
        && x > limit
    {
        let what = format!("{x} workgroups in a dispatch ({} needs them, its limit is {limit})", kernel.name());
        return Err(BackendError::Unsupported { device: device.info.name.clone(), what });
    }
    let pipeline = device.pipeline(&kernel)?;
    let uniform = device.uniform(kernel.shader.name, params)?;
    let bindings = device.bind(&pipeline, &[&[state, &uniform], buffers].concat());
    let bound = [&[state], buffers].concat().into_iter().cloned().collect();
    let name = match kernel.format {
        Some(format) => format!("{} {}", kernel.shader.name, format.name),
        None => kernel.shader.name.to_owned(),
    };
    Ok(Dispatch { name, pipeline, bindings, grid, params: params.to_vec(), buffers: bound })
}
