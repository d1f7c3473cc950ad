//! Single tokens: the groups of their pieces, with the bits of the steps one after the other.
//!
//! A layer of llama takes five dispatches: norm, quantisation, q/k/v, RoPE and cache; attention; output projection and residual;
//! norm, quantisation, gate/up and activation; down projection and residual. What fused kernels give each other lies in the *layout
//! of items* (`wgsl/lib/layout.wgsl`). A step without a fused kernel is one plain dispatch within the token; the rows that it reads
//! and writes are in order, and a dispatch brings a row from one layout to the other where both are asked for.

use std::ops::Range;

use bytemuck::bytes_of;

use super::cut::{End, Norm, Piece, Product, Work, layer, pieces, shapes, unfused};
use super::device::Device;
use super::group::{Group, Kernels, Output, Place, item_word};
use super::lower::{Dispatch, Grid, Lowering, Resources, dispatch, shards, vector};
use super::pipelines::Kernel;
use super::shape::Shape;
use super::weights::Shard;
use super::{attend, row_words, rows};
use crate::backend::BackendError;
use crate::numerics::{Precision, WEIGHT_FLOOR, flush};
use crate::ops;
use crate::plan::{BufferId, Plan, WeightId};
use crate::quant::{CHUNK, Format};
use crate::shaders::params::{Matvec as Params, Place as PlaceParams};
use crate::shaders::{PLACE, Shader};

/// Where the row of a buffer is while a token is computed.
struct Value {
    /// In order.
    row: wgpu::Buffer,
    /// In the layout of items, where a fused kernel asked for that.
    items: Option<wgpu::Buffer>,
    /// Which of the two hold what was written last.
    in_row: bool,
    in_items: bool,
}

/// Some rows of one matrix or of several that lie behind each other.
struct Run<'a> {
    format: &'static Format,
    shard: &'a Shard,
    cols: usize,
    rows: Vec<usize>,
}

/// One dispatch of a kernel made of the matvec core, but for its buffers.
struct Call<'a> {
    kernel: Kernel,
    params: Params,
    groups: u32,
    /// Rows of the product that a workgroup takes.
    slots: u32,
    run: Run<'a>,
    /// Which products it makes.
    products: Range<usize>,
}

/// Makes the groups of a token of a plan.
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

/// The groups of a token.
pub(super) struct Token {
    pub groups: Vec<Group>,
    /// The steps that no fused kernel takes.
    pub unfused: Option<String>,
    /// The kernels of a layer.
    pub layer: String,
}

impl<'a> Fusing<'a> {
    /// All groups: those of the plan and the choice of the next token.
    pub fn groups(&mut self) -> Result<Token, BackendError> {
        let plan = self.plan;
        let pieces = {
            let (device, resources) = (&*self.device, self.resources);
            let takes = |work: &Work| {
                shapes(plan, work)?;
                match work {
                    Work::Products { norm, products, end, .. } => {
                        calls(device, plan, resources, *norm, products, *end).map(drop)
                    }
                    Work::Attention(op) => attend::fits(device, plan, op),
                    Work::Heads(_) => rows::heads_fit(device),
                    Work::Join(join) => rows::join_kernel(device, plan, join).map(drop),
                    _ => Ok(()),
                }
            };
            pieces(plan, &takes)
        };
        let values = plan.buffers.iter().zip(&self.resources.buffers);
        let values = values.map(|(_, row)| Value { row: row.clone(), items: None, in_row: false, in_items: false });
        let mut making = Making { values: values.collect(), groups: Vec::new(), scratch: None, fusing: self };
        pieces.iter().try_for_each(|piece| making.piece(piece))?;
        making.logits()?;
        let mut groups = making.groups;
        let choice = self.choice()?;
        groups.push(Group { steps: Vec::new(), kernels: Kernels::Fixed(vec![choice]), outputs: Vec::new() });
        Ok(Token { groups, unfused: unfused(plan, &pieces), layer: layer(plan, &pieces) })
    }

    /// One workgroup looks through all logits: as many threads as it can have.
    fn choosing_threads(&self) -> u32 {
        self.device.limits.max_compute_invocations_per_workgroup.min(1024)
    }

    /// The largest logit's index becomes the next id.
    fn choice(&mut self) -> Result<Dispatch, BackendError> {
        let p = ops::argmax::Params { width: self.plan.vocabulary() as u32 };
        let kernel = Kernel::new(&ops::argmax::SHADER).with("THREADS", self.choosing_threads());
        self.dispatch(kernel, bytes_of(&p), Grid::Fixed([1, 1]), &[self.logits, self.ids])
    }

