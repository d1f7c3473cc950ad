//! Single tokens: the groups of their pieces, with the bits of the steps one after the other.
//!
//! A layer of llama takes five dispatches: norm, quantisation, q/k/v, RoPE and cache; attention; output projection and residual;
//! norm, quantisation, gate/up and activation; down projection and residual. What fused kernels give each other lies in the *layout
//! of items* (`wgsl/lib/layout.wgsl`). A step without a fused kernel is one plain dispatch within the token; the rows that it reads
//! and writes are in order, and a dispatch brings a row from one layout to the other where both are asked for.

use bytemuck::bytes_of;

use super::calls::{Spread, calls, is_last};
use super::cut::{layer, pieces, unfused};
use super::device::Device;
use super::group::{Group, Kernels, Output, Place, item_word};
use super::lower::{Dispatch, Grid, Lowering, Resources, dispatch, shards, vector};
use super::piece::{Before, End, Piece, Product, Work, shapes};
use super::pipelines::Kernel;
use super::{attend, row_words, rows};
use crate::backend::BackendError;
use crate::numerics::{WEIGHT_FLOOR, flush};
use crate::ops;
use crate::plan::{BufferId, Plan, WeightId};
use crate::quant::CHUNK;
use crate::shaders::params::Place as PlaceParams;
use crate::shaders::{PLACE, PRODUCTS};

/// Where the row of a buffer is while a token is computed.
#[derive(Clone)]
struct Value {
    /// In order.
    row: wgpu::Buffer,
    /// In the layout of items, where a fused kernel asked for that.
    items: Option<wgpu::Buffer>,
    /// Another of these, where a kernel reads the one and writes the other.
    spare: Option<wgpu::Buffer>,
    /// Which of the two hold what was written last.
    in_row: bool,
    in_items: bool,
}

impl Value {
    /// A row that nothing was written to.
    fn new(row: wgpu::Buffer) -> Self {
        Self { row, items: None, spare: None, in_row: false, in_items: false }
    }
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
                    Work::Products { before, products, end, .. } => {
                        calls(device, plan, resources, *before, products, *end, Spread::Prepared(1)).map(drop)
                    }
                    Work::Attention(steps) => attend::fits(device, plan, &steps.op),
                    Work::Heads(heads) => rows::heads_kernel(device, plan, heads).map(drop),
                    Work::Join(join) => rows::join_kernel(device, plan, join).map(drop),
                    _ => Ok(()),
                }
            };
            pieces(plan, &takes)
        };
        let values = plan.buffers.iter().zip(&self.resources.buffers);
        let values = values.map(|(_, row)| Value::new(row.clone()));
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
        let value = &mut self.values[id.0];
        (value.row, value.in_row, value.in_items) = (row, true, false);
    }

    /// A row that the next dispatch writes in the layout of items.
    pub(super) fn write_items(&mut self, id: BufferId) -> Result<wgpu::Buffer, BackendError> {
        let items = self.items(id)?;
        let value = &mut self.values[id.0];
        (value.in_row, value.in_items) = (false, true);
        Ok(items)
    }

    /// A row that the next dispatch writes in the layout of items, where another was read.
    fn replace_items(&mut self, id: BufferId) -> Result<wgpu::Buffer, BackendError> {
        let spare = match self.values[id.0].spare.take() {
            Some(spare) => spare,
            None => self.fusing.device.storage("token sum", 4 * self.width(id) as u64)?,
        };
        let value = &mut self.values[id.0];
        value.spare = value.items.replace(spare.clone());
        (value.in_row, value.in_items) = (false, true);
        Ok(spare)
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
                self.values[out.0] = self.values[x.0].clone();
            }
            Work::Embedding { weight, out } => {
                let dispatches = self.embedding(*weight, *out)?;
                self.push(piece, Kernels::Fixed(dispatches));
            }
            Work::Heads(heads) => self.heads(piece, heads)?,
            Work::Join(join) => self.join(piece, join)?,
            Work::Attention(steps) => {
                let q = self.read_row(steps.op.q)?;
                let out = self.write_items(steps.out)?;
                let kernels = attend::kernels(self.fusing, &mut self.scratch, steps, [&q, &out])?;
                self.push(piece, kernels);
            }
            Work::Products { x, before, products, end } => self.products(piece, *x, *before, products, *end)?,
            Work::Plain => self.plain(piece)?,
        }
        Ok(())
    }

    /// What a device has for a piece; the piece was cut because there is such a thing.
    pub(super) fn made<T>(&self, made: Result<T, String>) -> Result<T, BackendError> {
        made.map_err(|what| BackendError::Unsupported { device: self.fusing.device.info.name.clone(), what })
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
        id: BufferId,
        before: Before,
        products: &[Product],
        end: End,
    ) -> Result<(), BackendError> {
        let (plan, r) = (self.fusing.plan, self.fusing.resources);
        let made = calls(self.fusing.device, plan, r, before, products, end, Spread::Prepared(1));
        let made = self.made(made)?;
        let x = self.read_items(id)?;
        let weights = norms(self.fusing.device, r, before)?;
        let mut joined = match before.join {
            Some(join) => vec![self.read_row(join.branch)?, self.replace_items(id)?],
            None => Vec::new(),
        };
        let mut dispatches = Vec::new();
        for call in made {
            let some = &products[call.products.clone()];
            let bias = bias(self.fusing.device, plan, r, some)?;
            let experts = |making: &mut Self, bias| match some[0].experts {
                Some(experts) => {
                    let routes = experts.routes.map_or(Ok(r.none.clone()), |routes| making.read_row(routes));
                    Ok::<_, BackendError>(vec![bias, routes?])
                }
                None => Ok(Vec::new()),
            };
            let written: Vec<wgpu::Buffer> = match end {
                // The last product of the plan has a row for every token of a submission.
                End::Rows if call.params.stride > 0 => {
                    self.values[plan.logits.0].in_row = false;
                    self.values[plan.logits.0].in_items = false;
                    vec![self.fusing.logits.clone(), bias]
                }
                End::Rows if call.kernel.shader.name == PRODUCTS.name => vec![self.write_row(some[0].out), bias],
                End::Rows if some[0].experts.is_some() => {
                    [vec![self.write_row(some[0].out)], experts(self, bias)?].concat()
                }
                End::Rows => {
                    let mut all: Vec<_> = some.iter().map(|p| self.write_row(p.out)).collect();
                    while all.len() < 3 {
                        all.push(unwritten(self.fusing.device, all.len(), 16)?);
                    }
                    all.push(bias);
                    all
                }
                End::Residual { x } => {
                    self.read_items(x)?;
                    vec![self.write_items(x)?, bias]
                }
                End::Gate { out, .. } => [vec![self.write_items(out)?], experts(self, bias)?].concat(),
                End::Sum { out, residual } => {
                    let out = if residual {
                        self.read_items(out)?;
                        self.write_items(out)?
                    } else {
                        self.write_row(out)
                    };
                    [vec![out], experts(self, bias)?].concat()
                }
                End::Heads { angles, cache, .. } => {
                    let [k_cache, v_cache] = &r.caches[cache.0];
                    let mut all = vec![self.write_row(products[0].out), k_cache.clone(), v_cache.clone()];
                    // Each dispatch binds only what it writes, so that nothing keeps it from running beside the others.
                    for (i, buffer) in all.iter_mut().enumerate().filter(|(i, _)| !call.products.contains(i)) {
                        *buffer = unwritten(self.fusing.device, i, 16)?;
                    }
                    [all, vec![r.angles[angles.0].clone(), bias]].concat()
                }
            };
            let shard = &call.run.shard.buffer;
            let buffers: Vec<_> = [shard, shard, &x, &weights].into_iter().chain(&written).chain(&joined).collect();
            let grid = Grid::Fixed([call.groups, call.slices]);
            dispatches.push(self.fusing.dispatch(call.kernel, bytes_of(&call.params), grid, &buffers)?);
            // The first dispatch leaves the sum.
            if let [_, sum] = &mut joined[..] {
                *sum = unwritten(self.fusing.device, 3, sum.size())?;
            }
        }
        self.push(piece, Kernels::Fixed(dispatches));
        if let Some(output) = self.groups.last_mut().and_then(|g| g.outputs.last_mut())
            && is_last(plan, output.step)
        {
            output.place = Place::Rows(self.fusing.logits.clone(), plan.vocabulary());
        }
        Ok(())
    }
}

