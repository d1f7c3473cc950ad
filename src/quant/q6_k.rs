//! Q6_K: 256 weights of 6 bits, centred at 32, in 16 sub-blocks with 8-bit scales.
//! Layout: `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`.

use super::search::{extreme, nearest, store_f16, symmetric};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q6_K",
    type_id: 14,
    block: 256,
    bytes: 210,
    decode: Decode::Block {
        activation: 256,
        has_min: false,
        levels: Levels::Bits { low: -32, bits: 6 },
        sub_block: 16,
        scales,
        unpack,
    },
    streams: &[(0, 128), (128, 64), (192, 16), (208, 2)],
    quantize,
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

fn quantize(x: &[f32], block: &mut [u8]) {
    block.fill(0);
    let mut scales = [0.0; 16];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(16)) {
        *scale = symmetric(x, 32);
    }
    let largest = extreme(&scales);
    if largest == 0.0 {
        return;
    }
    let factor = -128.0 / largest;
    let d = store_f16(block, 208, 1.0 / factor);
    let mut q = [0u8; 256];
    for (j, (x, q)) in x.chunks_exact(16).zip(q.chunks_exact_mut(16)).enumerate() {
        let s = nearest(factor * scales[j]).min(127) as i8;
        block[192 + j] = s as u8;
        let d = d * f32::from(s);
        for (q, &x) in q.iter_mut().zip(x) {
            *q = if d == 0.0 { 0 } else { (nearest(x / d).clamp(-32, 31) + 32) as u8 };
        }
    }
    for (half, q) in q.chunks_exact(128).enumerate() {
        for i in 0..32 {
            let part = |p: usize| q[32 * p + i];
            block[64 * half + i] = part(0) & 15 | (part(2) & 15) << 4;
            block[64 * half + 32 + i] = part(1) & 15 | (part(3) & 15) << 4;
            block[128 + 32 * half + i] = (0..4).fold(0, |byte, p| byte | (part(p) >> 4) << (2 * p));
        }
    }
}
