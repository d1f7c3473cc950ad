//! Root mean square norm (Zhang & Sennrich 2019): `out = x / sqrt(mean(x²) + eps) * weight`.

use crate::numerics::{WEIGHT_FLOOR, flush, rsqrt, s8, settle};
pub use crate::shaders::{RMS_NORM as SHADER, params::RmsNorm as Params};

impl Params {
    /// Parameters for rows of `width`.
    pub fn new(width: usize, eps: f32) -> Self {
        Self { width: width as u32, eps, inverse_width: 1.0 / width as f32 }
    }
}

/// One row: `x`, `weight` and `out` of `p.width` elements.
#[inline(always)]
pub fn cpu(p: &Params, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let square = |x: f32| flush(x, WEIGHT_FLOOR) * flush(x, WEIGHT_FLOOR);
    let r = rsqrt(s8::sum_of(x, square) * p.inverse_width + p.eps);
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = settle((flush(x, WEIGHT_FLOOR) * r) * flush(w, WEIGHT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}
