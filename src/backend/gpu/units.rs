//! Products of some rows or many on the device's matrix units. They multiply halves and add in f32, exactly: all numbers are integers
//! below what both hold. Activations are stored as halves when they are quantised; workgroups unpack the weights that they multiply.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytemuck::bytes_of;

use super::device::{Device, MatrixUnits};
use super::lower::{Dispatch, Grid, Lowering, dispatch, part, shards, vector};
use super::pipelines::Kernel;
use super::tiled::{MIN_ROWS, Quantize};
use crate::backend::{BackendError, Sizes};
use crate::numerics::Precision;
use crate::ops::Matmul;
use crate::plan::{BufferId, Op, Plan};
use crate::quant::{CHUNK, Decode, Format, Levels};
use crate::shaders::{TILED_LANES, params};

/// Activation rows of a tile, and where there are no more than the second number of them.
const TOKENS: [usize; 2] = [64, 32];

/// Weight rows of a tile.
const ROWS: usize = 64;

/// Chunks of a block.
const SPAN: usize = 8;

/// Numbers of activation rows up to which products are spread alike; of more as of the whole batch.
const MOST: [usize; 5] = [32, 64, 128, 256, 512];

/// Workgroups that a product should have on a large GPU: where it has fewer tiles, the lanes of S8 are dealt to several. For tiles of
/// [`TOKENS`] (docs/lab/performance.md).
const FILL: [usize; 2] = [128, 1024];

/// In how many planes a format's integer scales are multiplied: 2 are their high and their low four bits. `None` for formats whose
/// blocks are chunks, which have so many scales that other kernels are faster, and where halves or sums would not be exact.
pub(super) fn planes(format: &Format) -> Option<u32> {
    let Decode::Block { activation, sub_block, has_min, levels, .. } = format.decode else { return None };
    let Levels::Bits { low, bits } = levels else { return None };
    let halves = sub_block < CHUNK;
    if activation != SPAN * CHUNK || halves && has_min {
        return None;
    }
    let largest = i32::from(low).abs().max(i32::from(low) + (1 << bits) - 1);
    // A sum is one of two of a block: of every other chunk, or of a plane.
    let exact = |scale: i32, weights: i32| largest * scale <= 2048 && largest * scale * 127 * weights < 1 << 24;
    match () {
        () if exact(if halves { 128 } else { 63 }, 128) => Some(1),
        () if exact(15, 256) => Some(2),
        () => None,
    }
}

/// The units that multiply some rows with the matrix of a product, and the planes.
pub(super) fn units(device: &Device, plan: &Plan, op: &Matmul) -> Option<(MatrixUnits, u32)> {
    let (units, weight) = (device.matrix_units?, &plan.weights[op.weight.0]);
    let planes = planes(weight.format)?;
    let fits = Kernel::new(units.shader()).fits(&device.limits) && weight.rows.is_multiple_of(4);
    (plan.precision == Precision::Fast && fits).then_some((units, planes))
}

/// How a product of so many rows at most with a matrix of `rows` is dealt out: activation rows of a tile, and workgroups that share
/// the lanes of one: 1, 2, 4 or 8.
fn tiles(most: usize, rows: usize) -> (usize, usize) {
    let small = usize::from(most <= TOKENS[1]);
    let tiles = most.div_ceil(TOKENS[small]) * rows.div_ceil(ROWS);
    (TOKENS[small], [1, 2, 4].into_iter().find(|parts| tiles * parts >= FILL[small]).unwrap_or(8))
}

/// Those of [`MOST`] that batches reach; the last is no smaller than a batch.
fn steps(batch: usize) -> impl Iterator<Item = usize> {
    let reached = MOST.into_iter().filter(move |most| *most == MOST[0] || most / 2 < batch);
    reached.chain((batch > MOST[MOST.len() - 1]).then_some(batch))
}

