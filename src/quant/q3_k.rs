//! Q3_K: 256 weights of 3 bits, centred at 4, in 16 sub-blocks with 6-bit scales centred at 32.
//! Layout: `hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: f16`.

use super::{CHUNK, Decode, Format, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q3_K",
    type_id: 11,
    block: 256,
    bytes: 110,
    decode: Decode::Block { activation: 256, has_min: false, scales, unpack },
    streams: &[(32, 64), (0, 32), (96, 12), (108, 2)],
    wgsl: include_str!("../../wgsl/lib/q3_k.wgsl"),
    quantize: None,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 108), 0.0]
}

/// The 6-bit scale of sub-block `i`: four low bits in bytes 0..8, two high bits in bytes 8..12.
fn scale(packed: &[u8], i: usize) -> i32 {
    let low = packed[i % 8] >> (4 * (i / 8)) & 15;
    let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
    i32::from(low | high << 4) - 32
}

fn unpack(block: &[u8], chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    let shift = 2 * (chunk % 4);
    let low = &block[32 + chunk / 4 * 32..][..CHUNK];
    for (i, q) in q.iter_mut().enumerate() {
        *q = (low[i] >> shift & 3 | (block[i] >> chunk & 1) << 2) as i8 - 4;
    }
    let packed = &block[96..108];
    SubScales { s: [scale(packed, 2 * chunk), scale(packed, 2 * chunk + 1)], m: [0, 0] }
}
