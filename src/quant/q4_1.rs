//! Q4_1: 32 weights of 4 bits with an f16 scale and an f16 minimum. Layout: `d: f16, m: f16, qs: [u8; 16]`.

use super::{CHUNK, Decode, Format, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "Q4_1",
    type_id: 3,
    block: 32,
    bytes: 20,
    decode: Decode::Block { activation: 32, has_min: true, scales, unpack },
    streams: &[(4, 16), (0, 4)],
    wgsl: include_str!("../../wgsl/lib/q4_1.wgsl"),
    quantize: None,
};

fn scales(block: &[u8]) -> [f32; 2] {
    [f16_at(block, 0), f16_at(block, 2)]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    for (i, &byte) in block[4..20].iter().enumerate() {
        q[i] = (byte & 15) as i8;
        q[i + 16] = (byte >> 4) as i8;
    }
    SubScales::ONE_MIN
}
