//! IQ4_NL: 32 weights as indices into a table of 16 values, with an f16 scale. Layout: `d: f16, qs: [u8; 16]`.

use super::search::{inverse, nearest_index, nibbles, store_f16, table_scale};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

/// The values an index stands for (ggml's `kvalues_iq4nl`).
pub(super) static VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) static FORMAT: Format = Format {
    name: "IQ4_NL",
    type_id: 20,
    block: 32,
    bytes: 18,
    decode: Decode::Block {
        activation: 32,
        has_min: false,
        levels: Levels::Table(&VALUES),
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(2, 16), (0, 2)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), 0.0]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    look_up(&VALUES, &block[2..18], q);
    SubScales::ONE
}

/// Replaces the low, then the high nibbles by their values.
pub(super) fn look_up(values: &[i8; 16], nibbles: &[u8], q: &mut [i8; CHUNK]) {
    for (i, &byte) in nibbles.iter().enumerate() {
        q[i] = values[usize::from(byte & 15)];
        q[i + 16] = values[usize::from(byte >> 4)];
    }
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let d = table_scale(&VALUES, x);
    let inverse = inverse(d);
    store_f16(block, 0, d);
    let q: [u8; CHUNK] = std::array::from_fn(|i| nearest_index(&VALUES, inverse * x[i]));
    nibbles(&q, &mut block[2..]);
}
