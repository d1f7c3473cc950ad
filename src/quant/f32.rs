//! F32: IEEE single precision.

use super::{Decode, Format};

pub(super) static FORMAT: Format =
    Format { name: "F32", type_id: 0, block: 1, bytes: 4, decode: Decode::Float(load), streams: &[(0, 4)], quantize };

fn load(raw: &[u8]) -> f32 {
    f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])
}

fn quantize(x: &[f32], raw: &mut [u8]) {
    raw.copy_from_slice(&x[0].to_le_bytes());
}
