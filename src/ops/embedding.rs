//! Embedding rows by token id, dequantised exactly.

use super::shapes::{BufferId, Shapes, WeightId, same};
use super::{Call, Operand, Operation, Part};
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

/// Rows of the matrix `weight` by token id.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Embedding {
    pub weight: WeightId,
    pub out: BufferId,
}

impl Operation for Embedding {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [None, None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn needs_every_row(&self) -> bool {
        true
    }

    fn matrix(&self) -> Option<WeightId> {
        Some(self.weight)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        same("a matrix and an output", shapes.weight(self.weight)?.cols, shapes.float(self.out)?)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, part: &Part) -> Call {
        let w = &shapes.weights[self.weight.0];
        let p = Params::new(w.format, w.cols, part.row_base, part.rows, part.streams);
        let operands = [Operand::Matrix, Operand::Matrix, Operand::Ids, Operand::Rows(self.out)];
        Call { format: Some(w.format), ..Call::new(&SHADER, &p, workgroups(&p, 1), operands) }
    }
}
