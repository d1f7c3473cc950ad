//! Softmax over each row, in base 2. Every value must lie within ±2^90.

use crate::numerics::{ACTIVATION_FLOOR, exp2, flush, recip, s8, settle};
pub use crate::shaders::{SOFTMAX as SHADER, params::Softmax as Params};

/// One row.
#[inline(always)]
pub fn cpu(x: &[f32], out: &mut [f32]) {
    let scaled = |x: f32| flush(flush(x, ACTIVATION_FLOOR) * std::f32::consts::LOG2_E, ACTIVATION_FLOOR);
    let top = x.iter().fold(-f32::from_bits((127 + 100) << 23), |m, &x| m.max(scaled(x)));
    let inverse = recip(s8::sum_of(x, |x| exp2(scaled(x) - top)));
    for (out, &x) in out.iter_mut().zip(x) {
        *out = settle(exp2(scaled(x) - top) * inverse);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}
