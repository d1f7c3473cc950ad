//! Activations to integers with a scale per block, for the integer matrix products.

use bytemuck::{Pod, Zeroable};

use super::Shader;
use crate::numerics::{Precision, quantize_block};

/// The shader.
pub static SHADER: Shader =
    Shader { name: "quantize_activations", wgsl: include_str!("../../wgsl/quantize_activations.wgsl") };

/// What the shader reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Elements per row, a multiple of `block`.
    pub cols: u32,
    /// Elements per scale: 32 or 256.
    pub block: u32,
    /// Words per row of the result: planes, then scales, padded to four words.
    pub stride: u32,
    /// The integer the largest magnitude of a block becomes.
    pub steps: f32,
    /// `1 / steps`.
    pub inverse_steps: f32,
    /// To 16 bytes.
    pub pad: [u32; 3],
}

impl Params {
    /// Parameters for rows of `cols`.
    pub fn new(cols: usize, block: usize, precision: Precision) -> Self {
        Self {
            cols: cols as u32,
            block: block as u32,
            stride: stride(cols, block, precision) as u32,
            steps: precision.steps(),
            inverse_steps: precision.inverse_steps(),
            pad: [0; 3],
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
