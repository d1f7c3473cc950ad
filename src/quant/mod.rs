//! Block formats of GGUF weights: one file per format, everything else made from it.
//!
//! A format says how its bytes are laid out and how 32 consecutive weights unpack to small integers. From that alone
//! the crate derives exact dequantisation, the integer dot product of the numerics contract and the GPU kernels. To
//! add a format: one file here, one file of the same name in `wgsl/lib/`, one line in [`FORMATS`] and one in the table of
//! [`crate::shaders`].
//!
//! Layouts follow ggml (`ggml-common.h`, `ggml-quants.c`).

use crate::numerics::{ACTIVATION_FLOOR, ActivationRow, WEIGHT_FLOOR, flush, r13, s8};

mod bf16;
mod f16;
mod f32;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod streams;

/// Weights per unpacked chunk: every block is a whole number of chunks.
pub const CHUNK: usize = 32;

/// Activation rows that [`Format::dot`] takes at once.
pub const DOT_ROWS: usize = 8;

/// Every format this crate can run.
pub static FORMATS: &[&Format] = &[
    &f32::FORMAT,
    &f16::FORMAT,
    &bf16::FORMAT,
    &q4_0::FORMAT,
    &q4_1::FORMAT,
    &q5_0::FORMAT,
    &q5_1::FORMAT,
    &q8_0::FORMAT,
    &q2_k::FORMAT,
    &q3_k::FORMAT,
    &q4_k::FORMAT,
    &q5_k::FORMAT,
    &q6_k::FORMAT,
    &iq4_nl::FORMAT,
    &iq4_xs::FORMAT,
    &mxfp4::FORMAT,
];

/// The format with this GGUF type number.
pub fn format(type_id: u32) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|f| f.type_id == type_id)
}

/// The format with this name, in any case (`q4_k`, `Q4_K`).
pub fn format_by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|f| f.name.eq_ignore_ascii_case(name))
}

/// A weight format.
#[derive(Debug)]
pub struct Format {
    /// ggml's name, such as `Q4_K`.
    pub name: &'static str,
    /// The type number in a GGUF tensor table.
    pub type_id: u32,
    /// Weights per block; a row is a whole number of blocks.
    pub block: usize,
    /// Bytes per block.
    pub bytes: usize,
    /// How the bytes of a block become numbers.
    pub decode: Decode,
    /// Byte ranges `(offset, length)` of a block. On the GPU each range becomes one contiguous stream over all blocks,
    /// so that equal fields of neighbouring blocks are neighbours. At most four; together they cover the block.
    pub streams: &'static [(usize, usize)],
    /// Packs one block of weights, as ggml's quantiser without importances does.
    pub quantize: Quantize,
}

/// How a format is read.
#[derive(Debug)]
pub enum Decode {
    /// Plain numbers, exact in f32: reads one element.
    Float(fn(&[u8]) -> f32),
    /// Integers with scales: weight `i` of a chunk is `d * s * q[i] + m * mm`.
    Block {
        /// Weights that share one activation scale: 32, or 256 for the super-block formats.
        activation: usize,
        /// Whether the second float scale (`m`, the minimum) exists.
        has_min: bool,
        /// The integers that `unpack` gives.
        levels: Levels,
        /// Weights that share an integer scale: 16 or 32.
        sub_block: usize,
        /// The float scales `[d, m]` of a block; `m` carries its sign and is 0 without minimum.
        scales: fn(&[u8]) -> [f32; 2],
        /// Unpacks chunk `c` of a block into `q` and gives its integer scales.
        unpack: Unpack,
    },
}

/// The set of integers of a format, for backends that store them in a layout of their own.
#[derive(Clone, Copy, Debug)]
pub enum Levels {
    /// `low..low + 2^bits`, with 4, 5, 6 or 8 bits.
    #[allow(missing_docs)]
    Bits { low: i8, bits: u8 },
    /// The values of a table.
    Table(&'static [i8; 16]),
}

/// Packs one block of weights.
pub type Quantize = fn(weights: &[f32], block: &mut [u8]);

/// Unpacks chunk `c` of a block.
pub type Unpack = fn(block: &[u8], c: usize, q: &mut [i8; CHUNK]) -> SubScales;

/// Integer scales of a chunk, one pair for its first and one for its second 16 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubScales {
    /// Factors of `d`.
    pub s: [i32; 2],
    /// Factors of `m`.
    pub m: [i32; 2],
}

impl SubScales {
    /// No integer scales, no minimum.
    pub const ONE: Self = Self { s: [1, 1], m: [0, 0] };
    /// No integer scales, with a minimum.
    pub const ONE_MIN: Self = Self { s: [1, 1], m: [1, 1] };
}

impl Format {
    /// Bytes of one row of `cols` weights.
    pub fn row_bytes(&self, cols: usize) -> usize {
        cols / self.block * self.bytes
    }

    /// Width of the activation blocks this format multiplies with; `None` where activations stay f32.
    pub fn activation_block(&self) -> Option<usize> {
        match self.decode {
            Decode::Float(_) => None,
            Decode::Block { activation, .. } => Some(activation),
        }
    }

