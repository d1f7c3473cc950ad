//! The residual: `x = x + b`, in place.

use super::shapes::{BufferId, Shapes, ensure, same};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{RESULT_FLOOR, flush, settle};
pub use crate::shaders::{ADD as SHADER, params::Add as Params};

/// One row: `x` and `b` of equal length.
#[inline(always)]
pub fn cpu(x: &mut [f32], b: &[f32]) {
    for (x, &b) in x.iter_mut().zip(b) {
        *x = settle(flush(*x, RESULT_FLOOR) + flush(b, RESULT_FLOOR));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// `x = x + b`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Add {
    pub x: BufferId,
    pub b: BufferId,
}

impl Operation for Add {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), Some(self.b)]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.x)
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        ensure!(self.x != self.b, "adds a buffer to itself");
        same("operands", shapes.float(self.x)?, shapes.float(self.b)?)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.width(self.x) as u32 };
        Call::new(&SHADER, &p, workgroups(&p, 1), [Operand::Rows(self.x), Operand::Rows(self.b)])
    }
}

impl PerRow for Add {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, x: &mut [f32]) {
        cpu(x, from.reads[1]);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, x: &mut [f64]) {
        x.iter_mut().zip(from.reads[1]).for_each(|(x, b)| *x += b);
    }

    fn examples(_: usize) -> Vec<Op> {
        vec![Op::Add(Self { x: BufferId(0), b: BufferId(1) })]
    }
}
