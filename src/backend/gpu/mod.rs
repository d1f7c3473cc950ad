//! The GPU backend: wgpu on Vulkan, Metal or DX12.

mod attend;
pub mod bandwidth;
mod calls;
mod compiler;
mod cut;
mod decode;
pub mod device;
pub mod disk;
mod experts;
mod few;
mod fused;
mod group;
mod lower;
mod passes;
mod piece;
mod pipelines;
mod profile;
mod record;
mod rows;
mod shape;
mod tiled;
mod timing;
mod units;
pub mod weights;

pub use bandwidth::read_bandwidth;
pub use compiler::Compiler;
pub use cut::{groups, unfused_because};
pub use device::{
    AdapterOptions, Api, Candidate, Device, MatrixUnits, adapters, api_name, candidates, choose, forced_arithmetic,
    is_software,
};
pub use pipelines::{Kernel, Pipeline};
pub use record::Recorded;
pub use timing::KernelTime;

use std::collections::HashMap;

use decode::Decoder;
use group::Group;
use lower::{Lowering, Resident, Resources};
use passes::{Ahead, Pass};
use weights::Uploads;

use super::kept::Kept;
use super::{
    Backend, BackendError, Batch, BatchError, Counters, Interrupt, Lane, Limits, Listener, Sampled, Sampling, Sizes,
    StepTime,
};
use crate::ops;
use crate::plan::{BufferId, BufferKind, Op, Plan, WeightSource};
use crate::shaders::params::State;

/// Runs plans on a GPU.
pub struct Gpu {
    device: Device,
    plan: Plan,
    resources: Resources,
    /// The groups for any number of rows, each of one step.
    alone: Vec<Group>,
    /// The groups for a few rows, and how many those are at most.
    few: Vec<Group>,
    most_few: usize,
    /// The groups for many rows, each of one step, and what runs faster.
    many_alone: Vec<Group>,
    many: Vec<Group>,
    /// The groups for single tokens; `None` where they were not asked for.
    decoder: Option<Decoder>,
    staging: wgpu::Buffer,
    logits: Vec<f32>,
    ahead: Ahead,
    /// Work counters for batched runs.
    counters: Counters,
    limits: Limits,
    kept: Kept,
    interrupt: Interrupt,
}

impl Gpu {
    /// Uploads the weights and compiles what the largest batch and single tokens need, both at the same time; other
    /// kernels follow when they are needed. `progress` hears bytes of the file as they are uploaded.
    ///
    /// The batch of `sizes` is reduced where the device cannot bind the attention scores of so many rows.
    pub fn new(
        mut device: Device,
        weights: &dyn WeightSource,
        mut plan: Plan,
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
        sizes.fit(&mut plan);
        let mut uploads = Uploads::default();
        let resources = allocate(&device, weights, &plan, sizes, &mut uploads)?;
        let mut lowering = Lowering {
            device: &mut device,
            plan: &plan,
            resources: &resources,
            rows: &resources.buffers,
            states: [&resources.state, &resources.wanted_state],
            ids: &resources.ids,
            wanted: &resources.wanted,
        };
        let alone = lowering.alone()?;
        let many_alone = lowering.many_alone(&alone)?;
        let many = lowering.many(&many_alone)?;
        let few = lowering.few(&alone, &many_alone)?;
        let most_few = few::most_rows(&device, &plan);
        let logits = vec![0.0; sizes.logits_rows * plan.vocabulary()];
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = device.buffer("logits staging", logits.len() as u64 * 4, usage)?;
        let decoder = Some(Decoder::new(&mut device, &plan, &resources)?);
        let limits = sizes.limits(&plan);
        let gpu = Self {
            device,
            plan,
            resources,
            alone,
            few,
            most_few,
            many_alone,
            many,
            decoder,
            staging,
            logits,
            ahead: Ahead::default(),
            counters: Counters::default(),
            limits,
            kept: Kept::default(),
            interrupt: Interrupt::default(),
        };
        let batch = gpu.groups(sizes.batch, sizes.logits_rows).flat_map(|(group, rows)| group.at(0, rows));
        let token = gpu.decoder.iter().flat_map(|d| d.below(sizes.context));
        pipelines::compile(batch.chain(token).map(|d| &*d.pipeline), || uploads.run(&gpu.device, weights, progress))?;
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
        self.decoder = None;
        self
    }

