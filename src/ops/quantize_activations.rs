//! Activations to integers with a scale per block, for the integer matrix products.

use super::examples::{Example, Floats, Scene, bits};
use super::float64::Memory64;
use super::shapes::{BufferId, BufferKind, Shapes, ensure, same};
use super::{Call, Operand, Operation, Part, Whole, Words};
use crate::numerics::{ActivationRow, Precision, quantize_block};
use crate::quant::{CHUNK, FORMATS, Format};
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

/// Rows of activations as products with a format read them, `[rows, cols]`.
pub(crate) struct Activations {
    pub x: Vec<f32>,
    pub cols: usize,
    pub block: Option<usize>,
    hi: Vec<i8>,
    lo: Vec<i8>,
    scale: Vec<f32>,
}

impl Activations {
    pub fn new(x: Vec<f32>, cols: usize, format: &Format, precision: Precision) -> Self {
        let block = format.activation_block();
        let precise = block.is_some() && precision == Precision::Precise;
        let (mut hi, mut lo) = (vec![0i8; x.len()], vec![0i8; if precise { x.len() } else { 0 }]);
        let mut scale = vec![0.0; block.map_or(0, |block| x.len() / block)];
        if let Some(block) = block {
            cpu(block, precision, &x, &mut hi, &mut lo, &mut scale);
        }
        Self { x, cols, block, hi, lo, scale }
    }

    /// What a buffer of them holds.
    pub fn kind(&self) -> BufferKind {
        self.block.map_or(BufferKind::Float, BufferKind::Quantized)
    }

    /// The words of a buffer of them.
    pub fn words(&self, precision: Precision) -> Vec<u32> {
        let Some(block) = self.block else { return bits(&self.x) };
        let (cols, stride) = (self.cols, stride(self.cols, block, precision));
        let mut words = Vec::new();
        for t in 0..self.x.len() / cols {
            for plane in [&self.hi, &self.lo] {
                let row = plane.get(t * cols..(t + 1) * cols).unwrap_or_default();
                words.extend(row.chunks(4).map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]].map(|q| q as u8))));
            }
            words.extend(self.scale[t * cols / block..(t + 1) * cols / block].iter().map(|s| s.to_bits()));
            words.resize((t + 1) * stride, 0);
        }
        words
    }

    /// The elements from `at` on, so many as a row of a matrix has; of integers from a whole block on.
    pub fn row(&self, at: usize, cols: usize) -> ActivationRow<'_> {
        let Some(block) = self.block else { return ActivationRow::Float(&self.x[at..at + cols]) };
        ActivationRow::Quantized {
            scale: &self.scale[at / block..(at + cols) / block],
            lo: self.lo.get(at..at + cols).filter(|lo| !lo.is_empty()),
            hi: &self.hi[at..at + cols],
        }
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
