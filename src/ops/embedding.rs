//! Embedding rows by token id, dequantised exactly.

use crate::numerics::settle;
use crate::quant::Format;
pub use crate::shaders::{EMBEDDING as SHADER, params::Embedding as Params};

impl Params {
    /// Parameters for the `rows` rows from `row_base` on, of `cols` each.
    pub fn new(format: &Format, cols: usize, row_base: usize, rows: usize, streams: [u32; 4]) -> Self {
        let [cols, row_base, rows, block] = [cols, row_base, rows, format.block].map(|n| n as u32);
        Self { cols, row_base, rows, block, streams }
    }
}

/// One row: `raw` is the id's row of the matrix.
pub fn cpu(format: &Format, raw: &[u8], out: &mut [f32]) {
    format.dequantize(raw, out);
    for x in out {
        *x = settle(*x);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.cols), rows, 1]
}
