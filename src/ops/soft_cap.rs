//! A bound that numbers approach and never pass (Bello et al. 2017), in place: `x = cap * tanh(x / cap)`.

use super::shapes::{BufferId, Shapes, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, flush, settle, tanh};
pub use crate::shaders::{SOFT_CAP as SHADER, params::SoftCap as Params};

impl Params {
    /// Parameters for rows of `width`.
    pub fn new(width: usize, cap: f32) -> Self {
        Self { width: width as u32, cap, inverse_cap: 1.0 / cap }
    }
}

/// One row.
#[inline(always)]
pub fn cpu(p: &Params, x: &mut [f32]) {
    for x in x {
        *x = settle(tanh(flush(*x, ACTIVATION_FLOOR) * p.inverse_cap) * p.cap);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// `x = cap * tanh(x / cap)`, in place.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct SoftCap {
    pub x: BufferId,
    pub cap: f32,
}

impl Operation for SoftCap {
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
        let range = 2f32.powi(-20)..=2f32.powi(20);
        ensure!(range.contains(&self.cap), "has the cap {}, which is not between 2^-20 and 2^20", self.cap);
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params::new(shapes.width(self.x), self.cap);
        Call::new(&SHADER, &p, workgroups(&p, 1), [Operand::Rows(self.x)])
    }
}

impl PerRow for SoftCap {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, _: Row<'_, f32>, x: &mut [f32]) {
        cpu(&Params::new(x.len(), self.cap), x);
    }

    fn row64(&self, _: &Shapes<'_>, _: Row<'_, f64>, x: &mut [f64]) {
        let cap = f64::from(self.cap);
        x.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
    }

    fn examples(_: usize) -> Vec<Op> {
        [30.0, 2.5].map(|cap| Op::SoftCap(Self { x: BufferId(0), cap })).to_vec()
    }
}
