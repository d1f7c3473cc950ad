//! Products of many rows on the device's matrix units. They multiply halves and add in f32, exactly: all numbers are integers
//! below what both hold. A matrix is unpacked to halves, a part at a time, just before it is multiplied; activations are
//! stored as halves, too, when they are quantised.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytemuck::bytes_of;

use super::device::Device;
use super::lower::{Dispatch, Grid, dispatch};
use super::pipelines::Kernel;
use super::tiled::{MIN_ROWS, Quantize};
use crate::backend::{BackendError, Sizes};
use crate::numerics::Precision;
use crate::ops;
use crate::ops::matmul;
use crate::plan::{BufferId, Op, Plan};
use crate::quant::{CHUNK, Decode, Format, Levels};
use crate::shaders::{TILED_UNPACK, params};

/// Rows of a tile: of activations, and of weights.
const TOKENS: usize = 64;
const ROWS: usize = 128;

/// Chunks of a block.
const SPAN: usize = 8;

/// Bytes of a part of a matrix: much of it stays in a large GPU's cache until it is multiplied.
const PART: usize = 64 << 20;

/// How a format is multiplied.
#[derive(Clone, Copy)]
pub(super) struct Units {
    /// 2 where integer scales are split into their high and their low four bits.
    pub planes: usize,
    /// Whether a block is added up in two halves.
    pub twice: bool,
    has_min: bool,
}

impl Units {
    /// `None` for formats whose blocks are chunks, which have so many scales that other kernels are faster, and where halves or
    /// sums would not be exact.
    pub fn new(format: &Format) -> Option<Self> {
        let Decode::Block { activation, sub_block, has_min, levels, .. } = format.decode else { return None };
        let units = |planes, twice| Some(Self { planes, twice, has_min });
        let Levels::Bits { low, bits } = levels else { return None };
        let halves = sub_block < CHUNK;
        if activation != SPAN * CHUNK || halves && has_min {
            return None;
        }
        let largest = i32::from(low).abs().max(i32::from(low) + (1 << bits) - 1);
        let exact = |scale: i32, weights: i32| largest * scale <= 2048 && largest * scale * 127 * weights < 1 << 24;
        let scale = if halves { 128 } else { 63 };
        match () {
            () if exact(scale, 256) => units(1, false),
            () if exact(scale, 128) => units(1, true),
            () if exact(15, 256) => units(2, false),
            () => None,
        }
    }

    /// How a matrix is multiplied, and how many of its rows are unpacked together, which are whole tiles; `None` where the
    /// units do not take it.
    fn part(device: &Device, format: &Format, rows: usize, cols: usize) -> Option<(Self, usize)> {
        let (units, chunks, limits) = (Self::new(format)?, cols / CHUNK, &device.limits);
        let most = PART / (4 * units.weight_words(1, chunks));
        let most = most.min(limits.max_compute_workgroups_per_dimension as usize);
        let part = rows.next_multiple_of(ROWS).min((most / ROWS).max(1) * ROWS);
        let fits = 4 * units.weight_words(part, chunks) <= limits.max_storage_buffer_binding_size as usize;
        (fits && rows.is_multiple_of(4)).then_some((units, part))
    }

    /// Words of an unpacked matrix with place for so many rows.
    fn weight_words(self, places: usize, chunks: usize) -> usize {
        places * (16 * self.planes * chunks + chunks / SPAN * if self.has_min { 10 } else { 1 })
    }
}

/// Words of activations as halves with place for so many rows: their sums and scales are behind them.
fn activation_words(places: usize, chunks: usize) -> usize {
    places * (16 * chunks + 9 * chunks / SPAN)
}

/// The buffers of halves.
pub(super) struct Halves {
    /// Activations, by buffer of the plan.
    activations: HashMap<BufferId, wgpu::Buffer>,
    /// A part of a matrix.
    weights: Option<wgpu::Buffer>,
    /// Rows that activations have place for.
    places: usize,
    /// For kernels that store no halves: they bind it to be written, and [`super::lower::Resources::none`] to be read.
    none: wgpu::Buffer,
}

