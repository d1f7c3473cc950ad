//! The GPU backend: wgpu on Vulkan, Metal or DX12.

mod attend;
pub mod bandwidth;
mod compiler;
mod decode;
pub mod device;
pub mod disk;
mod fused;
mod layer;
mod lower;
mod matrix;
mod pipelines;
mod profile;
mod record;
mod shape;
mod tiled;
mod timing;
pub mod weights;

pub use bandwidth::read_bandwidth;
pub use compiler::Compiler;
pub use device::{
    Api, Candidate, Choice, Device, adapters, api_name, candidates, choose, forced_arithmetic, is_software,
};
pub use layer::unfused_because;
pub use pipelines::{Kernel, Pipeline};
pub use record::Recorded;
pub use timing::KernelTime;

use std::collections::{HashMap, VecDeque};

use decode::Decoder;
use lower::{Dispatch, Group, Lowered, Lowering, Resident, Resources, ready};
use matrix::Halves;
use weights::Uploads;

use super::{
    Backend, BackendError, Batch, BatchError, Chooser, Chosen, Counters, Interrupt, Lane, Limits, Listener, Sizes,
    StepTime,
};
use crate::model::Model;
use crate::ops;
use crate::plan::{BufferId, BufferKind, Op, Plan, Step};
use crate::shaders::params::State;

/// Steps of a batch that are submitted together: a part stays far below the time after which a system kills a GPU's work.
const PART: usize = 24;

/// Parts of a batch in flight: one is under way while the host encodes the next.
const PARTS_IN_FLIGHT: usize = 2;

/// Runs plans on a GPU.
pub struct Gpu {
    device: Device,
    plan: Plan,
    resources: Resources,
    body: Vec<Lowered>,
    head: Vec<Lowered>,
    /// The body in groups of steps for many rows.
    groups: Vec<Group>,
    /// The fused kernels for single tokens, or why there are none.
    decoder: Result<Decoder, String>,
    staging: wgpu::Buffer,
    logits: Vec<f32>,
    /// What was done by batches.
    counters: Counters,
    limits: Limits,
    interrupt: Interrupt,
}

impl Gpu {
    /// Uploads the model and compiles what the largest batch and single tokens need, both at the same time; other
    /// kernels follow when they are needed. `progress` hears bytes of the file as they are uploaded.
    ///
    /// The batch of `sizes` is reduced where the device cannot bind the attention scores of so many rows.
    pub fn new(
        mut device: Device,
        model: &Model,
        plan: Plan,
        mut sizes: Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        plan.check()?;
        let limit = device.limits.max_storage_buffer_binding_size as usize;
        let (rows, row_bytes) = scored(&device, &plan, sizes);
        if rows * row_bytes > limit {
            sizes.batch = (limit / row_bytes).max(1);
        }
        sizes.logits_rows = sizes.logits_rows.min(sizes.batch);
        let mut uploads = Uploads::default();
        let resources = allocate(&device, model, &plan, sizes, &mut uploads)?;
        let lower = |device: &mut Device, steps: &[Step], head| {
            let mut lowering = Lowering { device, plan: &plan, resources: &resources };
            steps.iter().map(|s| lowering.lower(s, head)).collect::<Result<Vec<_>, _>>()
        };
        let body = lower(&mut device, &plan.body, false)?;
        let head = lower(&mut device, &plan.head, true)?;
        let groups = Lowering { device: &mut device, plan: &plan, resources: &resources }.groups()?;
        let logits = vec![0.0; sizes.logits_rows * plan.vocabulary()];
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = device.buffer("logits staging", logits.len() as u64 * 4, usage)?;
        let decoder = Decoder::new(&mut device, &plan, &resources)?;
        let limits = sizes.limits(&plan);
        let gpu = Self {
            device,
            plan,
            resources,
            body,
            head,
            groups,
            decoder,
            staging,
            logits,
            counters: Counters::default(),
            limits,
            interrupt: Interrupt::default(),
        };
        let batch = gpu.dispatches(sizes.batch, sizes.logits_rows);
        let token = gpu.decoder.iter().flat_map(|d| d.below(sizes.context));
        pipelines::compile(batch.into_iter().chain(token).map(|d| &*d.pipeline), || {
            uploads.run(&gpu.device, model, progress)
        })?;
        gpu.device.check()?;
        Ok(gpu)
    }

    /// Every kernel that the model's plan was lowered to.
    pub fn kernels(&self) -> Vec<Kernel> {
        self.device.kernels()
    }

    /// Runs single tokens step by step, as a batch is run.
    #[must_use]
    pub fn unfused(mut self) -> Self {
        self.decoder = Err("fused kernels were not asked for".to_owned());
        self
    }

