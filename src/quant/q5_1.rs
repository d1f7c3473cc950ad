//! Q5_1: 32 weights of 5 bits with an f16 scale and minimum. Layout: `d: f16, m: f16, qh: u32, qs: [u8; 16]`.

use super::search::{split_fifth_bits, store_f16};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q5_1",
    type_id: 7,
    block: 32,
    bytes: 24,
    decode: Decode::Block {
        activation: 32,
        has_min: true,
        levels: Levels::Bits { low: 0, bits: 5 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(8, 16), (4, 4), (0, 4)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), f16_at(block, 2)]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    super::q5_0::fifth_bits(&block[8..24], &block[4..8], q);
    SubScales::ONE_MIN
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let [min, d, inverse] = super::q4_1::minimum_and_scale(x, 31.0);
    store_f16(block, 0, d);
    store_f16(block, 2, min);
    let q: [u8; CHUNK] = std::array::from_fn(|i| ((x[i] - min) * inverse + 0.5).min(31.0) as u8);
    let (high, low) = block[4..].split_at_mut(4);
    split_fifth_bits(&q, low, high);
}
