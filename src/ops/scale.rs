//! A factor for all elements, in place: `x = x * by`.

use super::shapes::{BufferId, Shapes, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, WEIGHT_FLOOR, flush, settle};
pub use crate::shaders::{SCALE as SHADER, params::Scale as Params};

/// One row.
#[inline(always)]
pub fn cpu(by: f32, x: &mut [f32]) {
    for x in x {
        *x = settle(flush(*x, ACTIVATION_FLOOR) * by);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// `x = x * by`, in place.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Scale {
    pub x: BufferId,
    pub by: f32,
}

impl Operation for Scale {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.x)
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        shapes.float(self.x)?;
        let range = WEIGHT_FLOOR..=WEIGHT_FLOOR.recip();
        ensure!(range.contains(&self.by.abs()), "multiplies by {}, which is not between 2^-40 and 2^40", self.by);
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.width(self.x) as u32, by: self.by };
        Call::new(&SHADER, &p, workgroups(&p, 1), [Operand::Rows(self.x)])
    }
}

impl PerRow for Scale {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, _: Row<'_, f32>, x: &mut [f32]) {
        cpu(self.by, x);
    }

    fn row64(&self, _: &Shapes<'_>, _: Row<'_, f64>, x: &mut [f64]) {
        x.iter_mut().for_each(|x| *x *= f64::from(self.by));
    }

    fn examples(width: usize) -> Vec<Op> {
        vec![Op::Scale(Self { x: BufferId(0), by: (width as f32).sqrt() })]
    }
}