    /// Runs a batch of one token by the fused kernels, and tells the listener those steps' outputs that they leave behind;
    /// `false` where there are none, or for another batch.
    pub fn listen_fused(&mut self, batch: Batch<'_>, listener: Listener<'_>) -> Result<bool, BackendError> {
        batch.is_for(&self.limits)?;
        let (Ok(decoder), &[token]) = (&self.decoder, batch.ids()) else { return Ok(false) };
        decoder.listen(&self.device, &self.resources, &self.plan, (token, batch.position()), listener)?;
        Ok(true)
    }

    /// Seconds of each kernel: in one token at a position, or in a batch of `rows` from it on.
    pub fn times(&self, position: usize, rows: usize, repetitions: usize) -> Result<Vec<KernelTime>, BackendError> {
        self.limits.room(position, rows)?;
        if rows == 0 || rows > self.limits.batch {
            return Err(BatchError::Rows { rows, limit: self.limits.batch }.into());
        }
        if let (Ok(decoder), 1) = (&self.decoder, rows) {
            return decoder.times(&self.device, position, repetitions);
        }
        let state = State { position: position as u32, rows: rows as u32, ..State::default() };
        self.device.write(&self.resources.body_state, bytemuck::bytes_of(&state));
        let dispatches = self.body_for(rows).into_iter().flat_map(|(_, d)| d);
        timing::times(&self.device, dispatches, position, rows, repetitions)
    }

    /// Kernel launches for one token at a position.
    pub fn dispatches_per_token(&self, position: usize) -> usize {
        match &self.decoder {
            Ok(decoder) => decoder.dispatches(position),
            Err(_) => self.body.iter().chain(&self.head).map(|l| l.dispatches.len()).sum(),
        }
    }

    /// Writes what the kernels of a batch read.
    fn prepare(&self, batch: &Batch<'_>) {
        let write = |buffer: &wgpu::Buffer, row0: usize, rows: usize| {
            let (position, row0, rows) = (batch.position() as u32, row0 as u32, rows as u32);
            let state = State { position, row0, rows, ..State::default() };
            self.device.write(buffer, bytemuck::bytes_of(&state));
        };
        let wanted = batch.wanted();
        write(&self.resources.body_state, 0, batch.rows());
        write(&self.resources.head_state, wanted.start, wanted.len());
        self.device.write(&self.resources.ids, bytemuck::cast_slice(batch.ids()));
    }

    /// The body's dispatches for so many rows, with the steps that they make.
    fn body_for(&self, rows: usize) -> Vec<(&[Lowered], &[Dispatch])> {
        if rows < tiled::MIN_ROWS {
            return self.body.iter().map(|l| (std::slice::from_ref(l), l.at(rows))).collect();
        }
        let mut all: Vec<(&[Lowered], &[Dispatch])> = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            all.push(match group {
                Group::Step(i) => (&self.body[*i..=*i], self.body[*i].at(rows)),
                Group::Together { first, steps, dispatch } => {
                    (&self.body[*first..first + steps], std::slice::from_ref(dispatch))
                }
            });
        }
        all
    }

    /// All dispatches of a batch of `rows` rows, with the logits of `logits` rows.
    fn dispatches(&self, rows: usize, logits: usize) -> Vec<&Dispatch> {
        let head = self.head.iter().filter(|_| logits > 0).flat_map(|l| l.at(logits));
        self.body_for(rows).into_iter().flat_map(|(_, d)| d).chain(head).collect()
    }

    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        steps: &[Lowered],
        position: usize,
        rows: usize,
    ) -> Result<(), BackendError> {
        if rows == 0 {
            return Ok(());
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        steps.iter().flat_map(|l| l.at(rows)).try_for_each(|d| d.record(&mut pass, 0, position, rows))
    }

    /// Runs each step alone and tells the listener its output.
    fn run_listened(&self, batch: &Batch<'_>, listener: Listener<'_>) -> Result<(), BackendError> {
        let wanted = batch.wanted();
        for (steps, first, rows) in [(&self.body, 0, batch.rows()), (&self.head, wanted.start, wanted.len())] {
            if rows == 0 {
                continue;
            }
            for lowered in steps {
                self.interrupt.check()?;
                let mut encoder = self.device.device.create_command_encoder(&Default::default());
                self.encode(&mut encoder, std::slice::from_ref(lowered), batch.position(), rows)?;
                self.device.queue.submit([encoder.finish()]);
                listener(&lowered.step, &self.output(&lowered.step, batch.position(), first, rows)?);
            }
        }
        Ok(())
    }

    fn output(&self, step: &Step, position: usize, first: usize, rows: usize) -> Result<Vec<u32>, BackendError> {
        if let Op::KvStore { cache, .. } = step.op {
            return self.resources.cached(&self.device, &self.plan, cache, position + first, rows);
        }
        let Some(out) = step.op.output() else { return Ok(Vec::new()) };
        let words = row_words(&self.plan, out);
        let first = if out == self.plan.logits { 0 } else { first };
        self.device.read(&self.resources.buffers[out.0], (first * words * 4) as u64, rows * words)
    }
}

