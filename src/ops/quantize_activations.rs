//! Activations to integers with a scale per block, for the integer matrix products.

use crate::numerics::{Precision, quantize_block};
pub use crate::shaders::{QUANTIZE_ACTIVATIONS as SHADER, params::QuantizeActivations as Params};

impl Params {
    /// Parameters for rows of `cols`.
    pub fn new(cols: usize, block: usize, precision: Precision) -> Self {
        Self {
            cols: cols as u32,
            block: block as u32,
            stride: stride(cols, block, precision) as u32,
            steps: precision.steps(),
            inverse_steps: precision.inverse_steps(),
        }
    }
}

/// Words per quantised row.
pub fn stride(cols: usize, block: usize, precision: Precision) -> usize {
    let planes = if precision == Precision::Precise { 2 } else { 1 };
    planes * cols / 4 + (cols / block).next_multiple_of(4)
}

/// One row: `x` and `hi` of `cols`, `lo` of `cols` (left alone when fast), `scale` of `cols / block` elements.
#[inline(always)]
pub fn cpu(block: usize, precision: Precision, x: &[f32], hi: &mut [i8], lo: &mut [i8], scale: &mut [f32]) {
    for (i, (x, hi)) in x.chunks(block).zip(hi.chunks_mut(block)).enumerate() {
        let lo = if lo.is_empty() { &mut [][..] } else { &mut lo[i * block..i * block + x.len()] };
        scale[i] = quantize_block(x, precision, hi, lo);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.cols / p.block), rows, 1]
}
