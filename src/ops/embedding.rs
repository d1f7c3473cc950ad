//! Embedding rows by token id, dequantised exactly.

use super::examples::{Example, Floats, Matrix, Scene, bits, columns};
use super::float64::Memory64;
use super::shapes::{BufferId, Shapes, WeightId, same};
use super::{Call, Operand, Operation, Part, Whole};
use crate::numerics::settle;
use crate::quant::{FORMATS, Format};
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

impl Whole for Embedding {
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        from.ids().iter().flat_map(|&id| from.weight(self.weight, id as usize)).collect()
    }

    fn examples(floats: Floats<'_>) -> Vec<Example> {
        FORMATS.iter().filter_map(|format| example(floats, format, 11, columns(format, 3))).collect()
    }
}

/// The last row of a random matrix and the first, by their ids.
pub fn example(floats: Floats<'_>, format: &'static Format, rows: usize, cols: usize) -> Option<Example> {
    let matrix = Matrix::random(floats, format, rows, cols);
    let ids = vec![rows as u32 - 1, 0];
    let mut expected = vec![0.0; ids.len() * cols];
    for (id, out) in ids.iter().zip(expected.chunks_mut(cols)) {
        cpu(format, matrix.row(*id as usize), out);
    }
    let mut scene = Scene { ids, ..Scene::default() };
    let (weight, out) = (scene.matrix(&matrix), scene.floats(cols, &vec![0.0; expected.len()]));
    let shape = format!("[2] of [{rows}, {cols}]");
    scene.example(&Embedding { weight, out }, [2, 0, 0], shape, (Operand::Rows(out), bits(&expected)))
}
