//! Fused kernels: neighbouring steps of a single row in one dispatch, with the bits of the steps one after the other.
//!
//! A layer takes five dispatches: norm, quantisation, q/k/v, RoPE and cache; attention; output projection and residual;
//! norm, quantisation, gate/up and activation; down projection and residual. Rows between them lie in the *layout of
//! items* (`wgsl/lib/layout.wgsl`).

use bytemuck::bytes_of;

use super::device::Device;
use super::layer::{Layer, Layers, Norm, Product};
use super::lower::{Dispatch, Grid, Resources, dispatch, shards, vector};
use super::pipelines::Kernel;
use super::shape::Shape;
use super::weights::Shard;
use crate::backend::BackendError;
use crate::numerics::{Precision, WEIGHT_FLOOR, flush};
use crate::ops;
use crate::plan::{CacheId, Op, Plan, Step, StepName, WeightId};
use crate::quant::{CHUNK, Format};
use crate::shaders::params::Matvec as Params;
use crate::shaders::{GATE_UP, LOGITS, QKV, RESIDUAL};

/// What a stage leaves behind, as the step of the plan whose output it is.
pub(super) struct Output {
    /// The step's name.
    pub step: StepName,
    pub place: Place,
}

impl Output {
    fn new(step: &Step, place: Place) -> Self {
        Self { step: step.name.clone(), place }
    }
}

/// Where an output is.
pub(super) enum Place {
    /// A row in order.
    Row(wgpu::Buffer),
    /// A row in the layout of items.
    Items(wgpu::Buffer),
    /// The newest position of a cache.
    Cache(CacheId),
}

/// A stage of a token.
pub(super) struct Stage {
    pub kernels: Kernels,
    pub outputs: Vec<Output>,
}

/// The dispatches of a stage.
pub(super) enum Kernels {
    /// The same dispatch at every position.
    Fixed(Dispatch),
    /// Attention, by the length of the cache.
    Attention {
        /// With the longest cache each takes: a workgroup for a head and some dimensions.
        short: Vec<(usize, Dispatch)>,
        /// A workgroup a tile for the scores, then one for a head and some dimensions.
        long: [Dispatch; 2],
    },
}

impl Stage {
    fn new(kernel: Dispatch, step: &Step, place: Place) -> Self {
        Self { kernels: Kernels::Fixed(kernel), outputs: vec![Output::new(step, place)] }
    }

    /// Dispatches that make `outputs` together: the last leaves them.
    fn all(dispatches: Vec<Dispatch>, outputs: Vec<Output>) -> Vec<Self> {
        let fixed = |d| Self { kernels: Kernels::Fixed(d), outputs: Vec::new() };
        let mut stages: Vec<_> = dispatches.into_iter().map(fixed).collect();
        if let Some(stage) = stages.last_mut() {
            stage.outputs = outputs;
        }
        stages
    }

    /// The dispatches at a position.
    pub fn at(&self, position: usize) -> &[Dispatch] {
        match &self.kernels {
            Kernels::Fixed(d) => std::slice::from_ref(d),
            Kernels::Attention { short, long } => {
                short.iter().find(|s| position < s.0).map_or(long, |s| std::slice::from_ref(&s.1))
            }
        }
    }

    /// The positions from which on there are other dispatches.
    fn changes(&self) -> Vec<usize> {
        match &self.kernels {
            Kernels::Fixed(_) => vec![0],
            Kernels::Attention { short, .. } => [0].into_iter().chain(short.iter().map(|s| s.0)).collect(),
        }
    }

    /// All dispatches at positions below `context`.
    pub fn below(&self, context: usize) -> impl Iterator<Item = &Dispatch> {
        self.changes().into_iter().filter(move |c| *c < context).flat_map(|c| self.at(c))
    }
}

/// The word of element `i` of a row in the layout of items (`item_word` in `wgsl/lib/layout.wgsl`).
pub(super) fn item_word(i: usize, items: usize) -> usize {
    let quad = i / 4 % 8;
    (quad / 2 * items + 2 * (i / 32) + quad % 2) * 4 + i % 4
}

