//! IQ4_XS: 256 weights as indices into IQ4_NL's table, in 8 sub-blocks with 6-bit scales centred at 32.
//! Layout: `d: f16, scales_h: u16, scales_l: [u8; 4], qs: [u8; 128]`.

use super::iq4_nl::{VALUES, look_up};
use super::{CHUNK, Decode, Format, SubScales, f16_at};

pub(super) static FORMAT: Format = Format {
    name: "IQ4_XS",
    type_id: 23,
    block: 256,
    bytes: 136,
    decode: Decode::Block { activation: 256, has_min: false, scales, unpack },
    streams: &[(8, 128), (0, 8)],
    wgsl: include_str!("../../wgsl/lib/iq4_xs.wgsl"),
    quantize: None,
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
