//! Matrix product `y[row, n] = Σ w[n, k] x[row, k] (+ bias[n])` for every weight format.

use crate::numerics::{ActivationRow, settle};
use crate::quant::Format;
pub use crate::shaders::{MATMUL as SHADER, params::Product as Params};

/// Weight rows a workgroup computes.
pub const ROWS: u32 = 8;

/// One weight row (`raw`) times up to `DOT_ROWS` activation rows.
pub fn cpu(format: &Format, raw: &[u8], xs: &[ActivationRow<'_>], bias: Option<f32>, out: &mut [f32]) {
    format.dot(raw, xs, out);
    for y in out {
        *y = settle(*y);
        if let Some(bias) = bias {
            *y = settle(*y + bias);
        }
    }
}

/// Workgroups for `rows` activation rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [p.rows.div_ceil(ROWS), rows, 1]
}
