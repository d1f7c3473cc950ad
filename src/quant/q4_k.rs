//! Q4_K: 256 weights of 4 bits in 8 sub-blocks with 6-bit scales and minima.
//! Layout: `d: f16, dmin: f16, scales: [u8; 12], qs: [u8; 128]`.

use super::search::{Search, k_scales_and_integers};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q4_K",
    type_id: 12,
    block: 256,
    bytes: 144,
    decode: Decode::Block {
        activation: 256,
        has_min: true,
        levels: Levels::Bits { low: 0, bits: 4 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(16, 128), (4, 12), (0, 4)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), -f16_at(block, 2)]
}

/// The 6-bit scale and minimum of sub-block `j` (ggml's `get_scale_min_k4`).
pub(super) fn scale_min(packed: &[u8], j: usize) -> (i32, i32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4), (packed[j + 4] >> 4) | (packed[j] >> 6 << 4))
    };
    (i32::from(scale), i32::from(min))
}

fn unpack(block: &[u8], chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    let shift = 4 * (chunk % 2);
    let qs = &block[16 + chunk / 2 * 32..][..32];
    for (q, &byte) in q.iter_mut().zip(qs) {
        *q = ((byte >> shift) & 15) as i8;
    }
    let (s, m) = scale_min(&block[4..16], chunk);
    SubScales { s: [s, s], m: [m, m] }
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let search = Search { first: -1.0, steps: 20, absolute: false };
    let q = k_scales_and_integers(x, 15, &search, block);
    for (q, raw) in q.chunks_exact(64).zip(block[16..].chunks_exact_mut(32)) {
        for (i, raw) in raw.iter_mut().enumerate() {
            *raw = q[i] | q[i + 32] << 4;
        }
    }
}