/// The rows of a token between dispatches.
pub(super) struct Rows {
    x: wgpu::Buffer,
    pub q: wgpu::Buffer,
    pub attention: wgpu::Buffer,
    hidden: wgpu::Buffer,
    pub scores: wgpu::Buffer,
    pub tops: wgpu::Buffer,
    /// Stand-ins for what a dispatch of q, k and v could write, but does not: for each dispatch its own.
    unwritten: [[wgpu::Buffer; 3]; 3],
}

/// Fails unless rows of so many elements are whole chunks of 32.
fn whole_chunks(name: &str, elements: usize) -> Result<(), String> {
    match elements % CHUNK {
        0 => Ok(()),
        _ => Err(format!("'{name}' has rows of {elements} elements, no multiple of {CHUNK}")),
    }
}

/// Makes the stages of a token of a plan, or says why the plan runs step by step.
pub(super) struct Fusing<'a> {
    pub device: &'a mut Device,
    pub plan: &'a Plan,
    pub resources: &'a Resources,
    /// States of the tokens of a submission.
    pub states: &'a wgpu::Buffer,
    /// Ids of tokens.
    pub ids: &'a wgpu::Buffer,
    /// Rows of logits.
    pub logits: &'a wgpu::Buffer,
}

/// Some rows of one matrix or of several that lie behind each other.
struct Run<'a> {
    format: &'static Format,
    shard: &'a Shard,
    cols: usize,
    rows: Vec<usize>,
}

/// A fused kernel or what else was made; or why there is none.
pub(super) type Made<T> = Result<Result<T, String>, BackendError>;

/// Unwraps `Ok`, or returns why there is no fused kernel.
macro_rules! some {
    ($e:expr) => {
        match $e {
            Ok(value) => value,
            Err(reason) => return Ok(Err(reason)),
        }
    };
}
pub(super) use some;

impl<'a> Fusing<'a> {
    /// All stages: embedding, layers, output, choice of the next token.
    pub fn stages(&mut self) -> Made<Vec<Stage>> {
        let found = some!(Layers::of(self.plan));
        let rows = self.rows(&found)?;
        let mut stages = Vec::new();
        let (step, weight) = found.embedding;
        let place = Place::Items(rows.x.clone());
        stages.extend(Stage::all(self.embedding(&rows, weight)?, vec![Output::new(step, place)]));
        for layer in &found.layers {
            let [queries, stored, attended, residual, hidden, last] = layer.leaves;
            let items = |buffer: &wgpu::Buffer| Place::Items(buffer.clone());
            let qkv = some!(self.qkv(&rows, layer)?);
            let outputs =
                vec![Output::new(queries, Place::Row(rows.q.clone())), Output::new(stored, Place::Cache(layer.cache))];
            stages.extend(Stage::all(qkv, outputs));
            let attention = some!(self.attention(&rows, layer.attention)?);
            stages.push(Stage { kernels: attention, outputs: vec![Output::new(attended, items(&rows.attention))] });
            let projection = some!(self.residual(&rows.attention, &rows, layer.projection)?);
            stages.push(Stage::new(projection, residual, items(&rows.x)));
            let gate_up = some!(self.gate_up(&rows, layer)?);
            stages.push(Stage::new(gate_up, hidden, items(&rows.hidden)));
            let down = some!(self.residual(&rows.hidden, &rows, layer.down)?);
            stages.push(Stage::new(down, last, items(&rows.x)));
        }
        let (step, weight) = found.output;
        stages.extend(Stage::all(some!(self.output(&rows, weight, found.norm)?), Vec::new()));
        stages.push(Stage::new(self.choice()?, step, Place::Row(self.logits.clone())));
        Ok(Ok(stages))
    }

