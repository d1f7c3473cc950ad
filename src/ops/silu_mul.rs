//! The gated activation: `out = silu(a) * b`.

use crate::numerics::{WEIGHT_FLOOR, flush, settle, silu};
pub use crate::shaders::{SILU_MUL as SHADER, params::SiluMul as Params};

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