    /// Runs batches of more than so many rows by the groups for many rows.
    #[must_use]
    pub fn few_up_to(mut self, rows: usize) -> Self {
        self.most_few = self.most_few.min(rows.max(1));
        self
    }

    /// Runs a batch by the groups for its number of rows, and tells the listener those steps' outputs that they leave
    /// behind; `false` where that is one row and the groups for it were not asked for.
    pub fn listen_fused(&mut self, batch: Batch<'_>, listener: Listener<'_>) -> Result<bool, BackendError> {
        self.begin(&batch)?;
        if batch.rows() > 1 {
            self.prepare(&batch);
            self.hear(self.groups(batch.rows(), batch.wanted().len()), batch.position(), listener)?;
            return Ok(true);
        }
        let (Some(decoder), &[token]) = (&self.decoder, batch.ids()) else { return Ok(false) };
        for group in decoder.prepare(&self.device, token, batch.position()) {
            group.listen(&self.device, &self.resources, &self.plan, batch.position(), 1, listener)?;
        }
        self.device.check()?;
        Ok(true)
    }

    /// The same by the groups for many rows, however few these are.
    pub fn listen_many(&mut self, batch: Batch<'_>, listener: Listener<'_>) -> Result<(), BackendError> {
        self.begin(&batch)?;
        self.prepare(&batch);
        let groups = self.groups_of([&self.few, &self.many], 1, batch.rows(), batch.wanted().len());
        self.hear(groups, batch.position(), listener)
    }

    /// Runs groups one by one, and tells the listener what each leaves.
    fn hear<'a>(
        &self,
        groups: impl Iterator<Item = (&'a Group, usize)>,
        position: usize,
        listener: Listener<'_>,
    ) -> Result<(), BackendError> {
        for (group, rows) in groups {
            self.interrupt.check()?;
            group.listen(&self.device, &self.resources, &self.plan, position, rows, listener)?;
        }
        self.device.check()
    }

    /// Seconds of each kernel: in one token at a position, or in a batch of `rows` from it on. Where layers have windows, the next
    /// batch begins at 0: what their caches held was replaced.
    pub fn times(&mut self, position: usize, rows: usize, repetitions: usize) -> Result<Vec<KernelTime>, BackendError> {
        self.limits.room(position, rows)?;
        if rows == 0 || rows > self.limits.batch {
            return Err(BatchError::Rows { rows, limit: self.limits.batch }.into());
        }
        self.kept.lose();
        if let (Some(decoder), 1) = (&self.decoder, rows) {
            return decoder.times(&self.device, position, repetitions);
        }
        let state = State { position: position as u32, rows: rows as u32, ..State::default() };
        self.device.write(&self.resources.state, bytemuck::bytes_of(&state));
        let dispatches = self.groups(rows, 0).flat_map(|(group, rows)| group.at(position, rows));
        timing::times(&self.device, dispatches, position, rows, repetitions)
    }

    /// Kernel launches for one token at a position.
    pub fn dispatches_per_token(&self, position: usize) -> usize {
        match &self.decoder {
            Some(decoder) => decoder.dispatches(position),
            None => self.groups(1, 1).map(|(group, rows)| group.at(position, rows).len()).sum(),
        }
    }

    /// Checks a batch, and notes what of the caches it replaces.
    fn begin(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        batch.is_for(&self.limits)?;
        self.kept.check(&self.plan.caches, batch.position())?;
        self.kept.write(batch.position(), batch.position() + batch.rows());
        Ok(())
    }