/// Words for the sums of lanes of any product of a plan.
pub(super) fn lane_words(device: &Device, plan: &Plan, batch: usize) -> usize {
    let words = |op: &Matmul| {
        units(device, plan, op)?;
        let rows = plan.weights[op.weight.0].rows;
        let of = |most| match tiles(most, rows).1 {
            1 => 0,
            parts => parts * most.min(batch.next_multiple_of(TOKENS[0])) * rows,
        };
        steps(batch).map(of).max()
    };
    let all = plan.steps.iter().filter_map(|step| if let Op::Matmul(op) = &step.op { words(op) } else { None });
    all.max().unwrap_or(0).max(4)
}

/// Words of activations as halves with place for so many rows: their sums and scales are behind them.
fn activation_words(places: usize, chunks: usize) -> usize {
    places * (16 * chunks + 5 * chunks / SPAN)
}

/// Activations as halves.
pub(super) struct Halves {
    /// By buffer of the plan.
    activations: HashMap<BufferId, wgpu::Buffer>,
    /// Rows that they have place for.
    places: usize,
    /// For kernels that store no halves: they bind it to be written, and [`super::lower::Resources::none`] to be read.
    none: wgpu::Buffer,
}

impl Halves {
    /// For all products of a plan that the device's matrix units can take.
    pub fn new(device: &Device, plan: &Plan, sizes: Sizes) -> Result<Self, BackendError> {
        let places = sizes.batch.next_multiple_of(TOKENS[0]);
        let none = device.storage("no halves", 16)?;
        let mut all = Self { activations: HashMap::new(), places, none };
        let limit = device.limits.max_storage_buffer_binding_size as usize / 4;
        let products = plan.steps.iter().filter_map(|s| if let Op::Matmul(op) = &s.op { Some(op) } else { None });
        for op in products.filter(|op| sizes.batch >= MIN_ROWS && units(device, plan, op).is_some()) {
            let chunks = plan.weights[op.weight.0].cols / CHUNK;
            let words = activation_words(places, chunks);
            if words > limit || !Quantize::fits(device, chunks) {
                continue;
            }
            if let Entry::Vacant(entry) = all.activations.entry(op.x) {
                let name = format!("{} as halves", plan.buffers[op.x.0].name);
                entry.insert(device.storage(&name, 4 * words as u64)?);
            }
        }
        Ok(all)
    }

    /// Where a quantisation stores halves, and how many rows have place there; `None` where nobody reads them.
    pub fn activations(&self, x: BufferId) -> Option<(&wgpu::Buffer, usize)> {
        Some((self.activations.get(&x)?, self.places))
    }

    /// A buffer for kernels that store no halves.
    pub fn none(&self) -> &wgpu::Buffer {
        &self.none
    }
}