    /// The next id is drawn by `options` and that of `draws` which has its place.
    pub fn draw(&mut self, options: &wgpu::Buffer, draws: &wgpu::Buffer) -> Result<Dispatch, BackendError> {
        let p = ops::draw::Params { width: self.plan.vocabulary() as u32 };
        let kernel = Kernel::new(&ops::draw::SHADER).with("THREADS", self.choosing_threads());
        self.dispatch(kernel, bytes_of(&p), Grid::Fixed([1, 1]), &[self.logits, self.ids, options, draws])
    }

    pub(super) fn dispatch(
        &mut self,
        kernel: Kernel,
        params: &[u8],
        grid: Grid,
        buffers: &[&wgpu::Buffer],
    ) -> Result<Dispatch, BackendError> {
        dispatch(self.device, kernel, self.states, params, grid, buffers)
    }
}

/// What has been made so far.
pub(super) struct Making<'a, 'b> {
    pub fusing: &'b mut Fusing<'a>,
    /// By buffer of the plan.
    values: Vec<Value>,
    groups: Vec<Group>,
    /// What attention over a long cache keeps between its dispatches.
    scratch: Option<attend::Scratch>,
}

impl Making<'_, '_> {
    pub(super) fn width(&self, id: BufferId) -> usize {
        self.fusing.plan.buffers[id.0].width
    }

    pub(super) fn push(&mut self, piece: &Piece, kernels: Kernels) {
        let outputs = piece.leaves.iter().filter_map(|&step| Some(Output { step, place: self.place(step)? })).collect();
        self.groups.push(Group { steps: piece.steps.clone().collect(), kernels, outputs });
    }

    /// Where the output of a step is, once it was made.
    fn place(&self, step: usize) -> Option<Place> {
        let op = &self.fusing.plan.steps[step].op;
        if let Some(cache) = op.appends_to() {
            return Some(Place::Cache(cache));
        }
        let out = op.output()?;
        let value = &self.values[out.0];
        match &value.items {
            Some(items) if !value.in_row => Some(Place::Items(items.clone(), self.width(out))),
            _ => Some(Place::Rows(value.row.clone(), row_words(self.fusing.plan, out))),
        }
    }

    /// A row that the next dispatch writes in order.
    fn write_row(&mut self, id: BufferId) -> wgpu::Buffer {
        let value = &mut self.values[id.0];
        (value.in_row, value.in_items) = (true, false);
        value.row.clone()
    }

    /// A row that the next dispatch writes, in order, where another was read.
    pub(super) fn replace_row(&mut self, id: BufferId, row: wgpu::Buffer) {
        let items = self.values[id.0].items.clone();
        self.values[id.0] = Value { row, items, in_row: true, in_items: false };
    }

    /// A row that the next dispatch writes in the layout of items.
    pub(super) fn write_items(&mut self, id: BufferId) -> Result<wgpu::Buffer, BackendError> {
        let items = self.items(id)?;
        let value = &mut self.values[id.0];
        (value.in_row, value.in_items) = (false, true);
        Ok(items)
    }

    fn items(&mut self, id: BufferId) -> Result<wgpu::Buffer, BackendError> {
        if let Some(items) = &self.values[id.0].items {
            return Ok(items.clone());
        }
        let name = format!("token {}", self.fusing.plan.buffers[id.0].name);
        let items = self.fusing.device.storage(&name, 4 * self.width(id) as u64)?;
        self.values[id.0].items = Some(items.clone());
        Ok(items)
    }

    /// A row in order, brought there where it is not.
    pub(super) fn read_row(&mut self, id: BufferId) -> Result<wgpu::Buffer, BackendError> {
        let (value, row) = (&self.values[id.0], self.values[id.0].row.clone());
        if let (false, true, Some(items)) = (value.in_row, value.in_items, value.items.clone()) {
            self.move_row(id, Some("FROM_ITEMS"), [&items, &row], 0)?;
            self.values[id.0].in_row = true;
        }
        Ok(row)
    }

    /// A row in the layout of items, brought there where it is not.
    pub(super) fn read_items(&mut self, id: BufferId) -> Result<wgpu::Buffer, BackendError> {
        let items = self.items(id)?;
        if !self.values[id.0].in_items {
            let row = self.values[id.0].row.clone();
            self.move_row(id, Some("TO_ITEMS"), [&row, &items], 0)?;
            self.values[id.0].in_items = true;
        }
        Ok(items)
    }

