//! Q4_0: 32 weights of 4 bits, centred at 8, with an f16 scale. Layout: `d: f16, qs: [u8; 16]`.

use super::search::{extreme, inverse, nibbles, store_f16};
use super::{CHUNK, Decode, Format, Levels, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q4_0",
    type_id: 2,
    block: 32,
    bytes: 18,
    decode: Decode::Block {
        activation: 32,
        has_min: false,
        levels: Levels::Bits { low: -8, bits: 4 },
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(2, 16), (0, 2)],
    quantize,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), 0.0]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    for (i, &byte) in block[2..18].iter().enumerate() {
        q[i] = (byte & 15) as i8 - 8;
        q[i + 16] = (byte >> 4) as i8 - 8;
    }
    SubScales::ONE
}

fn quantize(x: &[f32], block: &mut [u8]) {
    let d = extreme(x) / -8.0;
    let inverse = inverse(d);
    store_f16(block, 0, d);
    nibbles(&std::array::from_fn::<u8, CHUNK, _>(|i| (x[i] * inverse + 8.5).min(15.0) as u8), &mut block[2..]);
}
