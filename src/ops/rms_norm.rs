//! Root mean square norm (Zhang & Sennrich 2019): `out = x / sqrt(mean(x²) + eps) * weight`.

use super::shapes::{BufferId, Shapes, WeightId, same};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{WEIGHT_FLOOR, flush, rsqrt, s8, settle};
pub use crate::shaders::{RMS_NORM as SHADER, params::RmsNorm as Params};

impl Params {
    /// Parameters for rows of `width`.
    pub fn new(width: usize, eps: f32) -> Self {
        Self { width: width as u32, eps, inverse_width: 1.0 / width as f32 }
    }
}

/// One row: `x`, `weight` and `out` of `p.width` elements.
#[inline(always)]
pub fn cpu(p: &Params, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let square = |x: f32| flush(x, WEIGHT_FLOOR) * flush(x, WEIGHT_FLOOR);
    let r = rsqrt(s8::sum_of(x, square) * p.inverse_width + p.eps);
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = settle((flush(x, WEIGHT_FLOOR) * r) * flush(w, WEIGHT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}

/// Normalises `x` and scales it by the vector `weight`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct RmsNorm {
    pub x: BufferId,
    pub weight: WeightId,
    pub out: BufferId,
    pub eps: f32,
}

impl Operation for RmsNorm {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let width = shapes.float(self.x)?;
        shapes.vector(self.weight, width)?;
        same("an input and an output", width, shapes.float(self.out)?)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params::new(shapes.width(self.x), self.eps);
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
        cpu(&Params::new(out.len(), self.eps), from.reads[0], from.vector, out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let x = from.reads[0];
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let r = 1.0 / (square + f64::from(self.eps)).sqrt();
        out.iter_mut().zip(x).zip(from.vector).for_each(|((out, x), w)| *out = x * r * w);
    }

    fn examples(_: usize) -> Vec<Op> {
        vec![Op::RmsNorm(Self { x: BufferId(0), weight: WeightId(0), out: BufferId(2), eps: 1e-5 })]
    }
}
