//! Activations to integers with a scale per block, for the integer matrix products.

use super::examples::{Activations, Example, Floats, Scene};
use super::float64::Memory64;
use super::shapes::{BufferId, BufferKind, Shapes, ensure, same};
use super::{Call, Operand, Operation, Part, Whole, Words};
use crate::quant::{CHUNK, FORMATS};
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

/// Turns `x` into integers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct QuantizeActivations {
    pub x: BufferId,
    pub out: BufferId,
}

impl Operation for QuantizeActivations {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn words(&self) -> Words {
        Words::Quantized
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (width, out) = (shapes.float(self.x)?, &shapes.buffers[self.out.0]);
        let BufferKind::Quantized(block) = out.kind else {
            return Err(format!("writes integers to '{}', which holds f32", out.name));
        };
        ensure!(block > 0 && width.is_multiple_of(block), "has rows of {width}, no multiple of its block {block}");
        same("an input and an output", width, out.width)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let block = match shapes.buffers[self.out.0].kind {
            BufferKind::Quantized(block) => block,
            BufferKind::Float => CHUNK,
        };
        let p = Params::new(shapes.width(self.x), block, shapes.precision);
        let precise = shapes.precision == Precision::Precise;
        Call { precise, ..Call::new(&SHADER, &p, workgroups(&p, 1), [self.x, self.out].map(Operand::Rows)) }
    }
}

impl Whole for QuantizeActivations {
    /// The row as it is.
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        from.rows(self.x).to_vec()
    }

    /// Blocks of 32 and of 256, in both precisions.
    fn examples(floats: Floats<'_>) -> Vec<Example> {
        let mut all = Vec::new();
        for size in [CHUNK, 8 * CHUNK] {
            let Some(format) = FORMATS.iter().find(|f| f.activation_block() == Some(size)) else { continue };
            for precision in [Precision::Fast, Precision::Precise] {
                for blocks in [1, 3, 67] {
                    let (rows, cols) = (2, blocks * size);
                    let a = Activations::new(floats(rows * cols), cols, format, precision);
                    let expected = a.words(precision);
                    let mut scene = Scene { precision, ..Scene::default() };
                    let x = scene.floats(cols, &a.x);
                    let out = scene.rows(cols, a.kind(), vec![0; expected.len()]);
                    let shape = format!("[{rows}, {cols}]");
                    let result = (Operand::Rows(out), expected);
                    all.extend(scene.example(&Self { x, out }, [rows, 0, 0], shape, result));
                }
            }
        }
        all
    }
}
