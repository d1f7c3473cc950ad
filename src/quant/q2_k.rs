//! Q2_K: 256 weights of 2 bits in 16 sub-blocks with 4-bit scales and minima.
//! Layout: `scales: [u8; 16], qs: [u8; 64], d: f16, dmin: f16`.

use super::search::{Search, largest, nearest, pairs_of_bits, quantize_with_minimum, store_f16, with_minimum};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q2_K",
    type_id: 10,
    block: 256,
    bytes: 84,
    decode: Decode::Block {
        activation: 256,
        has_min: true,
        levels: Levels::Bits { low: 0, bits: 4 },
        sub_block: 16,
        scales,
        unpack,
    },
    streams: &[(16, 64), (0, 16), (80, 4)],
    quantize,
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

fn quantize(x: &[f32], block: &mut [u8]) {
    let search = Search { first: -0.5, steps: 15, absolute: true };
    let mut pairs = [[0.0f32; 2]; 16];
    for (pair, x) in pairs.iter_mut().zip(x.chunks_exact(16)) {
        let weights: [f32; 16] = std::array::from_fn(|i| x[i].abs());
        *pair = with_minimum(x, &weights, 3, &search);
    }
    let largest = largest(&pairs);
    let factors = largest.map(|l| if l > 0.0 { 15.0 / l } else { 0.0 });
    for (packed, pair) in block[..16].iter_mut().zip(&pairs) {
        let [s, m] = [0, 1].map(|i| nearest(factors[i] * pair[i]) as u8);
        *packed = s | m << 4;
    }
    let d = store_f16(block, 80, largest[0] / 15.0);
    let dmin = store_f16(block, 82, largest[1] / 15.0);
    let mut q = [0; 256];
    for (j, (x, q)) in x.chunks_exact(16).zip(q.chunks_exact_mut(16)).enumerate() {
        let packed = block[j];
        quantize_with_minimum(x, d * f32::from(packed & 15), dmin * f32::from(packed >> 4), 3, q);
    }
    pairs_of_bits(&q, &mut block[16..80]);
}