impl Halves {
    /// For all products of a plan that the device's matrix units can take.
    pub fn new(device: &Device, plan: &Plan, sizes: Sizes) -> Result<Self, BackendError> {
        let places = sizes.batch.next_multiple_of(TOKENS);
        let none = device.storage("no halves", 16)?;
        let mut all = Self { activations: HashMap::new(), weights: None, places, none };
        let limits = &device.limits;
        let usable = device.matrix_units.is_some_and(|units| Kernel::new(units.shader()).fits(limits));
        if !usable || plan.precision == Precision::Precise || sizes.batch < MIN_ROWS {
            return Ok(all);
        }
        let limit = limits.max_storage_buffer_binding_size as usize / 4;
        let mut largest = 0;
        for step in &plan.steps {
            let Op::Matmul(ops::Matmul { weight, x, .. }) = step.op else { continue };
            let weight = &plan.weights[weight.0];
            let Some((units, part)) = Units::part(device, weight.format, weight.rows, weight.cols) else { continue };
            let chunks = weight.cols / CHUNK;
            let words = activation_words(places, chunks);
            if words > limit || !Quantize::fits(device, chunks) {
                continue;
            }
            largest = largest.max(units.weight_words(part, chunks));
            if let Entry::Vacant(entry) = all.activations.entry(x) {
                let name = format!("{} as halves", plan.buffers[x.0].name);
                entry.insert(device.storage(&name, 4 * words as u64)?);
            }
        }
        if largest > 0 {
            all.weights = Some(device.storage("weights as halves", 4 * largest as u64)?);
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

    /// The dispatches of the product `p` with a shard of a matrix; `None` where it is not made on matrix units.
    pub fn product(
        &self,
        device: &mut Device,
        state: &wgpu::Buffer,
        format: &'static Format,
        p: &matmul::Params,
        x: BufferId,
        [shard, bias, out]: [&wgpu::Buffer; 3],
    ) -> Result<Option<Vec<Dispatch>>, BackendError> {
        let units = Units::part(device, format, p.out_width as usize, p.cols as usize);
        let (Some(x), Some(halves), Some((units, part)), Some(of)) =
            (self.activations.get(&x), &self.weights, units, device.matrix_units)
        else {
            return Ok(None);
        };
        if !p.row_base.is_multiple_of(4) {
            return Ok(None);
        }
        let (chunks, part) = (p.cols / CHUNK as u32, part as u32);
        let yes = |b: bool| u32::from(b);
        let unpack = Kernel::new(&TILED_UNPACK).format(format).with("PLANES", units.planes as u32);
        let matrix = Kernel::new(of.shader())
            .with("PLANES", units.planes as u32)
            .with("TWICE", yes(units.twice))
            .with("HAS_MIN", yes(units.has_min));
        let mut all = Vec::new();
        for first in (0..p.rows).step_by(part as usize) {
            let rows = part.min(p.rows - first);
            let unpacked =
                params::TiledUnpack { streams: p.streams, first: p.first + first, rows, places: part, chunks };
            let grid = Grid::Fixed([chunks.div_ceil(8), rows.div_ceil(8)]);
            let buffers = [shard, shard, halves];
            all.push(dispatch(device, unpack.clone(), state, bytes_of(&unpacked), grid, &buffers)?);
            let multiplied = params::Matrix {
                blocks: p.blocks,
                rows,
                places: part,
                x_places: self.places as u32,
                row_base: p.row_base + first,
                out_width: p.out_width,
                has_bias: p.has_bias,
            };
            let grid = Grid::Rows { x: rows.div_ceil(ROWS as u32), each: TOKENS as u32 };
            let buffers = [halves, halves, x, x, bias, out];
            all.push(dispatch(device, matrix.clone(), state, bytes_of(&multiplied), grid, &buffers)?);
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use half::f16;

    use super::*;
    use crate::backend::gpu::device::AdapterOptions;
    use crate::backend::gpu::{State, lower::ready};
    use crate::numerics::{WEIGHT_FLOOR, flush};
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

    /// Both operands as halves give the integer sums that the bytes and the blocks give; all sums, in any order, are exact.
    #[test]
    fn halves_hold_what_is_multiplied() {
        let mut device = Device::open(&AdapterOptions::default()).unwrap();
        let (tokens, rows, blocks) = (3, 11, 9);
        let (cols, chunks, places) = (blocks * 256, blocks * SPAN, ROWS);
        let number = |i: usize| ((i * 7919 + 13) % 2001) as f32 / 1000.0 - 1.0;
        let x: Vec<f32> = (0..tokens * cols).map(|i| if i % 5 < 4 { number(i).signum() } else { number(i) }).collect();
        let (bytes, x_halves) = activations(&mut device, &x, tokens, places);
        let stride = bytes.len() / tokens;
        for (format, units) in FORMATS.iter().filter_map(|f| Some((*f, Units::new(f)?))) {
            let Decode::Block { has_min, scales, unpack, .. } = format.decode else { unreachable!() };
            // Usual blocks, and in the last row those with every bit set.
            let mut raw = vec![0xff; rows * blocks * format.bytes];
            for (i, block) in raw.chunks_mut(format.bytes).take((rows - 1) * blocks).enumerate() {
                (format.quantize)(&(0..256).map(|j| number(i * 256 + j)).collect::<Vec<_>>(), block);
            }
            let (mut stored, streams) = format.split(&raw);
            stored.resize(stored.len().next_multiple_of(16), 0);
            let p = params::TiledUnpack {
                streams,
                first: 0,
                rows: rows as u32,
                places: places as u32,
                chunks: chunks as u32,
            };
            let kernel = Kernel::new(&TILED_UNPACK).format(format).with("PLANES", units.planes as u32);
            let out = vec![0; 4 * units.weight_words(places, chunks)];
            let groups = [chunks.div_ceil(8) as u32, rows.div_ceil(8) as u32];
            let w = run(&mut device, kernel, bytes_of(&p), groups, &[&stored, &stored, &out]);
            let minima = 32 * units.planes * chunks * places;
            let w_floats = minima / 2 + if has_min { 8 * blocks * places } else { 0 };
            let (sums, x_floats) = (32 * chunks * places, 136 * blocks * places);
            for (t, n, b) in (0..tokens * rows * blocks).map(|i| (i / rows / blocks, i / blocks % rows, i % blocks)) {
                let raw = &raw[(n * blocks + b) * format.bytes..][..format.bytes];
                let (mut s, mut m) = (0, 0);
                let mut halves = [0.0; 2];
                let mut absolute = [0.0; 2];
                for k in 0..SPAN {
                    let mut q = [0i8; CHUNK];
                    let sub = unpack(raw, k, &mut q);
                    let c = b * SPAN + k;
                    let x: &[i8] = &bytemuck::cast_slice(&bytes[t * stride..])[c * CHUNK..][..CHUNK];
                    for i in 0..CHUNK {
                        let (part, x) = (i / 16, i32::from(x[i]));
                        s += sub.s[part] * i32::from(q[i]) * x;
                        m += sub.m[part] * x;
                        assert_eq!(half(&x_halves, (c * places + t) * CHUNK + i), f64::from(x));
                        for plane in 0..units.planes {
                            let to = if units.twice { k / 4 } else { plane };
                            let w = half(&w, ((plane * chunks + c) * places + n) * CHUNK + i);
                            halves[to] += w * f64::from(x);
                            absolute[to] += (w * f64::from(x)).abs();
                        }
                    }
                }
                let name = format.name;
                assert!(absolute.iter().all(|a| *a < f64::from(1 << 24)), "{name}: {absolute:?}");
                let by = if units.planes == 2 { 16.0 } else { 1.0 };
                assert_eq!(halves[0] * by + halves[1], f64::from(s), "{name} {t} {n} {b}");
                assert_eq!(x_halves[x_floats + b * places + t], bytes[t * stride + cols / 4 + b], "{name}");
                let [d, minimum] = scales(raw);
                if n + 1 < rows {
                    assert_eq!(w[w_floats + b * places + n], flush(d, WEIGHT_FLOOR).to_bits(), "{name}");
                }
                if has_min {
                    let places16 = |words: &[u32], first: usize, row: usize, i: usize| {
                        half(words, first + 16 * (b * places + row) + i)
                    };
                    let product = |i| places16(&x_halves, sums, t, i) * places16(&w, minima, n, i);
                    assert_eq!((0..16).map(product).sum::<f64>(), f64::from(m), "{name}");
                    if n + 1 < rows {
                        assert_eq!(w[w_floats + (blocks + b) * places + n], minimum.to_bits(), "{name}");
                    }
                }
            }
        }
    }
}
