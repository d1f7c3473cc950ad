//! F16: IEEE half precision.

use super::{Decode, Format, f16_at};

pub(super) static FORMAT: Format =
    Format { name: "F16", type_id: 1, block: 1, bytes: 2, decode: Decode::Float(load), streams: &[(0, 2)], quantize };

fn load(raw: &[u8]) -> f32 {
    f16_at(raw, 0)
}

fn quantize(x: &[f32], raw: &mut [u8]) {
    raw.copy_from_slice(&half::f16::from_f32(x[0]).to_le_bytes());
}
