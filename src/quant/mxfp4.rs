//! MXFP4 (OCP Microscaling): 32 weights of FP4 (E2M1) with a power-of-two scale. Layout: `e: u8, qs: [u8; 16]`.
//!
//! The table holds twice the FP4 values, so that they are integers; the scale is halved.

use super::iq4_nl::look_up;
use super::{CHUNK, Decode, Format, SubScales};

const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) static FORMAT: Format = Format {
    name: "MXFP4",
    type_id: 39,
    block: 32,
    bytes: 17,
    decode: Decode::Block { activation: 32, has_min: false, scales, unpack },
    streams: &[(1, 16), (0, 1)],
    wgsl: include_str!("../../wgsl/lib/mxfp4.wgsl"),
    quantize: None,
};

fn scales(block: &[u8]) -> [f32; 2] {
    let e = u32::from(block[0]);
    // 2^(e - 128), a subnormal for the two smallest exponents.
    [f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 }), 0.0]
}

fn unpack(block: &[u8], _chunk: usize, q: &mut [i8; CHUNK]) -> SubScales {
    look_up(&VALUES, &block[1..17], q);
    SubScales::ONE
}