/// Rows of the largest batch that plain attention serves, and the bytes of their scores each.
fn scored(device: &Device, plan: &Plan, sizes: Sizes) -> (usize, usize) {
    let (mut rows, mut heads) = (sizes.batch.min(tiled::MIN_ROWS - 1), 1);
    for step in plan.steps() {
        if let Op::Attention { heads: h, .. } = step.op {
            heads = heads.max(h);
            if tiled::attention(device, plan, &step.op).is_none() {
                rows = sizes.batch;
            }
        }
    }
    (rows, heads * sizes.context * 4)
}

/// Words per row of a buffer.
fn row_words(plan: &Plan, id: BufferId) -> usize {
    let buffer = &plan.buffers[id.0];
    match buffer.kind {
        BufferKind::Float => buffer.width,
        BufferKind::Quantized(block) => ops::quantize_activations::stride(buffer.width, block, plan.precision),
    }
}

/// All buffers of a plan; the contents of matrices are left to `uploads`.
fn allocate(
    device: &Device,
    model: &Model,
    plan: &Plan,
    sizes: Sizes,
    uploads: &mut Uploads,
) -> Result<Resources, BackendError> {
    let words = |name: &str, n: usize| device.storage(name, n as u64 * 4);
    let mut buffers = Vec::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let id = BufferId(i);
        let rows = if id == plan.logits { sizes.logits_rows } else { sizes.batch };
        buffers.push(words(&buffer.name, rows * row_words(plan, id))?);
    }
    let mut caches = Vec::new();
    for (i, cache) in plan.caches.iter().enumerate() {
        let n = ops::kv_store::cache_words(sizes.context, cache.width());
        caches.push([words(&format!("keys of cache {i}"), n)?, words(&format!("values of cache {i}"), n)?]);
    }
    let (weights, vectors) = weights(device, model, plan, uploads)?;
    let (rows, row_bytes) = scored(device, plan, sizes);
    let angles = plan.angles.iter().map(|frequencies| {
        let table = ops::rope::table(sizes.context, frequencies);
        device.upload("angles", bytemuck::cast_slice(&table))
    });
    Ok(Resources {
        sizes,
        body_state: device.storage("state", device::STATE_BYTES)?,
        head_state: device.storage("head state", device::STATE_BYTES)?,
        ids: words("ids", sizes.batch)?,
        buffers,
        caches,
        angles: angles.collect::<Result<_, _>>()?,
        none: words("nothing", 4)?,
        halves: Halves::new(device, plan, sizes)?,
        scores: device.storage("attention scores", (rows * row_bytes) as u64)?,
        weights,
        vectors,
    })
}

/// The values of vectors, by weight.
type Vectors = HashMap<usize, Vec<f32>>;

/// Buffers of all weights of a plan, and the values of its vectors; the contents of matrices are left to `uploads`.
fn weights(
    device: &Device,
    model: &Model,
    plan: &Plan,
    uploads: &mut Uploads,
) -> Result<(Vec<Resident>, Vectors), BackendError> {
    let mut vectors = HashMap::new();
    let mut resident: Vec<Option<Resident>> = Vec::new();
    for (i, w) in plan.weights.iter().enumerate() {
        resident.push(if w.rows == 1 {
            let mut values = vec![0.0f32; w.cols];
            w.format.dequantize(model.data(w), &mut values);
            let buffer = device.upload(&w.name, bytemuck::cast_slice(&values))?;
            vectors.insert(i, values);
            Some(Resident::Vector(buffer))
        } else {
            None
        });
    }
    for group in together(plan) {
        let matrices: Vec<_> = group.iter().map(|i| &plan.weights[*i]).collect();
        let shards = uploads.allocate(device, &matrices)?;
        for (i, shards) in group.into_iter().zip(shards) {
            resident[i] = Some(Resident::Matrix(shards));
        }
    }
    // Every matrix is in a group.
    Ok((resident.into_iter().flatten().collect(), vectors))
}

