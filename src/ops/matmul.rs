//! Matrix product `y[row, n] = Σ w[n, k] x[row, k] (+ bias[n])` for every weight format.

use bytemuck::{Pod, Zeroable};

use super::Shader;
use crate::numerics::{ActivationRow, settle};
use crate::quant::Format;

/// The shader.
pub static SHADER: Shader = Shader { name: "matmul", wgsl: include_str!("../../wgsl/matmul.wgsl") };

/// What the shader reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Weights per row.
    pub cols: u32,
    /// Terms per row.
    pub blocks: u32,
    /// Weights per term.
    pub block: u32,
    /// Words per activation row.
    pub x_stride: u32,
    /// Weight rows in this shard.
    pub rows: u32,
    /// First of them in the whole matrix.
    pub row_base: u32,
    /// Rows of the whole matrix.
    pub out_width: u32,
    /// 1 if a bias is added.
    pub has_bias: u32,
    /// Word offset of each stream in the shard.
    pub streams: [u32; 4],
    /// 1: results are stored from row 0 on, whatever row the activations come from.
    pub out_row0: u32,
    /// The shard's first row in its buffer.
    pub first: u32,
    /// To 16 bytes.
    pub pad: [u32; 2],
}

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