impl Lowering<'_> {
    /// The dispatches of a product on matrix units, with the most rows that each takes, the last a whole batch; none where it is not
    /// made there.
    pub fn on_units(&mut self, op: &Op) -> Result<Vec<(usize, Vec<Dispatch>)>, BackendError> {
        let Op::Matmul(product) = op else { return Ok(Vec::new()) };
        let (plan, r, shapes) = (self.plan, self.resources, self.plan.shapes());
        let (Some((units, planes)), Some((x, places))) =
            (units(self.device, plan, product), r.halves.activations(product.x))
        else {
            return Ok(Vec::new());
        };
        let (state, out) = (self.state(op), &self.rows[product.out.0]);
        let bias = product.bias.map_or(&r.none, |b| vector(r, b));
        let weight = &plan.weights[product.weight.0];
        let mut all = Vec::new();
        for most in steps(r.sizes.batch) {
            let (tile, parts) = tiles(most, weight.rows);
            let to = if parts == 1 { out } else { &r.lanes };
            let kernel = Kernel::new(units.shader())
                .format(weight.format)
                .with("TOKENS", tile as u32)
                .with("LANES", 8 / parts as u32)
                .with("PLANES", planes);
            let part_places = most.min(places) as u32;
            let mut dispatches = Vec::new();
            for shard in shards(r, product.weight) {
                let p = product.params(&shapes, &part(shard));
                if !p.row_base.is_multiple_of(4) || !p.rows.is_multiple_of(4) {
                    return Ok(Vec::new());
                }
                let grid = Grid::Rows { x: p.rows.div_ceil(ROWS as u32) * parts as u32, each: tile as u32 };
                let p = params::Units {
                    streams: p.streams,
                    first: p.first,
                    blocks: p.blocks,
                    rows: p.rows,
                    x_places: places as u32,
                    part_places,
                    row_base: p.row_base,
                    out_width: p.out_width,
                    has_bias: p.has_bias,
                };
                let buffers = [&shard.buffer, &shard.buffer, &shard.buffer, x, x, bias, to];
                dispatches.push(dispatch(self.device, kernel.clone(), state, bytes_of(&p), grid, &buffers)?);
            }
            if parts > 1 {
                let (width, has_bias) = (weight.rows as u32, u32::from(product.bias.is_some()));
                let p = params::TiledLanes { parts: parts as u32, places: part_places, width, has_bias };
                let grid = Grid::Rows { x: width.div_ceil(256), each: 1 };
                let buffers = [to, bias, out];
                dispatches.push(dispatch(self.device, Kernel::new(&TILED_LANES), state, bytes_of(&p), grid, &buffers)?);
            }
            all.push((most, dispatches));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use half::f16;

    use super::*;
    use crate::backend::gpu::device::AdapterOptions;
    use crate::backend::gpu::{State, lower::ready};
    use crate::ops::quantize_activations;
    use crate::quant::FORMATS;
    use crate::shaders::TILED_QUANTIZE;

    /// Runs a kernel and gives the words of its last buffer.
    fn run(device: &mut Device, kernel: Kernel, params: &[u8], groups: [u32; 2], buffers: &[&[u8]]) -> Vec<u32> {
        let state = device.upload("state", bytes_of(&State { rows: groups[1], ..State::default() })).unwrap();
        let buffers: Vec<_> = buffers.iter().map(|b| device.upload("buffer", b).unwrap()).collect();
        let all: Vec<_> = buffers.iter().collect();
        let dispatch = dispatch(device, kernel, &state, params, Grid::Fixed(groups), &all).unwrap();
        ready(std::iter::once(&dispatch)).unwrap();
        let mut encoder = device.device.create_command_encoder(&Default::default());
        dispatch.record(&mut encoder.begin_compute_pass(&Default::default()), 0, 0, 1).unwrap();
        device.queue.submit([encoder.finish()]);
        device.check().unwrap();
        let last = buffers.last().unwrap();
        device.read(last, 0, last.size() as usize / 4).unwrap()
    }

    fn half(words: &[u32], i: usize) -> f64 {
        f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16).to_f64()
    }

    /// Activations as the quantisation stores them, bytes and halves, of `tokens` rows.
    fn activations(device: &mut Device, x: &[f32], tokens: usize, places: usize) -> (Vec<u32>, Vec<u32>) {
        let cols = x.len() / tokens;
        let (chunks, stride) = (cols / CHUNK, quantize_activations::stride(cols, 256, Precision::Fast));
        let kernel = Kernel::new(&TILED_QUANTIZE).with("CHUNKS", chunks as u32).with("SPAN", 8);
        let p = params::TiledQuantize {
            stride: stride as u32,
            steps: Precision::Fast.steps(),
            inverse_steps: Precision::Fast.inverse_steps(),
            places: places as u32,
            ..Default::default()
        };
        let x: &[u8] = bytemuck::cast_slice(x);
        let (none, out) = ([0; 16], vec![0; 4 * tokens * stride]);
        let grid = [1, tokens as u32];
        let halves = vec![0; 4 * activation_words(places, chunks)];
        let with = kernel.clone().with("HALVES", 1);
        let halves = run(device, with, bytes_of(&p), grid, &[x, &none, &none, &out, &halves]);
        // The bytes are those of the plain kernel.
        let p = quantize_activations::Params::new(cols, 256, Precision::Fast);
        let kernel = Kernel::new(&quantize_activations::SHADER);
        let groups = quantize_activations::workgroups(&p, tokens as u32);
        (run(device, kernel, bytes_of(&p), [groups[0], groups[1]], &[x, &out]), halves)
    }

    /// Activations as halves and weights as the kernels multiply them give the integer sums that the bytes and the blocks give; all
    /// sums, in any order, are exact.
    #[test]
    fn halves_hold_what_is_multiplied() {
        let mut device = Device::open(&AdapterOptions::default()).unwrap();
        let (tokens, rows, blocks) = (3, 11, 9);
        let (cols, chunks, places) = (blocks * 256, blocks * SPAN, 64);
        let number = |i: usize| ((i * 7919 + 13) % 2001) as f32 / 1000.0 - 1.0;
        let x: Vec<f32> = (0..tokens * cols).map(|i| if i % 5 < 4 { number(i).signum() } else { number(i) }).collect();
        let (bytes, x_halves) = activations(&mut device, &x, tokens, places);
        let stride = bytes.len() / tokens;
        let (sums, floats) = (16 * chunks * places, 132 * blocks * places);
        for (format, planes) in FORMATS.iter().filter_map(|f| Some((*f, planes(f)?))) {
            let Decode::Block { unpack, .. } = format.decode else { unreachable!() };
            // Usual blocks, and in the last row those with every bit set.
            let mut raw = vec![0xff; rows * blocks * format.bytes];
            for (i, block) in raw.chunks_mut(format.bytes).take((rows - 1) * blocks).enumerate() {
                (format.quantize)(&(0..256).map(|j| number(i * 256 + j)).collect::<Vec<_>>(), block);
            }
            for (t, n, b) in (0..tokens * rows * blocks).map(|i| (i / rows / blocks, i / blocks % rows, i % blocks)) {
                let raw = &raw[(n * blocks + b) * format.bytes..][..format.bytes];
                let (mut s, mut m, mut minima) = (0, 0, 0);
                let (mut halves, mut absolute) = ([0.0; 2], [0.0; 2]);
                for k in 0..SPAN {
                    let mut q = [0i8; CHUNK];
                    let sub = unpack(raw, k, &mut q);
                    let c = b * SPAN + k;
                    let x: &[i8] = &bytemuck::cast_slice(&bytes[t * stride..])[c * CHUNK..][..CHUNK];
                    for i in 0..CHUNK {
                        let (part, x) = (i / 16, i32::from(x[i]));
                        s += sub.s[part] * i32::from(q[i]) * x;
                        m += sub.m[part] * x;
                        let place = i / 4 * 4 + [0, 2, 1, 3][i % 4];
                        assert_eq!(half(&x_halves, (c * places + t) * CHUNK + place), f64::from(x));
                        let scales = [sub.s[part] >> 4, sub.s[part] & 15];
                        let of_planes = if planes == 2 { &scales[..] } else { &[sub.s[part]] };
                        for (plane, scale) in of_planes.iter().enumerate() {
                            let w = f16::from_f32((scale * i32::from(q[i])) as f32);
                            assert_eq!(w.to_f32(), (scale * i32::from(q[i])) as f32, "{}", format.name);
                            let to = if planes == 2 { plane } else { k % 2 };
                            halves[to] += w.to_f64() * f64::from(x);
                            absolute[to] += (w.to_f64() * f64::from(x)).abs();
                        }
                    }
                    let sums: &[i8] = bytemuck::cast_slice(&x_halves[sums + 4 * (b * places + t)..][..4]);
                    minima += sub.m[0] * (i32::from(sums[k]) + 64 * i32::from(sums[SPAN + k]));
                }
                let name = format.name;
                assert!(absolute.iter().all(|a| *a < f64::from(1 << 24)), "{name}: {absolute:?}");
                let by = if planes == 2 { 16.0 } else { 1.0 };
                assert_eq!(halves[0] * by + halves[1], f64::from(s), "{name} {t} {n} {b}");
                assert_eq!(minima, m, "{name} {t} {n} {b}");
                assert_eq!(x_halves[floats + b * places + t], bytes[t * stride + cols / 4 + b], "{name}");
            }
        }
    }
}
