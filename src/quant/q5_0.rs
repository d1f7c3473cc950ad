//! Q5_0: 32 weights of 5 bits, centred at 16, with an f16 scale. Layout: `d: f16, qh: u32, qs: [u8; 16]`.

use super::search::{extreme, inverse, split_fifth_bits, store_f16};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q5_0",
    type_id: 6,
    block: 32,
    bytes: 22,
    decode: Decode::Block {
        activation: 32,
        has_min: false,
        levels: Levels::Bits { low: -16, bits: 5 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(6, 16), (2, 4), (0, 2)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), 0.0]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    fifth_bits(&block[6..22], &block[2..6], q);
    for q in q {
        *q -= 16;
    }
    SubScales::ONE
}

/// Joins nibbles with their fifth bits.
pub(super) fn fifth_bits(nibbles: &[u8], high: &[u8], q: &mut [i8; CHUNK]) {
    let bit = |i: usize| (high[i / 8] >> (i % 8) & 1) << 4;
    for (i, &byte) in nibbles.iter().enumerate() {
        q[i] = (byte & 15 | bit(i)) as i8;
        q[i + 16] = (byte >> 4 | bit(i + 16)) as i8;
    }
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let d = extreme(x) / -16.0;
    let inverse = inverse(d);
    store_f16(block, 0, d);
    let q: [u8; CHUNK] = std::array::from_fn(|i| (x[i] * inverse + 16.5).min(31.0) as u8);
    let (high, low) = block[2..].split_at_mut(4);
    split_fifth_bits(&q, low, high);
}