    fn move_row(
        &mut self,
        id: BufferId,
        how: Option<&'static str>,
        buffers: [&wgpu::Buffer; 2],
        stride: u32,
    ) -> Result<(), BackendError> {
        let p = PlaceParams { width: self.width(id) as u32, stride };
        let kernel = how.into_iter().fold(Kernel::new(&PLACE), |kernel, how| kernel.with(how, 1));
        let grid = Grid::Fixed([p.width.div_ceil(ops::THREADS), 1]);
        let moved = self.fusing.dispatch(kernel, bytes_of(&p), grid, &buffers)?;
        self.groups.push(Group { steps: Vec::new(), kernels: Kernels::Fixed(vec![moved]), outputs: Vec::new() });
        Ok(())
    }

    /// The logits where several tokens of a submission have place, if the last piece has not put them there.
    fn logits(&mut self) -> Result<(), BackendError> {
        let id = self.fusing.plan.logits;
        if !self.values[id.0].in_row && !self.values[id.0].in_items {
            return Ok(());
        }
        let (row, logits, stride) = (self.read_row(id)?, self.fusing.logits.clone(), self.width(id) as u32);
        self.move_row(id, None, [&row, &logits], stride)
    }

    fn piece(&mut self, piece: &Piece) -> Result<(), BackendError> {
        match &piece.work {
            Work::Nothing => {}
            Work::Same { x, out } => {
                let Value { row, items, in_row, in_items } = &self.values[x.0];
                let same = Value { row: row.clone(), items: items.clone(), in_row: *in_row, in_items: *in_items };
                self.values[out.0] = same;
            }
            Work::Embedding { weight, out } => {
                let dispatches = self.embedding(*weight, *out)?;
                self.push(piece, Kernels::Fixed(dispatches));
            }
            Work::Heads(heads) => self.heads(piece, heads)?,
            Work::Join(join) => self.join(piece, join)?,
            Work::Attention(op) => {
                let q = self.read_row(op.q)?;
                let out = self.write_items(op.out)?;
                let kernels = attend::kernels(self.fusing, &mut self.scratch, op, [&q, &out])?;
                self.push(piece, kernels);
            }
            Work::Products { x, norm, products, end } => self.products(piece, *x, *norm, products, *end)?,
            Work::Plain => self.plain(piece)?,
        }
        Ok(())
    }

    fn plain(&mut self, piece: &Piece) -> Result<(), BackendError> {
        let op = &self.fusing.plan.steps[piece.steps.start].op;
        for id in op.reads() {
            self.read_row(id)?;
        }
        if let Some(out) = op.output() {
            self.write_row(out);
        }
        let rows: Vec<_> = self.values.iter().map(|v| v.row.clone()).collect();
        let f = &mut *self.fusing;
        // The only row is the wanted one: number 0, as `none` holds it.
        let mut lowering = Lowering {
            device: f.device,
            plan: f.plan,
            resources: f.resources,
            rows: &rows,
            states: [f.states; 2],
            wanted: &f.resources.none,
            ids: f.ids,
        };
        let dispatches = lowering.plain(op)?;
        self.push(piece, Kernels::Fixed(dispatches));
        Ok(())
    }

    fn embedding(&mut self, weight: WeightId, out: BufferId) -> Result<Vec<Dispatch>, BackendError> {
        let w = &self.fusing.plan.weights[weight.0];
        let items = if w.cols.is_multiple_of(CHUNK) { w.cols / 16 } else { 0 };
        let out = if items > 0 { self.write_items(out)? } else { self.write_row(out) };
        let mut all = Vec::new();
        for shard in shards(self.fusing.resources, weight) {
            let p = ops::embedding::Params::new(w.format, w.cols, shard.row_base, shard.rows, shard.streams);
            let kernel = Kernel::new(&ops::embedding::SHADER).format(w.format).with("ITEMS", items as u32);
            let grid = Grid::Fixed([ops::embedding::workgroups(&p, 1)[0], 1]);
            let buffers = [&shard.buffer, &shard.buffer, self.fusing.ids, &out];
            all.push(self.fusing.dispatch(kernel, bytes_of(&p), grid, &buffers)?);
        }
        Ok(all)
    }

