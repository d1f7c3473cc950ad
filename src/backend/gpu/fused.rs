//! Fused kernels: neighbouring steps of a single row in one dispatch, with the bits of the steps one after the other.
//!
//! A layer takes five dispatches: norm, quantisation, q/k/v, RoPE and cache; attention; output projection and residual;
//! norm, quantisation, gate/up and activation; down projection and residual. Rows between them lie in the *layout of
//! items* (`wgsl/lib/layout.wgsl`).

use bytemuck::{Pod, Zeroable, bytes_of};

use super::attend::{ATTEND, ATTEND_SCORES, ATTEND_VALUES};
use super::device::Device;
use super::lower::{Dispatch, Grid, Resources, dispatch, shards, vector};
use super::pipelines::Kernel;
use super::shape::Shape;
use super::weights::Shard;
use crate::backend::BackendError;
use crate::numerics::{Precision, WEIGHT_FLOOR, flush};
use crate::ops::{self, Shader};
use crate::plan::{Op, Plan, Step, WeightId};
use crate::quant::{CHUNK, Format};

macro_rules! fused {
    ($id:ident, $name:literal) => {
        static $id: Shader =
            Shader { name: $name, wgsl: include_str!(concat!("../../../wgsl/fused/", $name, ".wgsl")) };
    };
}
fused!(QKV, "qkv");
fused!(RESIDUAL, "residual");
fused!(GATE_UP, "gate_up");
fused!(LOGITS, "logits");

/// Every fused kernel.
pub static FUSED: &[&Shader] = &[&QKV, &ATTEND, &ATTEND_SCORES, &ATTEND_VALUES, &RESIDUAL, &GATE_UP, &LOGITS];

/// The parameters of all kernels made of `wgsl/lib/matvec.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Params {
    streams: [u32; 4],
    rows: u32,
    first: u32,
    second: u32,
    third: u32,
    eps: f32,
    inverse_width: f32,
    steps: f32,
    inverse_steps: f32,
    out_first: u32,
    out_width: u32,
    head_dim: u32,
    pairs: u32,
    kv_width: u32,
    pad: [u32; 3],
}

/// What a stage leaves behind, as the step of the plan whose output it is.
pub(super) struct Output {
    /// The step's name.
    pub step: String,
    pub place: Place,
}

impl Output {
    fn new(step: &str, place: Place) -> Self {
        Self { step: step.to_owned(), place }
    }
}

/// Where an output is.
pub(super) enum Place {
    /// A row in order.
    Row(wgpu::Buffer),
    /// A row in the layout of items.
    Items(wgpu::Buffer),
    /// The newest position of a layer's cache.
    Cache(usize),
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
    fn new(kernel: Dispatch, step: &str, place: Place) -> Self {
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
    none: wgpu::Buffer,
    /// Stand-ins for what a dispatch of q, k and v could write, but does not: for each dispatch its own.
    unwritten: [[wgpu::Buffer; 3]; 3],
}

/// Makes the stages of a token of a plan; `Ok(None)` where some step has no fused kernel.
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

pub(super) type Made<T> = Result<Option<T>, BackendError>;

/// Unwraps `Some`, or returns that there is no fused kernel.
macro_rules! some {
    ($e:expr) => {
        match $e {
            Some(value) => value,
            None => return Ok(None),
        }
    };
}

impl<'a> Fusing<'a> {
    /// All stages: embedding, layers, output, choice of the next token.
    pub fn stages(&mut self) -> Made<Vec<Stage>> {
        let plan = self.plan;
        let quantises = |step: &&Step| matches!(step.op, Op::QuantizeActivations { .. });
        let without = |steps: &'a [Step]| -> (Vec<&'a str>, Vec<Op>) {
            steps.iter().filter(|s| !quantises(s)).map(|s| (s.name.as_str(), s.op.clone())).unzip()
        };
        let ((names, body), (head_names, head)) = (without(&plan.body), without(&plan.head));
        let rows = self.rows(&body)?;
        let mut stages = Vec::new();
        let [Op::Embedding { weight, out }, layers @ ..] = &body[..] else { return Ok(None) };
        let x = *out;
        let place = Place::Items(rows.x.clone());
        stages.extend(Stage::all(self.embedding(&rows, *weight)?, vec![Output::new(names[0], place)]));
        let mut rest = layers;
        while !rest.is_empty() {
            let [
                Op::RmsNorm { x: x1, weight: attn_norm, eps, .. },
                Op::Matmul { weight: wq, bias: bq, .. },
                Op::Matmul { weight: wk, bias: bk, .. },
                Op::Matmul { weight: wv, bias: bv, .. },
                Op::Rope { pairs, neox: false, .. },
                Op::Rope { neox: false, .. },
                Op::KvStore { layer, .. },
                attention @ Op::Attention { head_dim, .. },
                Op::Matmul { weight: wo, bias: bo, .. },
                Op::Add { x: x2, .. },
                Op::RmsNorm { x: x3, weight: ffn_norm, .. },
                Op::Matmul { weight: wg, bias: None, .. },
                Op::Matmul { weight: wu, bias: None, .. },
                Op::SiluMul { .. },
                Op::Matmul { weight: wd, bias: bd, .. },
                Op::Add { x: x4, .. },
                behind @ ..,
            ] = rest
            else {
                return Ok(None);
            };
            if [x1, x2, x3, x4].iter().any(|b| **b != x) {
                return Ok(None);
            }
            // A step's name by its place among the steps matched above.
            let name = |i: usize| names[body.len() - rest.len() + i];
            let items = |buffer: &wgpu::Buffer| Place::Items(buffer.clone());
            let heads = (*layer, *head_dim, *pairs);
            let qkv = some!(self.qkv(&rows, [*wq, *wk, *wv], [*bq, *bk, *bv], *attn_norm, *eps, heads)?);
            let places = [(name(4), Place::Row(rows.q.clone())), (name(6), Place::Cache(*layer))];
            stages.extend(Stage::all(qkv, places.into_iter().map(|(step, place)| Output::new(step, place)).collect()));
            let attention = some!(self.attention(&rows, attention)?);
            let outputs = vec![Output::new(name(7), items(&rows.attention))];
            stages.push(Stage { kernels: attention, outputs });
            let projection = some!(self.residual(&rows.attention, &rows, *wo, *bo)?);
            stages.push(Stage::new(projection, name(9), items(&rows.x)));
            let gate_up = some!(self.gate_up(&rows, *wg, *wu, *ffn_norm, *eps)?);
            stages.push(Stage::new(gate_up, name(13), items(&rows.hidden)));
            let down = some!(self.residual(&rows.hidden, &rows, *wd, *bd)?);
            stages.push(Stage::new(down, name(15), items(&rows.x)));
            rest = behind;
        }
        let [Op::RmsNorm { weight: norm, eps, .. }, Op::Matmul { weight, bias: None, .. }] = head[..] else {
            return Ok(None);
        };
        let output = some!(self.output(&rows, weight, norm, eps)?);
        stages.extend(Stage::all(output, Vec::new()));
        stages.push(Stage::new(self.choice()?, head_names[1], Place::Row(self.logits.clone())));
        Ok(Some(stages))
    }