    fn rows(&self, found: &Layers<'_>) -> Result<Rows, BackendError> {
        let width = |step: &Step| step.op.output().map_or(0, |b| self.plan.buffers[b.0].width);
        let (mut q, mut hidden, mut heads) = (0, 0, 1);
        for layer in &found.layers {
            q = q.max(width(layer.leaves[2]));
            hidden = hidden.max(width(layer.leaves[4]));
            if let Op::Attention { heads: h, .. } = layer.attention {
                heads = heads.max(*h);
            }
        }
        let tiles = if found.layers.is_empty() { 1 } else { self.resources.sizes.context.div_ceil(32) };
        let words = |name: &str, n: usize| self.device.storage(name, 4 * n as u64);
        let three = || Ok::<_, BackendError>([words("unwritten", 4)?, words("unwritten", 4)?, words("unwritten", 4)?]);
        Ok(Rows {
            x: words("token x", width(found.embedding.0))?,
            q: words("token q", q)?,
            attention: words("token attention", q)?,
            hidden: words("token hidden", hidden)?,
            scores: words("token scores", heads * tiles * 32)?,
            tops: words("token tops", heads * tiles)?,
            unwritten: [three()?, three()?, three()?],
        })
    }

    fn precise(&self) -> bool {
        self.plan.precision == Precision::Precise
    }

