//! A gate with one number for a whole row, in place: `x = x * sigmoid(h · weight)`.

use super::shapes::{BufferId, Shapes, WeightId, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, WEIGHT_FLOOR, flush, s8, settle, sigmoid};
pub use crate::shaders::{ROW_GATE as SHADER, params::RowGate as Params};

/// One row: `h` and `weight` of equal length.
#[inline(always)]
pub fn cpu(h: &[f32], weight: &[f32], x: &mut [f32]) {
    let terms = h.iter().zip(weight).map(|(h, w)| flush(*h, ACTIVATION_FLOOR) * flush(*w, WEIGHT_FLOOR));
    let gate = flush(sigmoid(s8::sum(terms)), WEIGHT_FLOOR);
    for x in x {
        *x = settle(flush(*x, ACTIVATION_FLOOR) * gate);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}

/// `x = x * sigmoid(h · weight)`, in place.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct RowGate {
    pub x: BufferId,
    pub h: BufferId,
    pub weight: WeightId,
}

impl Operation for RowGate {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), Some(self.h)]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.x)
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        ensure!(self.x != self.h, "gates a buffer by itself");
        shapes.float(self.x)?;
        let width = shapes.float(self.h)?;
        shapes.weight(self.weight)?;
        shapes.vector(self.weight, width)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.width(self.x) as u32, gate_width: shapes.width(self.h) as u32 };
        let operands = [Operand::Rows(self.x), Operand::Rows(self.h), Operand::Vector(Some(self.weight))];
        Call::new(&SHADER, &p, workgroups(&p, 1), operands)
    }
}

impl PerRow for RowGate {
    fn vector(&self) -> Option<WeightId> {
        Some(self.weight)
    }

    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, x: &mut [f32]) {
        cpu(from.reads[1], from.vector, x);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, x: &mut [f64]) {
        let dot: f64 = from.reads[1].iter().zip(from.vector).map(|(h, w)| h * w).sum();
        x.iter_mut().for_each(|x| *x /= 1.0 + (-dot).exp());
    }

    fn examples(_: usize) -> Vec<Op> {
        vec![Op::RowGate(Self { x: BufferId(0), h: BufferId(1), weight: WeightId(0) })]
    }
}
