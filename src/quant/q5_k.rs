//! Q5_K: 256 weights of 5 bits in 8 sub-blocks with 6-bit scales and minima.
//! Layout: `d: f16, dmin: f16, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128]`.

use super::search::{Search, k_scales_and_integers};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q5_K",
    type_id: 13,
    block: 256,
    bytes: 176,
    decode: Decode::Block {
        activation: 256,
        has_min: true,
        levels: Levels::Bits { low: 0, bits: 5 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(48, 128), (16, 32), (4, 12), (0, 4)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), -f16_at(block, 2)]
}

fn unpack(block: &[u8], chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    let shift = 4 * (chunk % 2);
    let low = &block[48 + chunk / 2 * 32..][..CHUNK];
    let high = &block[16..48];
    for (i, q) in q.iter_mut().enumerate() {
        *q = (low[i] >> shift & 15 | (high[i] >> chunk & 1) << 4) as i8;
    }
    let (s, m) = super::q4_k::scale_min(&block[4..16], chunk);
    SubScales { s: [s, s], m: [m, m] }
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let search = Search { first: -0.5, steps: 15, absolute: false };
    let q = k_scales_and_integers(x, 31, &search, block);
    block[16..48].fill(0);
    for (i, q) in q.iter().enumerate() {
        block[16 + i % 32] |= (q >> 4) << (i / 32);
    }
    for (q, raw) in q.chunks_exact(64).zip(block[48..].chunks_exact_mut(32)) {
        for (i, raw) in raw.iter_mut().enumerate() {
            *raw = q[i] & 15 | (q[i + 32] & 15) << 4;
        }
    }
}