    /// Writes what the kernels of a batch read.
    fn prepare(&self, batch: &Batch<'_>) {
        let write = |buffer: &wgpu::Buffer, rows: usize| {
            let state = State { position: batch.position() as u32, rows: rows as u32, ..State::default() };
            self.device.write(buffer, bytemuck::bytes_of(&state));
        };
        let wanted: Vec<u32> = batch.wanted().map(|row| row as u32).collect();
        write(&self.resources.state, batch.rows());
        write(&self.resources.wanted_state, wanted.len());
        self.device.write(&self.resources.ids, bytemuck::cast_slice(batch.ids()));
        self.device.write(&self.resources.wanted, bytemuck::cast_slice(&wanted));
    }

    /// The groups of a batch of `rows` rows, with the logits of `wanted` rows, each with its number of rows.
    fn groups(&self, rows: usize, wanted: usize) -> impl Iterator<Item = (&Group, usize)> {
        self.groups_of([&self.few, &self.many], self.most_few + 1, rows, wanted)
    }

    /// The same with other groups for few rows, and for many, which are `from` and more.
    fn groups_of<'a>(
        &'a self,
        [few, many]: [&'a [Group]; 2],
        from: usize,
        rows: usize,
        wanted: usize,
    ) -> impl Iterator<Item = (&'a Group, usize)> {
        let of = move |rows: usize| if rows < from { few } else { many };
        let first = self.plan.first_wanted();
        let every = of(rows).iter().filter(move |g| g.steps[0] < first).map(move |g| (g, rows));
        let behind = of(wanted).iter().filter(move |g| wanted > 0 && g.steps[0] >= first).map(move |g| (g, wanted));
        every.chain(behind)
    }
}