/// A buffer of so many bytes for a binding that a dispatch does not use, or whose result nobody reads.
pub(super) fn unwritten(device: &Device, i: usize, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
    device.storage(&format!("unwritten {i}"), bytes)
}

/// The weights of the norm before products, then of the branch's norm, in the layout of items, flushed as `rms_norm` does.
pub(super) fn norms(device: &Device, r: &Resources, before: Before) -> Result<wgpu::Buffer, BackendError> {
    let mut placed = Vec::new();
    for norm in before.norm.into_iter().chain(before.join.and_then(|join| join.norm)) {
        let values = r.vectors.get(&norm.weight.0).map(Vec::as_slice).unwrap_or_default();
        let first = placed.len();
        placed.resize(first + values.len(), 0.0f32);
        for (i, value) in values.iter().enumerate() {
            placed[first + item_word(i, values.len() / 16)] = flush(*value, WEIGHT_FLOOR);
        }
    }
    match placed.is_empty() {
        true => Ok(r.none.clone()),
        false => device.upload("norm", bytemuck::cast_slice(&placed)),
    }
}

/// The biases of products, with zeros where there is none; nothing where no product has one.
pub(super) fn bias(
    device: &Device,
    plan: &Plan,
    r: &Resources,
    products: &[Product],
) -> Result<wgpu::Buffer, BackendError> {
    match products {
        all if all.iter().all(|p| p.bias.is_none()) => Ok(r.none.clone()),
        [Product { bias: Some(bias), .. }] => Ok(vector(r, *bias).clone()),
        _ => {
            let rows = |p: &Product| plan.weights[p.weight.0].rows;
            let values =
                |p: &Product| p.bias.and_then(|b| r.vectors.get(&b.0).cloned()).unwrap_or_else(|| vec![0.0; rows(p)]);
            let all: Vec<f32> = products.iter().flat_map(values).collect();
            device.upload("bias", bytemuck::cast_slice(&all))
        }
    }
}
