//! Q4_1: 32 weights of 4 bits with an f16 scale and an f16 minimum. Layout: `d: f16, m: f16, qs: [u8; 16]`.

use super::search::{inverse, nibbles, store_f16};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q4_1",
    type_id: 3,
    block: 32,
    bytes: 20,
    decode: Decode::Block {
        activation: 32,
        has_min: true,
        levels: Levels::Bits { low: 0, bits: 4 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(4, 16), (0, 4)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), f16_at(block, 2)]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    for (i, &byte) in block[4..20].iter().enumerate() {
        q[i] = (byte & 15) as i8;
        q[i + 16] = (byte >> 4) as i8;
    }
    SubScales::ONE_MIN
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let [min, d, inverse] = minimum_and_scale(x, 15.0);
    store_f16(block, 0, d);
    store_f16(block, 2, min);
    let q: [u8; CHUNK] = std::array::from_fn(|i| ((x[i] - min) * inverse + 0.5).min(15.0) as u8);
    nibbles(&q, &mut block[4..]);
}

/// Minimum, scale and its inverse for integers in `0..=steps`.
pub(super) fn minimum_and_scale(x: &[f32], steps: f32) -> [f32; 3] {
    let (min, max) = x.iter().fold((x[0], x[0]), |(min, max), &x| (min.min(x), max.max(x)));
    let d = (max - min) / steps;
    [min, d, inverse(d)]
}