/// Rows of the largest batch that plain attention serves, and the bytes of their scores each.
fn scored(device: &Device, plan: &Plan, sizes: Sizes) -> (usize, usize) {
    let (mut rows, mut heads) = (sizes.batch.min(tiled::MIN_ROWS - 1), 1);
    for step in &plan.steps {
        if let Op::Attention(op) = &step.op {
            heads = heads.max(op.heads);
            if tiled::attention(device, plan, op).is_none() {
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
    source: &dyn WeightSource,
    plan: &Plan,
    sizes: Sizes,
    uploads: &mut Uploads,
) -> Result<Resources, BackendError> {
    let words = |name: &str, n: usize| device.storage(name, n as u64 * 4);
    let mut buffers = Vec::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let id = BufferId(i);
        buffers.push(words(&buffer.name, sizes.rows(buffer) * row_words(plan, id))?);
    }
    let mut caches = Vec::new();
    for (i, cache) in plan.caches.iter().enumerate() {
        let n = ops::kv_store::cache_words(cache.kept(sizes.context), cache.width());
        caches.push([words(&format!("keys of cache {i}"), n)?, words(&format!("values of cache {i}"), n)?]);
    }
    let (weights, vectors) = weights(device, source, plan, uploads)?;
    let (rows, row_bytes) = scored(device, plan, sizes);
    let angles = plan.angles.iter().map(|angles| {
        let table = ops::rope::table(sizes.context, angles);
        device.upload("angles", bytemuck::cast_slice(&table))
    });
    Ok(Resources {
        sizes,
        state: device.storage("state", device::STATE_BYTES)?,
        wanted_state: device.storage("state of wanted rows", device::STATE_BYTES)?,
        ids: words("ids", sizes.batch)?,
        wanted: words("wanted rows", sizes.logits_rows)?,
        buffers,
        caches,
        angles: angles.collect::<Result<_, _>>()?,
        none: words("nothing", 4)?,
        halves: units::Halves::new(device, plan, sizes)?,
        lanes: words("sums of lanes", units::lane_words(device, plan, sizes.batch))?,
        lanewise: words("few rows", few::lanewise_words(plan))?,
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
    source: &dyn WeightSource,
    plan: &Plan,
    uploads: &mut Uploads,
) -> Result<(Vec<Resident>, Vectors), BackendError> {
    let mut vectors = HashMap::new();
    let mut resident: Vec<Option<Resident>> = Vec::new();
    for (i, w) in plan.weights.iter().enumerate() {
        resident.push(if w.rows == 1 {
            let mut values = vec![0.0f32; w.cols];
            w.format.dequantize(source.data(w), &mut values);
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
    for step in &plan.steps {
        let (weight, source) = match step.op {
            Op::Matmul(ops::Matmul { weight, x, .. }) | Op::ExpertMatmul(ops::ExpertMatmul { weight, x, .. }) => {
                (weight.0, Some((x, plan.weights[weight.0].format.name)))
            }
            Op::Embedding(ops::Embedding { weight, .. }) => (weight.0, None),
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
        sampling: Sampling<'_>,
        logits: bool,
        emit: &mut dyn FnMut(Sampled<'_>) -> bool,
    ) -> Result<(), BackendError> {
        lane.is_for(&self.limits)?;
        self.kept.check(&self.plan.caches, lane.position())?;
        match &self.decoder {
            Some(decoder) if sampling.on_device() => {
                let mut told = 0;
                let mut emit = |chosen: Sampled<'_>| {
                    told += 1;
                    emit(chosen) && !self.interrupt.is_requested()
                };
                let ran = decoder.run(&self.device, &lane, sampling, logits, &mut emit);
                self.kept.write(lane.position(), lane.position() + lane.steps().min(told + decode::WORKS_AHEAD));
                ran?;
                self.interrupt.check()
            }
            _ => super::run_by_batches(self, lane, sampling, emit),
        }
    }

    fn forward(&mut self, batch: Batch<'_>, listener: Option<Listener<'_>>) -> Result<&[f32], BackendError> {
        self.begin(&batch)?;
        self.interrupt.check()?;
        let (n, rows) = (batch.rows(), batch.wanted().len());
        if let (Some(decoder), None, &[token], 1) = (&self.decoder, &listener, batch.ids(), rows) {
            let logits = &mut self.logits;
            let mut keep = |token: Sampled<'_>| {
                logits[..token.logits.len()].copy_from_slice(token.logits);
                true
            };
            let lane = Lane::checked(token, batch.position(), 1, &self.limits)?;
            decoder.run(&self.device, &lane, Sampling::Greedy, true, &mut keep)?;
            return Ok(&self.logits[..self.plan.vocabulary()]);
        }
        let pass = Pass { position: batch.position(), rows: n, wanted: rows };
        self.prepare(&batch);
        match listener {
            Some(listener) => self.tell(pass, listener)?,
            None => self.submit(pass)?,
        }
        let wanted = rows * self.plan.vocabulary();
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
        if let Some(fused) = self.decoder.as_ref().map(Decoder::counters) {
            all.add(fused.dispatches as usize, fused.encode, fused.tokens as usize);
        }
        all
    }

    fn unfused_because(&self) -> Option<&str> {
        match &self.decoder {
            Some(decoder) => decoder.token.unfused.as_deref(),
            None => Some("fused kernels were not asked for"),
        }
    }

    fn layer(&self, rows: usize) -> Option<String> {
        if let (Some(decoder), 1) = (&self.decoder, rows) {
            return Some(decoder.token.layer.clone());
        }
        let layer = |group: &Group| self.plan.steps[group.steps[0]].name.layer;
        let first = self.plan.steps.iter().find_map(|step| step.name.layer);
        let here = self.groups(rows, 0).filter(|(group, _)| layer(group) == first);
        let kernels = here.flat_map(|(group, rows)| group.at(0, rows)).map(|d| d.pipeline.kernel().shader.name);
        Some(kernels.collect::<Vec<_>>().join(" "))
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
        api_name(&self.device.info)
    }

    fn device(&self) -> String {
        self.device.info.name.clone()
    }

    fn driver(&self) -> Option<String> {
        Some(format!("{} {}", self.device.info.driver, self.device.info.driver_info))
    }
}
