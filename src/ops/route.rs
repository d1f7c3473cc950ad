//! The choice of experts for each token (Shazeer et al. 2017; Fedus et al. 2021): the best scores, ties to the lower number, and what
//! each of them weighs.

use super::shapes::{BufferId, Shapes, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, WEIGHT_FLOOR, exp2, flush, recip, s8, settle};
pub use crate::shaders::{ROUTE as SHADER, params::Route as Params};

/// What the chosen experts weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// Their part of the softmax over all experts.
    All,
    /// The same, divided by the sum of the chosen parts, which counts as 2^-14 at least.
    Normed,
    /// The softmax over the chosen alone.
    Chosen,
}

/// The least sum that parts are divided by.
const LEAST: f32 = 6.103_515_6e-5;

/// One row: `x` has a score for each of `p.experts`; `out` gets the numbers of `p.used` of them, the best first, then their weights.
pub fn cpu(p: &Params, x: &[f32], out: &mut [f32]) {
    let used = p.used as usize;
    let (numbers, weights) = out.split_at_mut(used);
    let scaled = |i: usize| flush(flush(x[i], ACTIVATION_FLOOR) * std::f32::consts::LOG2_E, ACTIVATION_FLOOR);
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| flush(x[*b], ACTIVATION_FLOOR).total_cmp(&flush(x[*a], ACTIVATION_FLOOR)).then(a.cmp(b)));
    order.truncate(used);
    let top = scaled(order[0]);
    let part = |i: usize| exp2(scaled(i) - top);
    let over = if p.chosen != 0 { s8::sum(order.iter().map(|i| part(*i))) } else { s8::sum((0..x.len()).map(part)) };
    let inverse = recip(over);
    for ((number, weight), i) in numbers.iter_mut().zip(&mut *weights).zip(&order) {
        (*number, *weight) = (*i as f32, settle(part(*i) * inverse));
    }
    if p.normed != 0 {
        let inverse = recip(s8::sum(weights.iter().copied()).max(LEAST));
        weights.iter_mut().for_each(|w| *w = settle(flush(*w, WEIGHT_FLOOR) * inverse));
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}

/// The `used` best of the experts whose scores `x` has. `out` has their numbers as whole floats, the best first, and behind them their
/// weights: `[rows, 2 * used]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Route {
    pub x: BufferId,
    pub out: BufferId,
    pub used: usize,
    pub weighing: Weighing,
}

impl Route {
    fn params(&self, experts: usize) -> Params {
        let yes = |b| u32::from(b);
        let (normed, chosen) = (yes(self.weighing == Weighing::Normed), yes(self.weighing == Weighing::Chosen));
        Params { experts: experts as u32, used: self.used as u32, normed, chosen }
    }
}

impl Operation for Route {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (experts, used, out) = (shapes.float(self.x)?, self.used, shapes.float(self.out)?);
        ensure!(used > 0 && used <= experts, "chooses {used} of {experts} experts");
        ensure!(experts <= 1 << 12, "chooses among {experts} experts, more than 4096");
        ensure!(out == 2 * used, "writes numbers and weights of {used} experts to rows of {out}");
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = self.params(shapes.width(self.x));
        Call::new(&SHADER, &p, workgroups(&p, 1), [self.x, self.out].map(Operand::Rows))
    }
}

impl PerRow for Route {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        cpu(&self.params(from.reads[0].len()), from.reads[0], out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let x = from.reads[0];
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
        order.truncate(self.used);
        let part = |i: usize| (x[i] - x[order[0]]).exp();
        let chosen: f64 = order.iter().map(|i| part(*i)).sum();
        let all: f64 = (0..x.len()).map(part).sum();
        let over = match self.weighing {
            Weighing::All => all,
            Weighing::Normed => chosen.max(f64::from(LEAST) * all),
            Weighing::Chosen => chosen,
        };
        for (slot, i) in order.iter().enumerate() {
            (out[slot], out[self.used + slot]) = (*i as f64, part(*i) / over);
        }
    }

    fn examples(width: usize) -> Vec<Op> {
        // The output has as many elements as the scores.
        let used = width / 2;
        let one = |weighing| Op::Route(Self { x: BufferId(0), out: BufferId(2), used, weighing });
        let all = [Weighing::All, Weighing::Normed, Weighing::Chosen].map(one).to_vec();
        if width.is_multiple_of(2) && width <= 1 << 12 { all } else { Vec::new() }
    }
}
