//! The residual: `x = x + b`, in place.

use crate::numerics::{RESULT_FLOOR, flush, settle};
pub use crate::shaders::{ADD as SHADER, params::Add as Params};

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
