//! The results of the chosen experts, weighted and added up: `out = Σ weight[slot] · x[slot]`, S8 over the slots.

use super::shapes::{BufferId, Shapes, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, WEIGHT_FLOOR, flush, s8, settle};
pub use crate::shaders::{COMBINE as SHADER, params::Combine as Params};

/// One row: `x` of `[used, width]`, `routes` as [`super::route`] makes them, `out` of `width` elements.
#[inline(always)]
pub fn cpu(x: &[f32], routes: &[f32], out: &mut [f32]) {
    let (width, weights) = (out.len(), &routes[routes.len() / 2..]);
    for (i, out) in out.iter_mut().enumerate() {
        let values = x[i..].iter().step_by(width);
        let terms = weights.iter().zip(values).map(|(w, x)| flush(*w, WEIGHT_FLOOR) * flush(*x, ACTIVATION_FLOOR));
        *out = settle(s8::sum(terms));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// `out` becomes the sum of the slots of `x`, each times its weight in `routes`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Combine {
    pub x: BufferId,
    pub routes: BufferId,
    pub out: BufferId,
}

impl Operation for Combine {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), Some(self.routes)]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (x, routes, out) = (shapes.float(self.x)?, shapes.float(self.routes)?, shapes.float(self.out)?);
        ensure!(
            routes.is_multiple_of(2) && x == out * (routes / 2),
            "adds up {x} elements by routes of {routes} to {out}"
        );
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.width(self.out) as u32, used: shapes.width(self.routes) as u32 / 2 };
        Call::new(&SHADER, &p, workgroups(&p, 1), [self.x, self.routes, self.out].map(Operand::Rows))
    }
}

impl PerRow for Combine {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        cpu(from.reads[0], from.reads[1], out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let ([x, routes], width) = (from.reads, out.len());
        let weights = &routes[routes.len() / 2..];
        for (i, out) in out.iter_mut().enumerate() {
            *out = weights.iter().enumerate().map(|(slot, w)| w * x[slot * width + i]).sum();
        }
    }

    fn examples(_: usize) -> Vec<Op> {
        // No rows of one width fit it: plans of models with experts try it.
        Vec::new()
    }
}
