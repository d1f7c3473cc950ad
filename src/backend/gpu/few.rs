//! A few rows: the groups of a plan's pieces, with the bits of the steps one after the other.
//!
//! A piece's activations are quantised once, with the norm before them; then each of its products reads and unpacks a weight once for
//! several rows, and ends as it does for a single token: of the fewest rows with a thread for a chunk (`wgsl/lib/given.wgsl`), of more with
//! a thread for a lane of S8 (`wgsl/lib/few.wgsl`). What has no such kernel runs step by step. All rows lie in order, in the buffers of
//! the plan.

use bytemuck::bytes_of;

use super::attend;
use super::calls::{Call, Spread, calls};
use super::cut::pieces;
use super::device::Device;
use super::fused::{bias, norms, unwritten};
use super::group::{Group, Kernels, Output};
use super::lower::{Dispatch, Grid, Lowering, Resources, dispatch};
use super::piece::{Before, End, Piece, Product, Work, shapes};
use super::row_words;
use super::tiled::{self, Layout, Quantize};
use super::units;
use crate::backend::BackendError;
use crate::numerics::Precision;
use crate::ops::Matmul;
use crate::plan::{Buffer, BufferId, BufferKind, Op, Plan};
use crate::quant::CHUNK;
use crate::shaders::{FEW_PRODUCTS, GIVEN_PRODUCTS, PRODUCTS};

/// How products of up to so many rows are made, the first way that a device has. The last takes any number.
type Way = (usize, &'static [Spread]);

/// Where blocks are chunks, each workgroup prepares two rows itself; more are quantised before.
const WAYS: &[Way] = &[
    (2, &[Spread::Prepared(2)]),
    (4, &[Spread::Given(4), Spread::Quantised(4)]),
    (8, &[Spread::Given(8), Spread::Quantised(8)]),
    (16, &[Spread::Quantised(16)]),
];

/// As several threads add the chunks of a larger block, two prepared rows take longer than those that are quantised before
/// (docs/lab/performance.md).
const LARGE_WAYS: &[Way] = &[
    (2, &[Spread::Given(2), Spread::Quantised(4)]),
    (4, &[Spread::Given(4), Spread::Quantised(4)]),
    (8, &[Spread::Given(4), Spread::Quantised(8)]),
    (16, &[Spread::Quantised(16)]),
];

/// Of matrices with few rows, 9 to 16 activation rows, too, have a thread for a chunk: a thread for a lane of S8 would wait for too many
/// chunks one after the other.
const FEW_MATRIX_ROWS: Way = (16, &[Spread::Given(8), Spread::Quantised(16)]);

/// Of matrices with many rows, there are enough threads for a lane of S8 from 5 activation rows on.
const MANY_MATRIX_ROWS: Way = (8, &[Spread::Quantised(8)]);

/// Nothing is quantised for plain numbers.
const PLAIN_WAYS: &[Way] = &[(2, &[Spread::Prepared(2)]), (4, &[Spread::Prepared(4)])];

impl Spread {
    /// How its rows are quantised before; `None` where workgroups do that.
    fn layout(self) -> Option<Layout> {
        match self {
            Self::Prepared(_) => None,
            Self::Given(_) => Some(Layout::InOrder),
            Self::Quantised(_) => Some(Layout::Lanewise(PLACES)),
        }
    }
}

/// Rows that there is place for.
const PLACES: usize = 128;

/// The same where matrix units multiply more (`units.rs`), and where these take matrices with so many columns, mostly in one plane.
const BESIDE_UNITS: [usize; 2] = [32, 16];
const LARGE_COLS: usize = 4096;

/// Rows up to which a plan is run by these groups: with more of them the kernels for many are faster (docs/lab/performance.md).
pub(super) fn most_rows(device: &Device, plan: &Plan) -> usize {
    let ops = plan.steps.iter().map(|s| &s.op).filter(|op| !plan.is_wanted(op));
    let products: Vec<&Matmul> =
        ops.filter_map(|op| if let Op::Matmul(product) = op { Some(product) } else { None }).collect();
    let is_plain = |product: &&Matmul| plan.weights[product.weight.0].format.activation_block().is_none();
    if products.iter().any(is_plain) {
        return tiled::MIN_ROWS - 1;
    }
    let on_units: Option<Vec<_>> = products.iter().map(|product| units::units(device, plan, product)).collect();
    let Some(on_units) = on_units else { return PLACES };
    let in_planes = 2 * on_units.iter().filter(|(_, planes)| *planes > 1).count() > on_units.len();
    let large = products.iter().all(|product| plan.weights[product.weight.0].cols >= LARGE_COLS);
    BESIDE_UNITS[usize::from(large && !in_planes)]
}

/// The ways for some products.
fn ways(plan: &Plan, products: &[Product]) -> Vec<Way> {
    let block = |id: BufferId| match plan.buffers[id.0].kind {
        BufferKind::Quantized(block) => block,
        BufferKind::Float => 0,
    };
    let blocks: Result<Vec<usize>, _> = products.iter().map(|p| quantised(plan, p).map(block)).collect();
    let Ok(blocks) = blocks else { return PLAIN_WAYS.to_vec() };
    let mut ways = if blocks.iter().all(|block| *block == CHUNK) { WAYS } else { LARGE_WAYS }.to_vec();
    let matrices = || products.iter().map(|p| &plan.weights[p.weight.0]);
    let rows: usize = matrices().map(|w| w.rows).sum();
    if matrices().all(|w| 2 * rows <= 3 * w.cols) {
        ways.insert(ways.len() - 1, FEW_MATRIX_ROWS);
    }
    if matrices().all(|w| rows >= 4 * w.cols) {
        ways.iter_mut().filter(|(most, _)| *most == MANY_MATRIX_ROWS.0).for_each(|way| *way = MANY_MATRIX_ROWS);
    }
    ways
}

/// What products read: a quantised row for each of them.
fn quantised(plan: &Plan, product: &Product) -> Result<BufferId, String> {
    match plan.steps[product.step].op {
        Op::Matmul(ref op) if matches!(plan.buffers[op.x.0].kind, BufferKind::Quantized(_)) => Ok(op.x),
        _ => Err("few rows have kernels for formats of integers only".to_owned()),
    }
}

/// Words of the buffer that a few rows are quantised to, of any width of a plan.
pub(super) fn lanewise_words(plan: &Plan) -> usize {
    let words = |b: &Buffer| match b.kind {
        BufferKind::Quantized(block) => {
            tiled::lanewise_words(b.width, block, plan.precision == Precision::Precise, PLACES)
        }
        BufferKind::Float => 0,
    };
    plan.buffers.iter().map(words).max().unwrap_or(0).max(4)
}

/// The quantisation before products.
fn quantisation(plan: &Plan, x: BufferId, before: Before, products: &[Product]) -> Result<Quantize, String> {
    let all: Vec<BufferId> = products.iter().map(|p| quantised(plan, p)).collect::<Result<_, _>>()?;
    match all[..] {
        [out, ref others @ ..] if others.iter().all(|o| *o == out) => {
            Ok(Quantize { norm: before.norm.map(|n| (n.weight, n.eps)), ..Quantize::alone(x, out) })
        }
        _ => Err("their activations have blocks of different sizes".to_owned()),
    }
}

/// The first of some ways to make products that there is, and its dispatches; or why there is none.
fn first_way<'a>(
    device: &Device,
    plan: &Plan,
    resources: &'a Resources,
    x: BufferId,
    before: Before,
    products: &[Product],
    end: End,
    ways: &[Spread],
) -> Result<(Spread, Vec<Call<'a>>), String> {
    if products.iter().any(|p| p.experts.is_some()) {
        return Err("experts run step by step".to_owned());
    }
    let made = |way: Spread| {
        if let Some(layout) = way.layout() {
            let quantisation = quantisation(plan, x, before, products)?;
            quantisation.kernel(device, plan, layout).ok_or("a row is too long for the device")?;
        }
        calls(device, plan, resources, before, products, end, way)
    };
    let mut why = String::new();
    for way in ways {
        match made(*way) {
            Ok(calls) => return Ok((*way, calls)),
            Err(lacks) => why = lacks,
        }
    }
    Err(why)
}