/// The matrices of a plan in groups: those that follow each other on the same activations in one format.
fn together(plan: &Plan) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut last = None;
    for step in plan.steps() {
        let (weight, source) = match step.op {
            Op::Matmul { weight, x, .. } => (weight.0, Some((x, plan.weights[weight.0].format.name))),
            Op::Embedding { weight, .. } => (weight.0, None),
            _ => {
                last = None;
                continue;
            }
        };
        if groups.iter().flatten().any(|i| *i == weight) {
            last = None;
            continue;
        }
        match groups.last_mut() {
            Some(group) if source.is_some() && source == last => group.push(weight),
            _ => groups.push(vec![weight]),
        }
        last = source;
    }
    groups
}

impl Backend for Gpu {
    fn run(
        &mut self,
        lane: Lane,
        chooser: Chooser<'_>,
        logits: bool,
        emit: &mut dyn FnMut(Chosen<'_>) -> bool,
    ) -> Result<(), BackendError> {
        lane.is_for(&self.limits)?;
        match &self.decoder {
            Ok(decoder) if chooser.on_device() => {
                let mut emit = |chosen: Chosen<'_>| emit(chosen) && !self.interrupt.is_requested();
                decoder.run(&self.device, &lane, chooser, logits, &mut emit)?;
                self.interrupt.check()
            }
            _ => super::run_by_batches(self, lane, chooser, emit),
        }
    }

    fn forward(&mut self, batch: Batch<'_>, listener: Option<Listener<'_>>) -> Result<&[f32], BackendError> {
        batch.is_for(&self.limits)?;
        self.interrupt.check()?;
        let (n, rows) = (batch.rows(), batch.wanted().len());
        if let (Ok(decoder), None, &[token], 1) = (&self.decoder, &listener, batch.ids(), rows) {
            let logits = &mut self.logits;
            let mut keep = |token: Chosen<'_>| {
                logits[..token.logits.len()].copy_from_slice(token.logits);
                true
            };
            let lane = Lane::checked(token, batch.position(), 1, &self.limits)?;
            decoder.run(&self.device, &lane, Chooser::Greedy, true, &mut keep)?;
            return Ok(&self.logits[..self.plan.vocabulary()]);
        }
        let all = self.dispatches(n, rows);
        let dispatches = all.len();
        ready(all.into_iter())?;
        let start = std::time::Instant::now();
        self.prepare(&batch);
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        match listener {
            Some(listener) => self.run_listened(&batch, listener)?,
            None => {
                // In parts, so that the device works while the host still encodes, and that an interrupt does not wait for more
                // than the parts in flight.
                let mut in_flight = VecDeque::new();
                for part in self.body_for(n).chunks(PART) {
                    if in_flight.len() == PARTS_IN_FLIGHT {
                        self.device.wait_for(in_flight.pop_front())?;
                    }
                    self.interrupt.check()?;
                    {
                        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                        for dispatch in part.iter().flat_map(|(_, d)| *d) {
                            dispatch.record(&mut pass, 0, batch.position(), n)?;
                        }
                    }
                    let next = self.device.device.create_command_encoder(&Default::default());
                    in_flight.push_back(self.device.queue.submit([std::mem::replace(&mut encoder, next).finish()]));
                }
                self.encode(&mut encoder, &self.head, batch.position(), rows)?;
            }
        }
        let wanted = rows * self.plan.vocabulary();
        if wanted > 0 {
            let logits = &self.resources.buffers[self.plan.logits.0];
            encoder.copy_buffer_to_buffer(logits, 0, &self.staging, 0, wanted as u64 * 4);
        }
        self.device.queue.submit([encoder.finish()]);
        self.counters.add(dispatches, start.elapsed(), n);
        if wanted > 0 {
            let mut logits = std::mem::take(&mut self.logits);
            let result = self.device.map(&self.staging, &mut logits[..wanted]);
            self.logits = logits;
            result?;
        }
        self.device.check()?;
        Ok(&self.logits[..wanted])
    }

    fn profile(&mut self, batch: Batch<'_>) -> Result<Vec<StepTime>, BackendError> {
        self.time_steps(batch)
    }

    fn counters(&self) -> Counters {
        let mut all = self.counters;
        if let Some(fused) = self.decoder.as_ref().ok().map(Decoder::counters) {
            all.add(fused.dispatches as usize, fused.encode, fused.tokens as usize);
        }
        all
    }

    fn unfused_because(&self) -> Option<&str> {
        self.decoder.as_ref().err().map(String::as_str)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn stop_on(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    fn name(&self) -> &'static str {
        api_name(&self.device.info)
    }

    fn device(&self) -> String {
        self.device.info.name.clone()
    }
}
