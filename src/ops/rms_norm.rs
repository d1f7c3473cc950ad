//! Root mean square norm (Zhang & Sennrich 2019) of rows or of their heads: `out = x / sqrt(mean(x²) + eps) * weight`.

use super::shapes::{BufferId, Shapes, WeightId, ensure, same};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{WEIGHT_FLOOR, flush, rsqrt, s8, settle};
pub use crate::shaders::{RMS_NORM as SHADER, params::RmsNorm as Params};

impl Params {
    /// Parameters for rows of `heads` heads of `width` elements, each of which is normalised by itself.
    pub fn new(width: usize, heads: usize, eps: f32) -> Self {
        Self { width: width as u32, heads: heads as u32, eps, inverse_width: 1.0 / width as f32 }
    }
}

/// One head of a row: `x`, `weight` and `out` of `p.width` elements.
#[inline(always)]
pub fn cpu(p: &Params, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let square = |x: f32| flush(x, WEIGHT_FLOOR) * flush(x, WEIGHT_FLOOR);
    let r = rsqrt(s8::sum_of(x, square) * p.inverse_width + p.eps);
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = settle((flush(x, WEIGHT_FLOOR) * r) * flush(w, WEIGHT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [p.heads, rows, 1]
}

/// Normalises `x` and scales it by the vector `weight`: the whole row, or each head of it where the vector has as many elements as a
/// head.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct RmsNorm {
    pub x: BufferId,
    pub weight: WeightId,
    pub out: BufferId,
    pub eps: f32,
}

impl RmsNorm {
    /// Heads of a row; 1 where the whole row is normalised.
    pub(crate) fn heads(&self, shapes: &Shapes<'_>) -> usize {
        shapes.width(self.x) / shapes.weights[self.weight.0].cols
    }
}

impl Operation for RmsNorm {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (width, cols) = (shapes.float(self.x)?, shapes.weight(self.weight)?.cols);
        ensure!(cols > 0 && width.is_multiple_of(cols), "has rows of {width}, no whole heads of {cols}");
        shapes.vector(self.weight, cols)?;
        same("an input and an output", width, shapes.float(self.out)?)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let heads = self.heads(shapes);
        let p = Params::new(shapes.width(self.x) / heads, heads, self.eps);
        let operands = [Operand::Rows(self.x), Operand::Vector(Some(self.weight)), Operand::Rows(self.out)];
        Call::new(&SHADER, &p, workgroups(&p, 1), operands)
    }
}

impl PerRow for RmsNorm {
    fn vector(&self) -> Option<WeightId> {
        Some(self.weight)
    }

    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        let width = from.vector.len();
        let p = Params::new(width, out.len() / width, self.eps);
        for (x, out) in from.reads[0].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            cpu(&p, x, from.vector, out);
        }
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let width = from.vector.len();
        for (x, out) in from.reads[0].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let r = 1.0 / (square + f64::from(self.eps)).sqrt();
            out.iter_mut().zip(x).zip(from.vector).for_each(|((out, x), w)| *out = x * r * w);
        }
    }

    fn examples(width: usize) -> Vec<Op> {
        // The whole row, and where they are whole two heads.
        let weights = [WeightId(0), WeightId(1)].into_iter().take(1 + usize::from(width.is_multiple_of(2)));
        weights.map(|weight| Op::RmsNorm(Self { x: BufferId(0), weight, out: BufferId(2), eps: 1e-5 })).collect()
    }
}
