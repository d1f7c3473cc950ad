//! The gated activation of Gemma: `out = gelu(a) * b` with GELU's tanh form (Hendrycks & Gimpel 2016).

use super::shapes::{BufferId, Shapes, same};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{WEIGHT_FLOOR, flush, gelu, settle};
pub use crate::shaders::{GELU_MUL as SHADER, params::GeluMul as Params};

/// One row: `a`, `b` and `out` of equal length.
#[inline(always)]
pub fn cpu(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = settle(gelu(a) * flush(b, WEIGHT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// `out = gelu(a) * b`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct GeluMul {
    pub a: BufferId,
    pub b: BufferId,
    pub out: BufferId,
}

impl Operation for GeluMul {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.a), Some(self.b)]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let width = shapes.float(self.out)?;
        same("a gate and an output", shapes.float(self.a)?, width)?;
        same("a factor and an output", shapes.float(self.b)?, width)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.width(self.out) as u32 };
        Call::new(&SHADER, &p, workgroups(&p, 1), [self.a, self.b, self.out].map(Operand::Rows))
    }
}

impl PerRow for GeluMul {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        cpu(from.reads[0], from.reads[1], out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let [a, b] = from.reads;
        let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = gelu(*a) * b);
    }

    fn examples(_: usize) -> Vec<Op> {
        vec![Op::GeluMul(Self { a: BufferId(0), b: BufferId(1), out: BufferId(2) })]
    }
}