    /// Dequantises whole blocks: `raw` holds `out.len() / block` of them. Exactly ggml's values.
    pub fn dequantize(&self, raw: &[u8], out: &mut [f32]) {
        match self.decode {
            Decode::Float(load) => {
                for (raw, out) in raw.chunks_exact(self.bytes).zip(out) {
                    *out = load(raw);
                }
            }
            Decode::Block { scales, unpack, .. } => {
                let mut q = [0i8; CHUNK];
                for (raw, out) in raw.chunks_exact(self.bytes).zip(out.chunks_exact_mut(self.block)) {
                    let [d, m] = scales(raw);
                    for (c, out) in out.chunks_exact_mut(CHUNK).enumerate() {
                        let sub = unpack(raw, c, &mut q);
                        for (i, out) in out.iter_mut().enumerate() {
                            *out = weight(d, m, sub, i, q[i]);
                        }
                    }
                }
            }
        }
    }

    /// Quantises whole blocks: `raw` gets `x.len() / block` of them. `x` must be finite.
    pub fn quantize(&self, x: &[f32], raw: &mut [u8]) {
        for (x, raw) in x.chunks_exact(self.block).zip(raw.chunks_exact_mut(self.bytes)) {
            (self.quantize)(x, raw);
        }
    }

    /// One row of a matrix product by the contract: the terms of all blocks, added by `S8`, for up to
    /// [`DOT_ROWS`] activation rows at once (each is independent of the others).
    ///
    /// `raw` is the row's bytes, `xs` the activations in the form [`Self::activation_block`] asks for.
    pub fn dot(&self, raw: &[u8], xs: &[ActivationRow<'_>], out: &mut [f32]) {
        let mut sums = [s8::Sum::default(); DOT_ROWS];
        match self.decode {
            Decode::Float(load) => self.float_terms(load, raw, xs, &mut sums),
            Decode::Block { has_min, scales, unpack, .. } => {
                self.block_terms(has_min, scales, unpack, raw, xs, &mut sums);
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums).take(xs.len()) {
            *out = sum.total();
        }
    }

    fn float_terms(&self, load: fn(&[u8]) -> f32, raw: &[u8], xs: &[ActivationRow<'_>], sums: &mut [s8::Sum]) {
        let exact = self.bytes == 2;
        let mut weights = [0.0; CHUNK];
        for (b, raw) in raw.chunks(CHUNK * self.bytes).enumerate() {
            for (w, raw) in weights.iter_mut().zip(raw.chunks_exact(self.bytes)) {
                *w = flush(load(raw), WEIGHT_FLOOR);
            }
            for (x, sum) in xs.iter().zip(sums.iter_mut()) {
                let ActivationRow::Float(x) = x else { continue };
                let x = &x[b * CHUNK..];
                let mut block = s8::Sum::default();
                for (&w, &x) in weights.iter().zip(x).take(raw.len() / self.bytes) {
                    let x = if exact { r13(x) } else { x };
                    block.push(w * flush(x, ACTIVATION_FLOOR));
                }
                sum.push(block.total());
            }
        }
    }

    fn block_terms(
        &self,
        has_min: bool,
        scales: fn(&[u8]) -> [f32; 2],
        unpack: Unpack,
        raw: &[u8],
        xs: &[ActivationRow<'_>],
        sums: &mut [s8::Sum],
    ) {
        let chunks = self.block / CHUNK;
        let mut unpacked = [([0i8; CHUNK], SubScales::ONE); 8];
        for (b, raw) in raw.chunks_exact(self.bytes).enumerate() {
            for (c, (q, sub)) in unpacked[..chunks].iter_mut().enumerate() {
                *sub = unpack(raw, c, q);
            }
            let [d, m] = scales(raw);
            let d = flush(d, WEIGHT_FLOOR);
            for (x, sum) in xs.iter().zip(sums.iter_mut()) {
                let ActivationRow::Quantized { scale, hi, lo } = x else { continue };
                let mut high = IntegerSums::default();
                let mut low = IntegerSums::default();
                for (c, (q, sub)) in unpacked[..chunks].iter().enumerate() {
                    let at = b * self.block + c * CHUNK;
                    high.add(*sub, q, &hi[at..at + CHUNK]);
                    if let Some(lo) = lo {
                        low.add(*sub, q, &lo[at..at + CHUNK]);
                    }
                }
                let (s, mins) = match lo {
                    None => (high.s as f32, high.m as f32),
                    Some(_) => (256.0 * high.s as f32 + low.s as f32, 256.0 * high.m as f32 + low.m as f32),
                };
                let w = if has_min { d * s + m * mins } else { d * s };
                sum.push(scale[b] * w);
            }
        }
    }
}

/// One dequantised weight; the products are exact, the sum rounds once.
fn weight(d: f32, m: f32, sub: SubScales, i: usize, q: i8) -> f32 {
    let half = i / (CHUNK / 2);
    let scaled = d * sub.s[half] as f32 * f32::from(q);
    if m == 0.0 { scaled } else { scaled + m * sub.m[half] as f32 }
}

/// Integer sums of one block with one activation plane.
#[derive(Default)]
struct IntegerSums {
    s: i32,
    m: i32,
}

impl IntegerSums {
    fn add(&mut self, sub: SubScales, q: &[i8; CHUNK], x: &[i8]) {
        for half in 0..2 {
            let at = half * CHUNK / 2..(half + 1) * CHUNK / 2;
            let (mut dot, mut total) = (0i32, 0i32);
            for (&q, &x) in q[at.clone()].iter().zip(&x[at]) {
                dot += i32::from(q) * i32::from(x);
                total += i32::from(x);
            }
            self.s += sub.s[half] * dot;
            self.m += sub.m[half] * total;
        }
    }
}

/// The f16 at `raw[at..at + 2]`, exact (subnormals too).
fn f16_at(raw: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([raw[at], raw[at + 1]]).to_f32()
}
