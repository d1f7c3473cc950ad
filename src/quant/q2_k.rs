//! Q2_K: 256 weights of 2 bits in 16 sub-blocks with 4-bit scales and minima.
//! Layout: `scales: [u8; 16], qs: [u8; 64], d: f16, dmin: f16`.

use super::{CHUNK, Decode, Format, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q2_K",
    type_id: 10,
    block: 256,
    bytes: 84,
    decode: Decode::Block { activation: 256, has_min: true, scales, unpack },
    streams: &[(16, 64), (0, 16), (80, 4)],
    wgsl: include_str!("../../wgsl/lib/q2_k.wgsl"),
    quantize: None,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 80), -f16_at(block, 82)]
}

fn unpack(block: &[u8], chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    let shift = 2 * (chunk % 4);
    for (q, &byte) in q.iter_mut().zip(&block[16 + chunk / 4 * 32..][..CHUNK]) {
        *q = (byte >> shift & 3) as i8;
    }
    let packed = [block[2 * chunk], block[2 * chunk + 1]];
    SubScales { s: packed.map(|p| i32::from(p & 15)), m: packed.map(|p| i32::from(p >> 4)) }
}
