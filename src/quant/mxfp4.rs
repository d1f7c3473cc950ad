//! MXFP4 (OCP Microscaling): 32 weights of FP4 (E2M1) with a power-of-two scale. Layout: `e: u8, qs: [u8; 16]`.
//!
//! The table holds twice the FP4 values, so that they are integers; the scale is halved.

use super::iq4_nl::look_up;
use super::search::{extreme, nibbles};
use super::{CHUNK, Decode, Format, Levels, SubScales};

static VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) static FORMAT: Format = Format {
    name: "MXFP4",
    type_id: 39,
    block: 32,
    bytes: 17,
    decode: Decode::Block {
        activation: 32,
        has_min: false,
        levels: Levels::Table(&VALUES),
        sub_block: 32,
        scales,
        unpack,
    },
    streams: &[(1, 16), (0, 1)],
    quantize,
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

fn quantize(x: &[f32], block: &mut [u8]) {
    // The largest FP4 value is 6, so its exponent is two above the shared one.
    let amax = extreme(x).abs();
    let exponent = (amax.to_bits() >> 23) as i32;
    block[0] = if amax == 0.0 { 0 } else { (exponent - 2).max(0) as u8 };
    let [d, _] = scales(block);
    let closest = |x: f32| {
        let error = |i: &u8| (f32::from(VALUES[usize::from(*i)]) * d - x).abs();
        (0..16).min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(0)
    };
    nibbles(&std::array::from_fn::<u8, CHUNK, _>(|i| closest(x[i])), &mut block[1..]);
}
