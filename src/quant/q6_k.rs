//! Q6_K: 256 weights of 6 bits, centred at 32, in 16 sub-blocks with 8-bit scales.
//! Layout: `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`.

use super::{CHUNK, Decode, Format, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q6_K",
    type_id: 14,
    block: 256,
    bytes: 210,
    decode: Decode::Block { activation: 256, has_min: false, scales, unpack },
    streams: &[(0, 128), (128, 64), (192, 16), (208, 2)],
    wgsl: include_str!("../../wgsl/lib/q6_k.wgsl"),
    quantize: None,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 208), 0.0]
}

fn unpack(block: &[u8], chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    // A half of 128 weights has 64 bytes of low nibbles and 32 bytes of high bit pairs.
    let (half, part) = (chunk / 4, chunk % 4);
    let low = &block[64 * half + 32 * (part % 2)..][..CHUNK];
    let high = &block[128 + 32 * half..][..CHUNK];
    for (i, q) in q.iter_mut().enumerate() {
        let nibble = (low[i] >> (4 * (part / 2))) & 15;
        let pair = (high[i] >> (2 * part)) & 3;
        *q = (nibble | (pair << 4)) as i8 - 32;
    }
    let scale = |i: usize| i32::from(block[192 + 2 * chunk + i] as i8);
    SubScales { s: [scale(0), scale(1)], m: [0, 0] }
}
