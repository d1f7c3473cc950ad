//! Steps to dispatches: which kernel, with which parameters and buffers.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::bytes_of;

use super::attend;
use super::device::Device;
use super::experts::{Tiles, Tiling};
use super::group::{Group, Kernels, Output, Place};
use super::pipelines::{self, Kernel, Pipeline};
use super::row_words;
use super::tiled::{self, Layout, Quantize};
use super::weights::Shard;
use crate::backend::{BackendError, Sizes};
use crate::ops::{self, Call, Operand, Part};
use crate::plan::{BufferId, CacheId, CacheSpec, Op, Plan, Step, TILE, WeightId};
use crate::shaders::{TILED_FLOATS, TILED_MATMUL};

/// A recorded dispatch.
#[derive(Clone)]
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
    /// So many in two dimensions, and in the third one for each row of the batch.
    Each([u32; 2]),
    /// One for every tile of 32 positions of the cache that is seen, and so many in the second dimension.
    #[allow(missing_docs)]
    Tiles { spec: CacheSpec, y: u32 },
    /// So many, and in the second dimension one for each tile of slots that there may be at most.
    #[allow(missing_docs)]
    Chosen { x: u32, tiling: Tiling },
}

impl Grid {
    /// The workgroups for `rows` rows, the first of them at `position`.
    pub fn groups(self, position: usize, rows: usize) -> [u32; 3] {
        match self {
            Self::Rows { x, each } => [x, (rows as u32).div_ceil(each), 1],
            Self::Fixed([x, y]) => [x, y, 1],
            Self::Each([x, y]) => [x, y, rows as u32],
            Self::Chosen { x, tiling } => [x, tiling.most(rows), 1],
            Self::Tiles { spec, y } => [(position / TILE - spec.first_seen(position) / TILE + 1) as u32, y, 1],
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
        let [x, y, z] = self.grid.groups(position, rows);
        pass.dispatch_workgroups(x, y, z);
        Ok(())
    }
}

/// Compiles what dispatches need, all at the same time, where that was not done yet.
pub(super) fn ready<'a>(dispatches: impl Iterator<Item = &'a Dispatch>) -> Result<(), BackendError> {
    pipelines::compile(dispatches.map(|d| &*d.pipeline), || Ok(()))
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
    /// The state of steps for every row, and of those for wanted rows.
    pub state: wgpu::Buffer,
    pub wanted_state: wgpu::Buffer,
    pub ids: wgpu::Buffer,
    /// The wanted rows.
    pub wanted: wgpu::Buffer,
    pub buffers: Vec<wgpu::Buffer>,
    pub caches: Vec<[wgpu::Buffer; 2]>,
    /// Cosines and sines, by table of angles.
    pub angles: Vec<wgpu::Buffer>,
    /// For bindings that a kernel does not use.
    pub none: wgpu::Buffer,
    pub scores: wgpu::Buffer,
    pub halves: super::units::Halves,
    /// Sums of lanes of products on matrix units.
    pub lanes: wgpu::Buffer,
    /// What a few rows are quantised to.
    pub lanewise: wgpu::Buffer,
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
        let (spec, end) = (plan.caches[cache.0], position + rows);
        let word = |place, pair| ops::kv_store::cache_word(place, 2 * pair, spec.width());
        let words = ops::kv_store::cache_words(TILE, spec.width());
        let mut out = Vec::new();
        for cache in &self.caches[cache.0] {
            for first in (position / TILE * TILE..end).step_by(TILE) {
                let tile = device.read(cache, 4 * word(spec.place(first), 0) as u64, words)?;
                for p in first.max(position)..end.min(first + TILE) {
                    out.extend((0..spec.width() / 2).map(|pair| tile[word(p % TILE, pair)]));
                }
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
    /// The rows of each buffer of the plan.
    pub rows: &'a [wgpu::Buffer],
    /// The state of steps for every row, and of those for wanted rows.
    pub states: [&'a wgpu::Buffer; 2],
    /// Ids of the tokens.
    pub ids: &'a wgpu::Buffer,
    /// The wanted rows.
    pub wanted: &'a wgpu::Buffer,
}

impl<'a> Lowering<'a> {
    /// The groups of steps one by one, for any number of rows.
    pub fn alone(&mut self) -> Result<Vec<Group>, BackendError> {
        let count = self.plan.steps.len();
        let one = |at: usize| {
            let dispatches = self.plain(&self.plan.steps[at].op)?;
            Ok(self.group(at, dispatches))
        };
        (0..count).map(one).collect()
    }

    /// The same for many rows, made of those for any number where there is nothing better.
    pub fn many_alone(&mut self, alone: &[Group]) -> Result<Vec<Group>, BackendError> {
        let (plan, mut tiles) = (self.plan, Tiles::default());
        let many = |(step, alone): (&Step, &Group)| {
            let kernels = match &step.op {
                Op::ExpertMatmul(op) => self.by_expert(op, alone.at(0, 1), &mut tiles)?,
                op => match self.on_units(op)? {
                    on_units if !on_units.is_empty() => Kernels::Few(on_units),
                    _ => match self.tiled(op)? {
                        tiled if tiled.is_empty() => alone.kernels.clone(),
                        tiled => Kernels::Fixed(tiled),
                    },
                },
            };
            tiles.written(step.op.output());
            Ok(Group { kernels, ..alone.clone() })
        };
        plan.steps.iter().zip(alone).map(many).collect()
    }

    /// The groups of steps for many rows: what comes before a quantisation joins it.
    pub fn many(&mut self, alone: &[Group]) -> Result<Vec<Group>, BackendError> {
        let mut groups = Vec::new();
        let mut at = 0;
        while at < alone.len() {
            let found = Quantize::find(self.plan, at);
            let together = found.as_ref().map(|f| self.quantize(f)).transpose()?.flatten();
            groups.push(match (&found, together) {
                (Some(found), Some(dispatch)) => {
                    let steps = (at..at + found.steps).collect();
                    Group { steps, kernels: Kernels::Fixed(vec![dispatch]), outputs: Vec::new() }
                }
                _ => alone[at].clone(),
            });
            at += groups.last().map_or(1, |group| group.steps.len());
        }
        Ok(groups)
    }

    /// The group of one step.
    fn group(&self, step: usize, dispatches: Vec<Dispatch>) -> Group {
        let outputs = self.place(step).into_iter().map(|place| Output { step, place }).collect();
        Group { steps: vec![step], kernels: Kernels::Fixed(dispatches), outputs }
    }

    /// Where the output of a step is.
    pub fn place(&self, step: usize) -> Option<Place> {
        let op = &self.plan.steps[step].op;
        let row = |out: BufferId| Place::Rows(self.rows[out.0].clone(), row_words(self.plan, out));
        op.appends_to().map(Place::Cache).or(op.output().map(row))
    }

    /// The state that a step reads: it says how many rows there are.
    pub fn state(&self, op: &Op) -> &'a wgpu::Buffer {
        self.states[usize::from(self.plan.is_wanted(op))]
    }

    /// The dispatches of a step, for any number of rows: one for each part of its matrix.
    pub fn plain(&mut self, op: &Op) -> Result<Vec<Dispatch>, BackendError> {
        let (plan, r) = (self.plan, self.resources);
        let parts: Vec<_> = match op.matrix() {
            Some(matrix) => shards(r, matrix).iter().map(|shard| (part(shard), &shard.buffer)).collect(),
            None => vec![(Part::default(), &r.none)],
        };
        let mut all = Vec::new();
        for (part, matrix) in parts {
            let call = op.call(&plan.shapes(), r.sizes.context, &part);
            let buffers = self.bound(&call, matrix);
            let mut kernel = Kernel::of(&call);
            if let Some(cache) = op.appends_to().or(op.attends_to()) {
                kernel = kernel.with("RING", attend::ring(plan.caches[cache.0]));
            }
            let grid = Grid::Rows { x: call.groups, each: 1 };
            all.push(dispatch(self.device, kernel, self.state(op), &call.params, grid, &buffers)?);
        }
        Ok(all)
    }

    /// The buffers of a step's operands, with a part of its matrix.
    pub fn bound(&self, call: &Call, matrix: &'a wgpu::Buffer) -> Vec<&'a wgpu::Buffer> {
        let (r, rows) = (self.resources, self.rows);
        let bound = |operand: &Operand| match *operand {
            Operand::Rows(id) => &rows[id.0],
            Operand::Vector(id) => id.map_or(&r.none, |id| vector(r, id)),
            Operand::Matrix => matrix,
            Operand::Angles(id) => &r.angles[id.0],
            Operand::Keys(id) => &r.caches[id.0][0],
            Operand::Values(id) => &r.caches[id.0][1],
            Operand::Scores => &r.scores,
            Operand::Ids => self.ids,
            Operand::Wanted => self.wanted,
        };
        call.operands.iter().map(bound).collect()
    }

    /// The dispatches of a step for many rows, where there are others.
    fn tiled(&mut self, op: &Op) -> Result<Vec<Dispatch>, BackendError> {
        // What is multiplied on matrix units is stored as halves, too.
        if let Op::QuantizeActivations(ops::QuantizeActivations { x, out }) = *op
            && self.resources.halves.activations(out).is_some()
        {
            return Ok(self.quantize(&Quantize::alone(x, out))?.into_iter().collect());
        }
        let (plan, r, rows, state) = (self.plan, self.resources, self.rows, self.state(op));
        let row = |b: BufferId| &rows[b.0];
        let device = &mut *self.device;
        let mut all = Vec::new();
        match *op {
            Op::Matmul(ref product) => {
                let (ops::Matmul { weight, bias, x, out }, shapes) = (product.clone(), plan.shapes());
                let w = &plan.weights[weight.0];
                let bias_row = bias.map_or(&r.none, |b| vector(r, b));
                for shard in shards(r, weight) {
                    let p = product.params(&shapes, &part(shard));
                    if let Some((kernel, width)) = tiled::matmul(
                        device,
                        &TILED_MATMUL,
                        tiled::MATMUL_ROWS,
                        w.format,
                        w.rows,
                        product.is_precise(&shapes),
                    )
                    .or_else(|| tiled::floats(device, &TILED_FLOATS, w.format, w.cols))
                    {
                        let grid = Grid::Rows { x: p.rows.div_ceil(width), each: tiled::MATMUL_ROWS };
                        let buffers = [&shard.buffer, &shard.buffer, row(x), row(x), bias_row, row(out)];
                        all.push(dispatch(device, kernel, state, bytes_of(&p), grid, &buffers)?);
                    }
                }
            }
            Op::Attention(ref op) => {
                if let Some((kernel, p)) = tiled::attention(device, plan, op) {
                    let [k_cache, v_cache] = &r.caches[op.cache.0];
                    let sinks = op.scoring.sinks.map_or(&r.none, |id| vector(r, id));
                    let grid = Grid::Rows { x: p.heads, each: tiled::ATTENTION_ROWS };
                    let buffers = [row(op.q), k_cache, v_cache, sinks, row(op.out)];
                    all.push(dispatch(device, kernel, state, bytes_of(&p), grid, &buffers)?);
                }
            }
            _ => {}
        }
        Ok(all)
    }

    /// The dispatch of a quantisation of many rows and what comes before it; `None` where the device has too little memory.
    fn quantize(&mut self, q: &Quantize) -> Result<Option<Dispatch>, BackendError> {
        let r = self.resources;
        let out = &self.rows[q.out.0];
        match r.halves.activations(q.out) {
            Some((halves, rows)) => self.quantize_to(q, Layout::Halves(rows), out, halves),
            None => self.quantize_to(q, Layout::InOrder, out, r.halves.none()),
        }
    }

    /// The same to `out`, in some layout.
    pub fn quantize_to(
        &mut self,
        q: &Quantize,
        layout: Layout,
        out: &wgpu::Buffer,
        halves: &wgpu::Buffer,
    ) -> Result<Option<Dispatch>, BackendError> {
        let r = self.resources;
        let state = self.states[usize::from(self.plan.buffers[q.out.0].wanted)];
        let row = |b: BufferId| &self.rows[b.0];
        let Some((kernel, p, x)) = q.kernel(self.device, self.plan, layout) else { return Ok(None) };
        let y = q.residual.or(q.gate).map_or(&r.none, row);
        let norm = q.norm.map_or(&r.none, |n| vector(r, n.0));
        let buffers = [row(q.x), y, norm, out, halves];
        let grid = Grid::Rows { x, each: 1 };
        dispatch(self.device, kernel, state, bytes_of(&p), grid, &buffers).map(Some)
    }
}

/// A shard as ops see it.
pub(super) fn part(shard: &Shard) -> Part {
    Part { row_base: shard.row_base, rows: shard.rows, first: shard.first, streams: shard.streams }
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
