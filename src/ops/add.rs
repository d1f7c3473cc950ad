//! The residual: `x = x + b`, in place.

use bytemuck::{Pod, Zeroable};

use super::Shader;
use crate::numerics::{RESULT_FLOOR, flush, settle};

/// The shader.
pub static SHADER: Shader = Shader { name: "add", wgsl: include_str!("../../wgsl/add.wgsl") };

/// What the shader reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Elements per row.
    pub width: u32,
    /// To 16 bytes.
    pub pad: [u32; 3],
}

/// One row: `x` and `b` of equal length.
#[inline(always)]
pub fn cpu(x: &mut [f32], b: &[f32]) {
    for (x, &b) in x.iter_mut().zip(b) {
        *x = settle(flush(*x, RESULT_FLOOR) + flush(b, RESULT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}
