//! Q3_K: 256 weights of 3 bits, centred at 4, in 16 sub-blocks with 6-bit scales centred at 32.
//! Layout: `hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: f16`.

use super::search::{extreme, inverse, nearest, pairs_of_bits, refined, store_f16};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q3_K",
    type_id: 11,
    block: 256,
    bytes: 110,
    decode: Decode::Block {
        activation: 256,
        has_min: false,
        levels: Levels::Bits { low: -4, bits: 4 },
        sub_block: 16,
        scales,
        unpack,
    },
    streams: &[(32, 64), (0, 32), (96, 12), (108, 2)],
    quantize,
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

fn quantize(x: &[f32], block: &mut [u8]) {
    let (parts, _) = x.as_chunks::<16>();
    let scales: [f32; 16] = std::array::from_fn(|j| refined(&parts[j]));
    let largest = extreme(&scales);
    block.fill(0);
    let factor = if largest == 0.0 { 0.0 } else { -32.0 / largest };
    let d = store_f16(block, 108, inverse(factor));
    let mut q = [0u8; 256];
    for (j, x) in parts.iter().enumerate() {
        let s = if factor == 0.0 { 0 } else { (nearest(factor * scales[j]).clamp(-32, 31) + 32) as u8 };
        block[96 + j % 8] |= (s & 15) << (4 * (j / 8));
        block[104 + j % 4] |= s >> 4 << (2 * (j / 4));
        let d = d * (f32::from(s) - 32.0);
        for (i, &x) in x.iter().enumerate() {
            // A sub-block without scale keeps the integer 0, which is stored as 0 as in ggml.
            q[16 * j + i] = if d == 0.0 { 0 } else { (nearest(x / d).clamp(-4, 3) + 4) as u8 };
        }
    }
    for (i, q) in q.iter().enumerate() {
        block[i % 32] |= (q >> 2) << (i / 32);
    }
    pairs_of_bits(&q, &mut block[32..96]);
}
