//! The gated activation: `out = silu(a) * b`.

use bytemuck::{Pod, Zeroable};

use super::Shader;
use crate::numerics::{WEIGHT_FLOOR, flush, settle, silu};

/// The shader.
pub static SHADER: Shader = Shader { name: "silu_mul", wgsl: include_str!("../../wgsl/silu_mul.wgsl") };

/// What the shader reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Elements per row.
    pub width: u32,
    /// To 16 bytes.
    pub pad: [u32; 3],
}

/// One row: `a`, `b` and `out` of equal length.
#[inline(always)]
pub fn cpu(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = settle(silu(a) * flush(b, WEIGHT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}
