//! BF16: the upper half of an f32.

use super::{Decode, Format};

pub(super) static FORMAT: Format =
    Format { name: "BF16", type_id: 30, block: 1, bytes: 2, decode: Decode::Float(load), streams: &[(0, 2)], quantize };

fn load(raw: &[u8]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([raw[0], raw[1]])) << 16)
}

fn quantize(x: &[f32], raw: &mut [u8]) {
    raw.copy_from_slice(&half::bf16::from_f32(x[0]).to_le_bytes());
}
