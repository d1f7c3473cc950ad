//! Matrix product `y[row, n] = Σ w[n, k] x[row, k] (+ bias[n])` for every weight format.

use super::examples::{Example, Floats, Matrix, Scene, bits, columns};
use super::float64::{Memory64, dot};
use super::quantize_activations::Activations;
use super::shapes::{BufferId, BufferKind, Shapes, WeightId, ensure, same};
use super::{Call, Operand, Operation, Part, Whole, quantize_activations};
use crate::host;
use crate::numerics::{ActivationRow, Precision, settle};
use crate::quant::{CHUNK, FORMATS, Format};
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

/// Multiplies `x` with the matrix `weight` and adds `bias`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Matmul {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub x: BufferId,
    pub out: BufferId,
}

impl Matmul {
    /// Whether the activations have two planes.
    pub(crate) fn is_precise(&self, shapes: &Shapes<'_>) -> bool {
        let integers = shapes.weights[self.weight.0].format.activation_block().is_some();
        integers && shapes.precision == Precision::Precise
    }

    /// The parameters of the product with a part of the matrix.
    pub(crate) fn params(&self, shapes: &Shapes<'_>, part: &Part) -> Params {
        let w = &shapes.weights[self.weight.0];
        let block = w.format.activation_block();
        let term = block.unwrap_or(CHUNK);
        let stride = block.map_or(w.cols, |b| quantize_activations::stride(w.cols, b, shapes.precision));
        Params {
            cols: w.cols as u32,
            blocks: w.cols.div_ceil(term) as u32,
            block: term as u32,
            x_stride: stride as u32,
            rows: part.rows as u32,
            row_base: part.row_base as u32,
            out_width: w.rows as u32,
            has_bias: u32::from(self.bias.is_some()),
            streams: part.streams,
            first: part.first as u32,
        }
    }
}

impl Operation for Matmul {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn matrix(&self) -> Option<WeightId> {
        Some(self.weight)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (w, x) = (shapes.weight(self.weight)?, &shapes.buffers[self.x.0]);
        let kind = w.format.activation_block().map_or(BufferKind::Float, BufferKind::Quantized);
        ensure!(x.kind == kind, "multiplies '{}' with '{}', which needs {kind:?} activations", x.name, w.name);
        same("a matrix and an input", w.cols, x.width)?;
        same("matrix rows and an output", w.rows, shapes.float(self.out)?)?;
        self.bias.map_or(Ok(()), |bias| shapes.vector(bias, w.rows))
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, part: &Part) -> Call {
        let p = self.params(shapes, part);
        let rows = Operand::Rows;
        let operands =
            [Operand::Matrix, Operand::Matrix, rows(self.x), rows(self.x), Operand::Vector(self.bias), rows(self.out)];
        let (format, precise) = (Some(shapes.weights[self.weight.0].format), self.is_precise(shapes));
        Call { format, precise, ..Call::new(&SHADER, &p, workgroups(&p, 1), operands) }
    }
}

impl Whole for Matmul {
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        let (w, x, bias) = (&from.shapes().weights[self.weight.0], from.rows(self.x), from.vector(self.bias));
        let rows = x.len() / w.cols;
        // The rows of the matrix are spread over the threads.
        let mut columns = vec![0.0; w.rows * rows];
        let share = w.rows.div_ceil(host::threads());
        host::each(columns.chunks_mut((share * rows).max(1)).enumerate(), |(t, part)| {
            for (i, out) in part.chunks_mut(rows).enumerate() {
                let n = t * share + i;
                let matrix_row = from.weight(self.weight, n);
                for (x, out) in x.chunks(matrix_row.len()).zip(out) {
                    *out = dot(&matrix_row, x) + bias.get(n).copied().unwrap_or_default();
                }
            }
        });
        (0..rows).flat_map(|r| columns.iter().skip(r).step_by(rows.max(1)).copied()).collect()
    }

    fn examples(floats: Floats<'_>) -> Vec<Example> {
        let mut all = Vec::new();
        for format in FORMATS {
            for precision in [Precision::Fast, Precision::Precise] {
                all.extend(example(floats, format, precision, 3));
            }
        }
        // More terms than a workgroup adds at once.
        let format = FORMATS.iter().find(|f| f.activation_block() == Some(CHUNK));
        all.extend(format.and_then(|format| example(floats, format, Precision::Fast, 67)));
        all
    }
}

/// Two rows of so many blocks times a matrix of 11, and a bias.
fn example(floats: Floats<'_>, format: &'static Format, precision: Precision, blocks: usize) -> Option<Example> {
    let (tokens, rows, cols) = (2, 11, columns(format, blocks));
    let matrix = Matrix::random(floats, format, rows, cols);
    let (a, bias) = (Activations::new(floats(tokens * cols), cols, format, precision), floats(rows));
    let mut expected = vec![0.0; tokens * rows];
    for (i, out) in expected.chunks_mut(1).enumerate() {
        let (t, n) = (i / rows, i % rows);
        cpu(format, matrix.row(n), &[a.row(t * cols, cols)], Some(bias[n]), out);
    }
    let mut scene = Scene { precision, ..Scene::default() };
    let (weight, bias) = (scene.matrix(&matrix), scene.vector(&bias));
    let x = scene.rows(cols, a.kind(), a.words(precision));
    let out = scene.floats(rows, &vec![0.0; tokens * rows]);
    let shape = format!("[{tokens}, {cols}] times [{rows}, {cols}]");
    let op = Matmul { weight, bias, x, out };
    scene.example(&op, [tokens, 0, 0], shape, (Operand::Rows(out), bits(&expected)))
}