    fn products(
        &mut self,
        piece: &Piece,
        x: BufferId,
        norm: Option<Norm>,
        products: &[Product],
        end: End,
    ) -> Result<(), BackendError> {
        let (plan, r) = (self.fusing.plan, self.fusing.resources);
        let made = calls(self.fusing.device, plan, r, norm, products, end);
        let made =
            made.map_err(|what| BackendError::Unsupported { device: self.fusing.device.info.name.clone(), what })?;
        let x = self.read_items(x)?;
        let weights = match norm {
            Some(norm) => self.norm(norm.weight)?,
            None => r.none.clone(),
        };
        let mut dispatches = Vec::new();
        for call in made {
            let some = &products[call.products.clone()];
            let bias = self.bias(some)?;
            let written: Vec<wgpu::Buffer> = match end {
                // The last product of the plan has a row for every token of a submission.
                End::Rows if call.params.stride > 0 => {
                    self.values[plan.logits.0].in_row = false;
                    self.values[plan.logits.0].in_items = false;
                    vec![self.fusing.logits.clone(), bias]
                }
                End::Rows => vec![self.write_row(some[0].out), bias],
                End::Residual { x } => {
                    self.read_items(x)?;
                    vec![self.write_items(x)?, bias]
                }
                End::Gate { out, .. } => vec![self.write_items(out)?],
                End::Heads { angles, cache, .. } => {
                    let [k_cache, v_cache] = &r.caches[cache.0];
                    let mut all = vec![self.write_row(products[0].out), k_cache.clone(), v_cache.clone()];
                    // Each dispatch binds only what it writes, so that nothing keeps it from running beside the others.
                    for (i, buffer) in all.iter_mut().enumerate().filter(|(i, _)| !call.products.contains(i)) {
                        let name = format!("unwritten {i}");
                        *buffer = self.fusing.device.storage(&name, 16)?;
                    }
                    [all, vec![r.angles[angles.0].clone(), bias]].concat()
                }
            };
            let shard = &call.run.shard.buffer;
            let buffers: Vec<_> = [shard, shard, &x, &weights].into_iter().chain(&written).collect();
            let grid = Grid::Fixed([call.groups, 1]);
            dispatches.push(self.fusing.dispatch(call.kernel, bytes_of(&call.params), grid, &buffers)?);
        }
        self.push(piece, Kernels::Fixed(dispatches));
        if let Some(output) = self.groups.last_mut().and_then(|g| g.outputs.last_mut())
            && is_last(plan, output.step)
        {
            output.place = Place::Rows(self.fusing.logits.clone(), plan.vocabulary());
        }
        Ok(())
    }

    /// The biases of products, with zeros where there is none; nothing where no product has one.
    fn bias(&self, products: &[Product]) -> Result<wgpu::Buffer, BackendError> {
        let r = self.fusing.resources;
        match products {
            all if all.iter().all(|p| p.bias.is_none()) => Ok(r.none.clone()),
            [Product { bias: Some(bias), .. }] => Ok(vector(r, *bias).clone()),
            _ => {
                let rows = |p: &Product| self.fusing.plan.weights[p.weight.0].rows;
                let values = |p: &Product| {
                    p.bias.and_then(|b| r.vectors.get(&b.0).cloned()).unwrap_or_else(|| vec![0.0; rows(p)])
                };
                let all: Vec<f32> = products.iter().flat_map(values).collect();
                self.fusing.device.upload("bias", bytemuck::cast_slice(&all))
            }
        }
    }

    /// A norm's weights in the layout of items, flushed as `rms_norm` does.
    fn norm(&self, id: WeightId) -> Result<wgpu::Buffer, BackendError> {
        let values = self.fusing.resources.vectors.get(&id.0).map(Vec::as_slice).unwrap_or_default();
        let items = values.len() / 16;
        let mut placed = vec![0.0f32; values.len()];
        for (i, value) in values.iter().enumerate() {
            placed[item_word(i, items)] = flush(*value, WEIGHT_FLOOR);
        }
        self.fusing.device.upload("norm", bytemuck::cast_slice(&placed))
    }
}

/// Whether a step is the last, which makes the logits.
fn is_last(plan: &Plan, step: usize) -> bool {
    step + 1 == plan.steps.len()
}