    /// The matrices `ids` as runs that are stored behind each other, in order.
    fn runs(&self, ids: &[WeightId]) -> Result<Vec<Run<'a>>, String> {
        let mut runs: Vec<Run<'a>> = Vec::new();
        for id in ids {
            let weight = &self.plan.weights[id.0];
            let [shard] = shards(self.resources, *id) else {
                return Err(format!("'{}' does not fit one binding of the device", weight.name));
            };
            whole_chunks(&weight.name, weight.cols)?;
            match runs.last_mut() {
                Some(run)
                    if run.shard.buffer == shard.buffer
                        && run.shard.first + run.rows.iter().sum::<usize>() == shard.first =>
                {
                    run.rows.push(weight.rows);
                }
                _ => runs.push(Run { format: weight.format, shard, cols: weight.cols, rows: vec![weight.rows] }),
            }
        }
        Ok(runs)
    }

    fn params(&self, run: &Run<'_>, eps: f32) -> Params {
        Params {
            streams: run.shard.streams,
            rows: run.rows.iter().sum::<usize>() as u32,
            first: run.shard.first as u32,
            eps,
            inverse_width: 1.0 / run.cols as f32,
            steps: self.plan.precision.steps(),
            inverse_steps: self.plan.precision.inverse_steps(),
            ..Params::default()
        }
    }

    /// One dispatch of a kernel made of the matvec core: `x` and `norm` come before `buffers`.
    fn product(
        &mut self,
        kernel: Kernel,
        params: &Params,
        groups: u32,
        run: &Run<'_>,
        buffers: &[&wgpu::Buffer],
    ) -> Made<Dispatch> {
        let limits = &self.device.limits;
        // State and two views of the weights come on top.
        let bindings = buffers.len() as u32 + 3;
        if bindings > limits.max_storage_buffers_per_shader_stage {
            let has = limits.max_storage_buffers_per_shader_stage;
            return Ok(Err(format!("{} binds {bindings} buffers, the device allows {has}", kernel.shader.name)));
        }
        if groups > limits.max_compute_workgroups_per_dimension {
            return Ok(Err(format!("{} needs {groups} workgroups, more than the device allows", kernel.shader.name)));
        }
        let all = [&[&run.shard.buffer, &run.shard.buffer], buffers].concat();
        dispatch(self.device, kernel, self.states, bytes_of(params), Grid::Fixed([groups, 1]), &all).map(Ok)
    }

    fn embedding(&mut self, rows: &Rows, weight: WeightId) -> Result<Vec<Dispatch>, BackendError> {
        let w = &self.plan.weights[weight.0];
        let items = if w.cols.is_multiple_of(CHUNK) { w.cols / 16 } else { 0 };
        let mut all = Vec::new();
        for shard in shards(self.resources, weight) {
            let p = ops::embedding::Params::new(w.format, w.cols, shard.row_base, shard.rows, shard.streams);
            let kernel = Kernel::new(&ops::embedding::SHADER).format(w.format).with("ITEMS", items as u32);
            let groups = ops::embedding::workgroups(&p, 1);
            let buffers = [&shard.buffer, &shard.buffer, self.ids, &rows.x];
            all.push(dispatch(self.device, kernel, self.states, bytes_of(&p), Grid::Fixed([groups[0], 1]), &buffers)?);
        }
        Ok(all)
    }

    fn qkv(&mut self, rows: &Rows, layer: &Layer<'_>) -> Made<Vec<Dispatch>> {
        let (weights, biases) = (layer.qkv.map(|p| p.weight), layer.qkv.map(|p| p.bias));
        let resources = self.resources;
        let cache = self.plan.caches[layer.cache.0];
        let runs = some!(self.runs(&weights));
        let mut all = Vec::new();
        let mut matrix = 0;
        for run in &runs {
            let range = matrix..matrix + run.rows.len();
            let count = |i: usize| if range.contains(&i) { self.plan.weights[weights[i].0].rows as u32 } else { 0 };
            let params = Params {
                second: count(0),
                third: count(1),
                head_dim: cache.head_dim as u32,
                pairs: self.plan.angles[layer.angles.0].len() as u32,
                kv_width: cache.width() as u32,
                ..self.params(run, layer.attention_norm.eps)
            };
            let bias: Vec<f32> = range.clone().flat_map(|i| self.bias(biases[i], weights[i])).collect();
            let has_bias = biases[range.clone()].iter().any(Option::is_some);
            let bias = if has_bias {
                self.device.upload("bias", bytemuck::cast_slice(&bias))?
            } else {
                resources.none.clone()
            };
            let shape = Shape::new(self.device, run.format, run.cols, params.rows as usize, 1);
            let kernel = some!(shape.kernel(self.device, &QKV, run.format, self.precise()));
            let rotates = range.start < 2;
            let kernel = kernel.with("HAS_BIAS", u32::from(has_bias)).with("ROTATES", u32::from(rotates));
            let norm = self.norm(layer.attention_norm.weight)?;
            let [k_cache, v_cache] = &resources.caches[layer.cache.0];
            // Each dispatch binds only what it writes, so that nothing keeps it from running beside the others.
            let mut written = [&rows.q, k_cache, v_cache];
            for (i, buffer) in written.iter_mut().enumerate().filter(|(i, _)| !range.contains(i)) {
                *buffer = &rows.unwritten[all.len()][i];
            }
            let [q, k, v] = written;
            let buffers = [&rows.x, &norm, q, k, v, &resources.angles[layer.angles.0], &bias];
            let groups = params.rows.div_ceil(shape.slots());
            all.push(some!(self.product(kernel, &params, groups, run, &buffers)?));
            matrix = range.end;
        }
        Ok(Ok(all))
    }

    /// A bias, or as many zeros as the matrix has rows.
    fn bias(&self, bias: Option<WeightId>, matrix: WeightId) -> Vec<f32> {
        let rows = self.plan.weights[matrix.0].rows;
        bias.and_then(|b| self.resources.vectors.get(&b.0).cloned()).unwrap_or_else(|| vec![0.0; rows])
    }

    /// A norm's weights in the layout of items, flushed as `rms_norm` does.
    fn norm(&self, id: WeightId) -> Result<wgpu::Buffer, BackendError> {
        let values = self.resources.vectors.get(&id.0).map(Vec::as_slice).unwrap_or_default();
        let items = values.len() / 16;
        let mut placed = vec![0.0f32; values.len()];
        for (i, value) in values.iter().enumerate() {
            placed[item_word(i, items)] = flush(*value, WEIGHT_FLOOR);
        }
        self.device.upload("norm", bytemuck::cast_slice(&placed))
    }

    fn residual(&mut self, x: &wgpu::Buffer, rows: &Rows, Product { weight, bias }: Product) -> Made<Dispatch> {
        let runs = some!(self.runs(&[weight]));
        let run = &runs[0];
        let params = self.params(run, 0.0);
        some!(whole_chunks(&self.plan.weights[weight.0].name, params.rows as usize));
        let shape = Shape::new(self.device, run.format, run.cols, params.rows as usize, 1);
        let kernel = some!(shape.kernel(self.device, &RESIDUAL, run.format, self.precise()));
        let kernel = kernel.with("HAS_BIAS", u32::from(bias.is_some()));
        let bias = bias.map_or(&self.resources.none, |b| vector(self.resources, b));
        let groups = params.rows.div_ceil(shape.slots());
        self.product(kernel, &params, groups, run, &[x, &self.resources.none, &rows.x, bias])
    }

    fn gate_up(&mut self, rows: &Rows, layer: &Layer<'_>) -> Made<Dispatch> {
        let (gate, up, norm) = (layer.gate, layer.up, layer.feed_forward_norm);
        let runs = some!(self.runs(&[gate, up]));
        let name = &self.plan.weights[gate.0].name;
        let [run] = &runs[..] else { return Ok(Err(format!("'{name}' and its partner have different formats"))) };
        let each = self.plan.weights[gate.0].rows as u32;
        let second = (run.shard.first + run.rows[0]) as u32;
        let params = Params { rows: each, second, ..self.params(run, norm.eps) };
        some!(whole_chunks(name, each as usize));
        let shape = Shape::new(self.device, run.format, run.cols, each as usize, 2);
        let kernel = some!(shape.kernel(self.device, &GATE_UP, run.format, self.precise()));
        let norm = self.norm(norm.weight)?;
        let groups = each.div_ceil(shape.slots() / 2);
        self.product(kernel, &params, groups, run, &[&rows.x, &norm, &rows.hidden])
    }

    fn output(&mut self, rows: &Rows, weight: WeightId, Norm { weight: norm, eps }: Norm) -> Made<Vec<Dispatch>> {
        let w = &self.plan.weights[weight.0];
        some!(whole_chunks(&w.name, w.cols));
        let norm = self.norm(norm)?;
        let mut all = Vec::new();
        for shard in shards(self.resources, weight) {
            let run = Run { format: w.format, shard, cols: w.cols, rows: vec![shard.rows] };
            let params =
                Params { out_first: shard.row_base as u32, out_width: w.rows as u32, ..self.params(&run, eps) };
            let shape = Shape::new(self.device, w.format, w.cols, shard.rows, 1);
            let kernel = some!(shape.kernel(self.device, &LOGITS, w.format, self.precise()));
            let groups = params.rows.div_ceil(shape.slots());
            all.push(some!(self.product(kernel, &params, groups, &run, &[&rows.x, &norm, self.logits])?));
        }
        Ok(Ok(all))
    }

    /// One workgroup looks through all logits: as many threads as it can have.
    fn choosing_threads(&self) -> u32 {
        self.device.limits.max_compute_invocations_per_workgroup.min(1024)
    }

    /// The largest logit's index becomes the next id.
    fn choice(&mut self) -> Result<Dispatch, BackendError> {
        let p = ops::argmax::Params { width: self.plan.vocabulary() as u32 };
        let kernel = Kernel::new(&ops::argmax::SHADER).with("THREADS", self.choosing_threads());
        dispatch(self.device, kernel, self.states, bytes_of(&p), Grid::Fixed([1, 1]), &[self.logits, self.ids])
    }

    /// The next id is drawn by `options` and that of `draws` which has its place.
    pub fn draw(&mut self, options: &wgpu::Buffer, draws: &wgpu::Buffer) -> Result<Dispatch, BackendError> {
        let p = ops::draw::Params { width: self.plan.vocabulary() as u32 };
        let kernel = Kernel::new(&ops::draw::SHADER).with("THREADS", self.choosing_threads());
        let buffers = [self.logits, self.ids, options, draws];
        dispatch(self.device, kernel, self.states, bytes_of(&p), Grid::Fixed([1, 1]), &buffers)
    }
}
