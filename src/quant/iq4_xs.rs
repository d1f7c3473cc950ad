//! IQ4_XS: 256 weights as indices into IQ4_NL's table, in 8 sub-blocks with 6-bit scales centred at 32.
//! Layout: `d: f16, scales_h: u16, scales_l: [u8; 4], qs: [u8; 128]`.

use super::iq4_nl::{VALUES, look_up};
use super::search::{extreme, inverse, nearest, nearest_index, nibbles, store_f16, table_scale};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "IQ4_XS",
    type_id: 23,
    block: 256,
    bytes: 136,
    decode: Decode::Block {
        activation: 256,
        has_min: false,
        levels: Levels::Table(&VALUES),
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(8, 128), (0, 8)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), 0.0]
}

fn unpack(block: &[u8], chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    look_up(&VALUES, &block[8 + 16 * chunk..][..16], q);
    let low = block[4 + chunk / 2] >> (4 * (chunk % 2)) & 15;
    let high = block[2 + chunk / 4] >> (2 * (chunk % 4)) & 3;
    let s = i32::from(low | high << 4) - 32;
    SubScales { s: [s, s], m: [0, 0] }
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let scales: [f32; 8] = std::array::from_fn(|j| table_scale(&VALUES, &x[CHUNK * j..][..CHUNK]));
    let d = -extreme(&scales) / 32.0;
    let factor = inverse(d);
    block[..8].fill(0);
    store_f16(block, 0, d);
    for (j, x) in x.chunks_exact(CHUNK).enumerate() {
        let s = nearest(factor * scales[j]).clamp(-32, 31);
        let inverse = inverse(d * s as f32);
        let q: [u8; CHUNK] = std::array::from_fn(|i| nearest_index(&VALUES, inverse * x[i]));
        nibbles(&q, &mut block[8 + 16 * j..]);
        let s = (s + 32) as u8;
        block[4 + j / 2] |= (s & 15) << (4 * (j % 2));
        block[2 + j / 4] |= s >> 4 << (2 * (j % 4));
    }
}