    fn rows(&self, body: &[Op]) -> Result<Rows, BackendError> {
        let (mut q, mut hidden, mut tiles, mut heads) = (0, 0, 1, 1);
        for op in body {
            match *op {
                Op::Attention { q: buffer, heads: h, .. } => {
                    q = self.plan.buffers[buffer.0].width;
                    heads = h;
                    tiles = self.resources.sizes.context.div_ceil(32);
                }
                Op::SiluMul { out, .. } => hidden = self.plan.buffers[out.0].width,
                _ => {}
            }
        }
        let width = body.first().and_then(Op::output).map_or(0, |b| self.plan.buffers[b.0].width);
        let words = |name: &str, n: usize| self.device.storage(name, 4 * n as u64);
        let three = || Ok::<_, BackendError>([words("unwritten", 4)?, words("unwritten", 4)?, words("unwritten", 4)?]);
        Ok(Rows {
            x: words("token x", width)?,
            q: words("token q", q)?,
            attention: words("token attention", q)?,
            hidden: words("token hidden", hidden)?,
            scores: words("token scores", heads * tiles * 32)?,
            tops: words("token tops", heads * tiles)?,
            none: words("nothing", 4)?,
            unwritten: [three()?, three()?, three()?],
        })
    }

    fn precise(&self) -> bool {
        self.plan.precision == Precision::Precise
    }

