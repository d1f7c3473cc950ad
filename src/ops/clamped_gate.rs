//! The gated activation of gpt-oss (OpenAI 2025): `out = g · sigmoid(1.702 g) · (u + 1)` with the gate `g` of at most 7 and `u` within ±7.

use super::shapes::{BufferId, Shapes, same};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{WEIGHT_FLOOR, flush, settle, sigmoid};
pub use crate::shaders::{CLAMPED_GATE as SHADER, params::ClampedGate as Params};

/// One row: `a`, `b` and `out` of equal length.
#[inline(always)]
pub fn cpu(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        let (g, u) = (flush(a, WEIGHT_FLOOR).min(7.0), flush(b, WEIGHT_FLOOR).clamp(-7.0, 7.0));
        *out = settle((g * sigmoid(g * 1.702)) * (u + 1.0));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// `out = g · sigmoid(1.702 g) · (u + 1)` of the gate `a` and of `b`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ClampedGate {
    pub a: BufferId,
    pub b: BufferId,
    pub out: BufferId,
}

impl Operation for ClampedGate {
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

impl PerRow for ClampedGate {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        cpu(from.reads[0], from.reads[1], out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let [a, b] = from.reads;
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            let (g, u) = (a.min(7.0), b.clamp(-7.0, 7.0));
            *out = g / (1.0 + (-1.702 * g).exp()) * (u + 1.0);
        }
    }

    fn examples(_: usize) -> Vec<Op> {
        vec![Op::ClampedGate(Self { a: BufferId(0), b: BufferId(1), out: BufferId(2) })]
    }
}