impl Lowering<'_> {
    /// The groups for a few rows; a step without such a kernel is that of `alone`.
    pub fn few(&mut self, alone: &[Group], many_alone: &[Group]) -> Result<Vec<Group>, BackendError> {
        let pieces = {
            let (device, plan, resources) = (&*self.device, self.plan, self.resources);
            let takes = |work: &Work| {
                shapes(plan, work)?;
                match work {
                    Work::Products { x, before: before @ Before { join: None, .. }, products, end } => {
                        let takes =
                            |ways| first_way(device, plan, resources, *x, *before, products, *end, ways).map(drop);
                        ways(plan, products).iter().try_for_each(|(_, ways)| takes(ways))
                    }
                    Work::Attention(steps) if steps.out == steps.op.out => attend::fits(device, plan, &steps.op),
                    Work::Products { .. } | Work::Attention(_) | Work::Heads(_) | Work::Join(_) => {
                        Err("runs step by step".to_owned())
                    }
                    _ => Ok(()),
                }
            };
            pieces(plan, &takes)
        };
        let mut groups = Vec::new();
        for piece in &pieces {
            match &piece.work {
                Work::Nothing => {}
                Work::Products { x, before, products, end } => {
                    let kernels = self.few_products(*x, *before, products, *end)?;
                    groups.push(self.left(piece, kernels));
                }
                Work::Attention(steps) => {
                    let long = many_alone[piece.steps.start].at(0, 1).to_vec();
                    let kernels = attend::few(self, steps, long)?;
                    groups.push(self.left(piece, kernels));
                }
                _ => groups.push(step_by_step(&alone[piece.steps.start], &many_alone[piece.steps.start])),
            }
        }
        Ok(groups)
    }

    fn left(&self, piece: &Piece, kernels: Kernels) -> Group {
        let output = |&step: &usize| Some(Output { step, place: self.place(step)? });
        Group {
            steps: piece.steps.clone().collect(),
            kernels,
            outputs: piece.leaves.iter().filter_map(output).collect(),
        }
    }

    fn few_products(
        &mut self,
        x: BufferId,
        before: Before,
        products: &[Product],
        end: End,
    ) -> Result<Kernels, BackendError> {
        let mut all = Vec::new();
        for (most, ways) in ways(self.plan, products) {
            let (plan, resources) = (self.plan, self.resources);
            let Ok((way, made)) = first_way(self.device, plan, resources, x, before, products, end, ways) else {
                continue;
            };
            let mut dispatches: Vec<Dispatch> = Vec::new();
            if let (Some(layout), Ok(q)) = (way.layout(), quantisation(plan, x, before, products)) {
                let out = if layout == Layout::InOrder { &self.rows[q.out.0] } else { &resources.lanewise };
                dispatches.extend(self.quantize_to(&q, layout, out, resources.halves.none())?);
            }
            for call in made {
                dispatches.push(self.few_call(call, x, before, products, end, way)?);
            }
            all.push((most, dispatches));
        }
        Ok(Kernels::Few(all))
    }

    fn few_call(
        &mut self,
        mut call: Call<'_>,
        x: BufferId,
        before: Before,
        products: &[Product],
        end: End,
        way: Spread,
    ) -> Result<Dispatch, BackendError> {
        let (plan, r, of) = (self.plan, self.resources, self.rows);
        let some = &products[call.products.clone()];
        let source = match way {
            Spread::Prepared(_) => vec![of[x.0].clone(), norms(self.device, r, before)?],
            Spread::Given(_) => {
                let quantised = quantised(plan, &some[0])
                    .map_err(|what| BackendError::Unsupported { device: self.device.info.name.clone(), what })?;
                call.params.x_items = row_words(plan, quantised) as u32;
                vec![of[quantised.0].clone(); 2]
            }
            Spread::Quantised(_) => {
                call.params.x_items = PLACES as u32;
                vec![r.lanewise.clone()]
            }
        };
        let row = |id: BufferId| of[id.0].clone();
        let bias = bias(self.device, plan, r, some)?;
        let written: Vec<wgpu::Buffer> = match end {
            End::Rows if [PRODUCTS.name, GIVEN_PRODUCTS.name, FEW_PRODUCTS.name].contains(&call.kernel.shader.name) => {
                call.params.stride = plan.buffers[some[0].out.0].width as u32;
                vec![row(some[0].out), bias]
            }
            End::Rows => {
                let mut all: Vec<_> = some.iter().map(|p| row(p.out)).collect();
                while all.len() < 3 {
                    all.push(unwritten(self.device, all.len(), 16)?);
                }
                all.push(bias);
                all
            }
            End::Residual { x } | End::Sum { out: x, .. } => vec![row(x), bias],
            End::Gate { out, .. } => vec![row(out)],
            End::Heads { angles, cache, .. } => {
                let [k_cache, v_cache] = &r.caches[cache.0];
                let mut all = vec![row(products[0].out), k_cache.clone(), v_cache.clone()];
                // Each dispatch binds only what it writes, so that nothing keeps it from running beside the others.
                for (i, buffer) in all.iter_mut().enumerate().filter(|(i, _)| !call.products.contains(i)) {
                    *buffer = unwritten(self.device, i, 16)?;
                }
                [all, vec![r.angles[angles.0].clone(), bias]].concat()
            }
        };
        let shard = &call.run.shard.buffer;
        let buffers: Vec<_> = [shard, shard].into_iter().chain(&source).chain(&written).collect();
        let state = self.states[usize::from(plan.buffers[x.0].wanted)];
        let grid = Grid::Rows { x: call.groups, each: call.tokens };
        dispatch(self.device, call.kernel, state, bytes_of(&call.params), grid, &buffers)
    }
}

/// The group of a step: of a few rows as of any number, of more as of many.
fn step_by_step(alone: &Group, many: &Group) -> Group {
    let mut all = vec![(tiled::MIN_ROWS - 1, alone.at(0, 1).to_vec())];
    match &many.kernels {
        Kernels::Few(many) => all.extend(many.iter().filter(|(most, _)| *most >= tiled::MIN_ROWS).cloned()),
        _ => all.push((usize::MAX, many.at(0, 1).to_vec())),
    }
    Group { kernels: Kernels::Few(all), ..alone.clone() }
}