    /// The matrices `ids` as runs that are stored behind each other, in order.
    fn runs(&self, ids: &[WeightId]) -> Option<Vec<Run<'a>>> {
        let mut runs: Vec<Run<'a>> = Vec::new();
        for id in ids {
            let weight = &self.plan.weights[id.0];
            let [shard] = shards(self.resources, *id) else { return None };
            if !weight.cols.is_multiple_of(CHUNK) {
                return None;
            }
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
        Some(runs)
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
        if bindings > limits.max_storage_buffers_per_shader_stage
            || groups > limits.max_compute_workgroups_per_dimension
        {
            return Ok(None);
        }
        let all = [&[&run.shard.buffer, &run.shard.buffer], buffers].concat();
        dispatch(self.device, kernel, self.states, bytes_of(params), Grid::Fixed([groups, 1]), &all).map(Some)
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

    fn qkv(
        &mut self,
        rows: &Rows,
        weights: [WeightId; 3],
        biases: [Option<WeightId>; 3],
        norm: WeightId,
        eps: f32,
        (layer, head_dim, pairs): (usize, usize, usize),
    ) -> Made<Vec<Dispatch>> {
        let resources = self.resources;
        let runs = some!(self.runs(&weights));
        let mut all = Vec::new();
        let mut matrix = 0;
        for run in &runs {
            let range = matrix..matrix + run.rows.len();
            let count = |i: usize| if range.contains(&i) { self.plan.weights[weights[i].0].rows as u32 } else { 0 };
            let params = Params {
                second: count(0),
                third: count(1),
                head_dim: head_dim as u32,
                pairs: pairs as u32,
                kv_width: self.plan.kv_width as u32,
                ..self.params(run, eps)
            };
            let bias: Vec<f32> = range.clone().flat_map(|i| self.bias(biases[i], weights[i])).collect();
            let has_bias = biases[range.clone()].iter().any(Option::is_some);
            let bias =
                if has_bias { self.device.upload("bias", bytemuck::cast_slice(&bias))? } else { rows.none.clone() };
            let shape = Shape::new(self.device, run.format, run.cols, params.rows as usize, 1);
            let kernel = some!(shape.kernel(self.device, &QKV, run.format, self.precise()));
            let rotates = range.start < 2;
            let kernel = kernel.with("HAS_BIAS", u32::from(has_bias)).with("ROTATES", u32::from(rotates));
            let norm = self.norm(norm)?;
            let [k_cache, v_cache] = &resources.caches[layer];
            // Each dispatch binds only what it writes, so that nothing keeps it from running beside the others.
            let mut written = [&rows.q, k_cache, v_cache];
            for (i, buffer) in written.iter_mut().enumerate().filter(|(i, _)| !range.contains(i)) {
                *buffer = &rows.unwritten[all.len()][i];
            }
            let [q, k, v] = written;
            let buffers = [&rows.x, &norm, q, k, v, &resources.rope, &bias];
            let groups = params.rows.div_ceil(shape.slots());
            all.push(some!(self.product(kernel, &params, groups, run, &buffers)?));
            matrix = range.end;
        }
        Ok(Some(all))
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

    fn residual(&mut self, x: &wgpu::Buffer, rows: &Rows, weight: WeightId, bias: Option<WeightId>) -> Made<Dispatch> {
        let runs = some!(self.runs(&[weight]));
        let run = &runs[0];
        let params = self.params(run, 0.0);
        if !params.rows.is_multiple_of(CHUNK as u32) {
            return Ok(None);
        }
        let shape = Shape::new(self.device, run.format, run.cols, params.rows as usize, 1);
        let kernel = some!(shape.kernel(self.device, &RESIDUAL, run.format, self.precise()));
        let kernel = kernel.with("HAS_BIAS", u32::from(bias.is_some()));
        let bias = bias.map_or(&rows.none, |b| vector(self.resources, b));
        let groups = params.rows.div_ceil(shape.slots());
        self.product(kernel, &params, groups, run, &[x, &rows.none, &rows.x, bias])
    }

    fn gate_up(&mut self, rows: &Rows, gate: WeightId, up: WeightId, norm: WeightId, eps: f32) -> Made<Dispatch> {
        let runs = some!(self.runs(&[gate, up]));
        let [run] = &runs[..] else { return Ok(None) };
        let each = self.plan.weights[gate.0].rows as u32;
        let second = (run.shard.first + run.rows[0]) as u32;
        let params = Params { rows: each, second, ..self.params(run, eps) };
        if !each.is_multiple_of(CHUNK as u32) {
            return Ok(None);
        }
        let shape = Shape::new(self.device, run.format, run.cols, each as usize, 2);
        let kernel = some!(shape.kernel(self.device, &GATE_UP, run.format, self.precise()));
        let norm = self.norm(norm)?;
        let groups = each.div_ceil(shape.slots() / 2);
        self.product(kernel, &params, groups, run, &[&rows.x, &norm, &rows.hidden])
    }

    fn output(&mut self, rows: &Rows, weight: WeightId, norm: WeightId, eps: f32) -> Made<Vec<Dispatch>> {
        let w = &self.plan.weights[weight.0];
        if !w.cols.is_multiple_of(CHUNK) {
            return Ok(None);
        }
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
        Ok(Some(all))
    }

    /// One workgroup looks through all logits: as many threads as it can have.
    fn choosing_threads(&self) -> u32 {
        self.device.limits.max_compute_invocations_per_workgroup.min(1024)
    }

    /// The largest logit's index becomes the next id.
    fn choice(&mut self) -> Result<Dispatch, BackendError> {
        let p = ops::argmax::Params { width: self.plan.vocabulary() as u32, pad: [0; 3] };
        let kernel = Kernel::new(&ops::argmax::SHADER).with("THREADS", self.choosing_threads());
        dispatch(self.device, kernel, self.states, bytes_of(&p), Grid::Fixed([1, 1]), &[self.logits, self.ids])
    }

    /// The next id is drawn by `options` and that of `draws` which has its place.
    pub fn draw(&mut self, options: &wgpu::Buffer, draws: &wgpu::Buffer) -> Result<Dispatch, BackendError> {
        let p = ops::draw::Params { width: self.plan.vocabulary() as u32, pad: [0; 3] };
        let kernel = Kernel::new(&ops::draw::SHADER).with("THREADS", self.choosing_threads());
        let buffers = [self.logits, self.ids, options, draws];
        dispatch(self.device, kernel, self.states, bytes_of(&p), Grid::Fixed([1, 1]), &buffers)
    }
}
