//! Q8_0: 32 weights of 8 bits with an f16 scale. Layout: `d: f16, qs: [i8; 32]`.

use super::search::{extreme, inverse, store_f16};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q8_0",
    type_id: 8,
    block: 32,
    bytes: 34,
    decode: Decode::Block {
        activation: 32,
        has_min: false,
        levels: Levels::Bits { low: -128, bits: 8 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(2, 32), (0, 2)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), 0.0]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    for (q, &byte) in q.iter_mut().zip(&block[2..34]) {
        *q = byte as i8;
    }
    SubScales::ONE
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let d = extreme(x).abs() / 127.0;
    let inverse = inverse(d);
    store_f16(block, 0, d);
    for (q, x) in block[2..].iter_mut().zip(x) {
        *q = (x * inverse).round() as i8 as u8;
    }
}