/// The dispatches of products, or why there are none.
fn calls<'a>(
    device: &Device,
    plan: &Plan,
    resources: &'a Resources,
    norm: Option<Norm>,
    products: &[Product],
    end: End,
) -> Result<Vec<Call<'a>>, String> {
    let calling = Calling { device, plan, norm };
    let weight = |p: &Product| &plan.weights[p.weight.0];
    let mut calls = Vec::new();
    if end == End::Rows {
        for (i, p) in products.iter().enumerate() {
            for shard in shards(resources, p.weight) {
                let run = Run { format: weight(p).format, shard, cols: weight(p).cols, rows: vec![shard.rows] };
                let stride = if is_last(plan, p.step) { plan.vocabulary() as u32 } else { 0 };
                let params = Params { out_first: shard.row_base as u32, stride, ..calling.params(&run) };
                calls.push(calling.call(end.shader(), params, run, 1, &products[i..=i], i..i + 1, 2)?);
            }
        }
        return Ok(calls);
    }
    let runs = runs(plan, resources, products)?;
    if runs.len() > 1 && !matches!(end, End::Heads { .. }) {
        return Err(format!("'{}' and its partner have different formats", weight(&products[0]).name));
    }
    let mut first = 0;
    for run in runs {
        let range = first..first + run.rows.len();
        first = range.end;
        let some = &products[range.clone()];
        calls.push(match end {
            End::Gate { gelu, .. } => {
                let second = (run.shard.first + run.rows[0]) as u32;
                let params = Params { rows: run.rows[0] as u32, second, ..calling.params(&run) };
                let mut call = calling.call(end.shader(), params, run, 2, some, range, 1)?;
                if gelu {
                    call.kernel = call.kernel.with("GELU", 1);
                }
                call
            }
            End::Heads { angles, cache, neox } => {
                let count = |i: usize| if range.contains(&i) { weight(&products[i]).rows as u32 } else { 0 };
                let spec = plan.caches[cache.0];
                let params = Params {
                    second: count(0),
                    third: count(1),
                    head_dim: spec.head_dim as u32,
                    pairs: plan.angles[angles.0].frequencies.len() as u32,
                    kv_width: spec.width() as u32,
                    ..calling.params(&run)
                };
                let rotates = u32::from(range.start < 2);
                let mut call = calling.call(end.shader(), params, run, 1, some, range, 5)?;
                if neox && !call.slots.is_multiple_of(4) {
                    return Err("a workgroup takes no whole pairs of halves".to_owned());
                }
                call.kernel = call.kernel.with("ROTATES", rotates).with("NEOX", u32::from(neox));
                call
            }
            End::Residual { .. } | End::Rows => {
                let params = calling.params(&run);
                calling.call(end.shader(), params, run, 1, some, range, 2)?
            }
        });
    }
    Ok(calls)
}

/// What the calls of a piece share.
struct Calling<'a> {
    device: &'a Device,
    plan: &'a Plan,
    norm: Option<Norm>,
}

impl Calling<'_> {
    fn params(&self, run: &Run<'_>) -> Params {
        Params {
            streams: run.shard.streams,
            rows: run.rows.iter().sum::<usize>() as u32,
            first: run.shard.first as u32,
            eps: self.norm.map_or(0.0, |n| n.eps),
            inverse_width: 1.0 / run.cols as f32,
            steps: self.plan.precision.steps(),
            inverse_steps: self.plan.precision.inverse_steps(),
            ..Params::default()
        }
    }

    /// A call of a kernel for rows of `matrices` matrices, which binds so many buffers behind the weights, the row and the norm.
    fn call<'r>(
        &self,
        shader: &'static Shader,
        params: Params,
        run: Run<'r>,
        matrices: u32,
        some: &[Product],
        products: Range<usize>,
        buffers: u32,
    ) -> Result<Call<'r>, String> {
        let shape = Shape::new(self.device, run.format, run.cols, params.rows as usize, matrices);
        let kernel = shape.kernel(
            self.device,
            shader,
            run.format,
            self.plan.precision == Precision::Precise,
            self.norm.is_some(),
        )?;
        let kernel = match some.iter().any(|p| p.bias.is_some()) {
            true => kernel.with("HAS_BIAS", 1),
            false => kernel,
        };
        let groups = params.rows.div_ceil(shape.slots() / matrices);
        let limits = &self.device.limits;
        // The state, two views of the weights, the row and the norm come first.
        let (bindings, has) = (buffers + 5, limits.max_storage_buffers_per_shader_stage);
        if bindings > has {
            return Err(format!("{} binds {bindings} buffers, the device allows {has}", shader.name));
        }
        if groups > limits.max_compute_workgroups_per_dimension {
            return Err(format!("{} needs {groups} workgroups, more than the device allows", shader.name));
        }
        Ok(Call { kernel, params, groups, slots: shape.slots(), run, products })
    }
}

/// The matrices of products as runs that are stored behind each other, in order.
fn runs<'a>(plan: &Plan, resources: &'a Resources, products: &[Product]) -> Result<Vec<Run<'a>>, String> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    for product in products {
        let weight = &plan.weights[product.weight.0];
        let [shard] = shards(resources, product.weight) else {
            return Err(format!("'{}' does not fit one binding of the device", weight.name));
        };
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
