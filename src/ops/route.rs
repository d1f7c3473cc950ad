//! The choice of experts for each token (Shazeer et al. 2017; Fedus et al. 2021): the best scores, ties to the lower number, and what
//! each of them weighs.

use std::cmp::Ordering;

use super::shapes::{BufferId, Shapes, WeightId, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, WEIGHT_FLOOR, exp2, flush, recip, s8, settle, sigmoid};
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

/// How scores become what experts are chosen by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gating {
    /// Whether an expert's part is `sigmoid(score)`, for itself alone.
    pub sigmoid: bool,
    /// Added to the parts for the choice alone; only with `sigmoid`.
    pub bias: Option<WeightId>,
    /// Groups of neighbouring experts, and how many of them compete: those whose two best experts have the largest sum. 1: all compete.
    pub groups: [usize; 2],
    /// What weights are multiplied by, last.
    pub scale: f32,
}

impl Gating {
    /// By the scores themselves.
    pub const BY_SCORE: Self = Self { sigmoid: false, bias: None, groups: [1, 1], scale: 1.0 };
}

/// The most experts that are chosen: Mesa's lavapipe ends a shader's loops after 65,535 rounds, and each takes some.
const USED: usize = 256;

/// The most experts: a workgroup keeps a score of each.
const EXPERTS: usize = 1024;

/// The most groups of experts.
const GROUPS: usize = 64;

/// The least sum that parts are divided by.
const LEAST: f32 = 6.103_515_6e-5;

/// The experts in the order in which they are chosen, by their values: those of the groups that compete. The order is total, so that
/// values that are no numbers have a place, too.
fn order<T: Copy + std::ops::Add<Output = T>>(
    values: &[T],
    [groups, compete]: [usize; 2],
    compare: fn(&T, &T) -> Ordering,
) -> Vec<usize> {
    let best_first = |values: &[T]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| compare(&values[*b], &values[*a]).then(a.cmp(b)));
        order
    };
    if groups < 2 {
        return best_first(values);
    }
    let size = values.len() / groups;
    let sum = |group: &[T]| match best_first(group)[..] {
        [first, second, ..] => group[first] + group[second],
        [first] => group[first],
        [] => values[0],
    };
    let sums: Vec<T> = values.chunks_exact(size).map(sum).collect();
    let chosen = &best_first(&sums)[..compete];
    best_first(values).into_iter().filter(|i| chosen.contains(&(i / size))).collect()
}

/// One row: `x` has a score for each of `p.experts`, and `bias` a number or nothing; `out` gets the numbers of `p.used` of them, the best
/// first, then their weights, whose parts are sigmoids or of a softmax (`weighing`).
pub fn cpu(p: &Params, by_sigmoids: bool, weighing: Weighing, bias: &[f32], x: &[f32], out: &mut [f32]) {
    let used = p.used as usize;
    let (numbers, weights) = out.split_at_mut(used);
    let scaled = |i: usize| flush(flush(x[i], ACTIVATION_FLOOR) * std::f32::consts::LOG2_E, ACTIVATION_FLOOR);
    let by_sigmoid = |i: usize| sigmoid(flush(x[i], ACTIVATION_FLOOR));
    let values = (0..x.len()).map(|i| match (by_sigmoids, bias.get(i)) {
        (false, _) => flush(x[i], ACTIVATION_FLOOR),
        (true, None) => by_sigmoid(i),
        (true, Some(bias)) => by_sigmoid(i) + flush(*bias, WEIGHT_FLOOR),
    });
    let mut order = order(&values.collect::<Vec<_>>(), [p.groups as usize, p.compete as usize], f32::total_cmp);
    order.truncate(used);
    let top = scaled(order[0]);
    let part = |i: usize| exp2(scaled(i) - top);
    let over = if weighing == Weighing::Chosen {
        s8::sum(order.iter().map(|i| part(*i)))
    } else {
        s8::sum((0..x.len()).map(part))
    };
    let inverse = recip(over);
    for ((number, weight), i) in numbers.iter_mut().zip(&mut *weights).zip(&order) {
        let share = if by_sigmoids { settle(by_sigmoid(*i)) } else { settle(part(*i) * inverse) };
        (*number, *weight) = (*i as f32, share);
    }
    if weighing == Weighing::Normed {
        let inverse = recip(s8::sum(weights.iter().copied()).max(LEAST));
        weights.iter_mut().for_each(|w| *w = settle(flush(*w, WEIGHT_FLOOR) * inverse));
    }
    if p.scale != 1.0 {
        weights.iter_mut().for_each(|w| *w = settle(flush(*w, WEIGHT_FLOOR) * p.scale));
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
    pub gating: Gating,
}

impl Route {
    fn params(&self, experts: usize) -> Params {
        let [groups, compete] = self.gating.groups.map(|n| n as u32);
        Params { experts: experts as u32, used: self.used as u32, groups, compete, scale: self.gating.scale }
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
        ensure!(used > 0 && used <= experts.min(USED), "chooses {used} of {experts} experts, of at most {USED}");
        ensure!(experts <= EXPERTS, "chooses among {experts} experts, more than {EXPERTS}");
        ensure!(out == 2 * used, "writes numbers and weights of {used} experts to rows of {out}");
        let Gating { sigmoid, bias, groups: [groups, compete], scale } = self.gating;
        ensure!(
            (1..=GROUPS).contains(&groups) && experts.is_multiple_of(groups),
            "has {groups} groups of {experts} experts"
        );
        ensure!(compete > 0 && compete <= groups, "lets {compete} of {groups} groups compete");
        ensure!(used <= experts / groups * compete, "chooses {used} of {compete} groups of {}", experts / groups);
        ensure!(sigmoid || (groups == 1 && bias.is_none()), "chooses by groups or a bias, but not by sigmoid");
        ensure!((WEIGHT_FLOOR..=WEIGHT_FLOOR.recip()).contains(&scale), "multiplies weights by {scale}");
        bias.map_or(Ok(()), |bias| shapes.vector(bias, experts))
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = self.params(shapes.width(self.x));
        let operands = [Operand::Rows(self.x), Operand::Vector(self.gating.bias), Operand::Rows(self.out)];
        let constants = [
            ("SIGMOID", self.gating.sigmoid),
            ("HAS_BIAS", self.gating.bias.is_some()),
            ("CHOSEN", self.weighing == Weighing::Chosen),
            ("NORMED", self.weighing == Weighing::Normed),
        ];
        Call {
            constants: constants.map(|(name, on)| (name, u32::from(on))).to_vec(),
            ..Call::new(&SHADER, &p, workgroups(&p, 1), operands)
        }
    }
}

impl PerRow for Route {
    fn vector(&self) -> Option<WeightId> {
        self.gating.bias
    }

    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        let bias = if self.gating.bias.is_some() { from.vector } else { &[] };
        cpu(&self.params(from.reads[0].len()), self.gating.sigmoid, self.weighing, bias, from.reads[0], out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        let x = from.reads[0];
        let Gating { sigmoid, bias, groups, scale } = self.gating;
        let by_sigmoid = |i: usize| 1.0 / (1.0 + (-x[i]).exp());
        let added = |i: usize| if bias.is_some() { from.vector[i] } else { 0.0 };
        let values: Vec<f64> = (0..x.len()).map(|i| if sigmoid { by_sigmoid(i) + added(i) } else { x[i] }).collect();
        let mut order = order(&values, groups, f64::total_cmp);
        order.truncate(self.used);
        let part = |i: usize| if sigmoid { by_sigmoid(i) } else { (x[i] - x[order[0]]).exp() };
        let chosen: f64 = order.iter().map(|i| part(*i)).sum();
        let all: f64 = (0..x.len()).map(part).sum();
        let over = match self.weighing {
            Weighing::All if sigmoid => 1.0,
            Weighing::All => all,
            Weighing::Normed if sigmoid => chosen.max(f64::from(LEAST)),
            Weighing::Normed => chosen.max(f64::from(LEAST) * all),
            Weighing::Chosen => chosen,
        };
        for (slot, i) in order.iter().enumerate() {
            (out[slot], out[self.used + slot]) = (*i as f64, part(*i) / over * f64::from(scale));
        }
    }

    fn examples(width: usize) -> Vec<Op> {
        // The output has as many elements as the scores.
        let used = width / 2;
        let one = |weighing, gating| Op::Route(Self { x: BufferId(0), out: BufferId(2), used, weighing, gating });
        let by_score = [Weighing::All, Weighing::Normed, Weighing::Chosen].map(|w| one(w, Gating::BY_SCORE));
        let groups = if width.is_multiple_of(4) { [4, 3] } else { [1, 1] };
        let by_sigmoid = Gating { sigmoid: true, bias: Some(WeightId(0)), groups, scale: 2.5 };
        let all = [&by_score[..], &[one(Weighing::Normed, by_sigmoid)]].concat();
        if width.is_multiple_of(2) && used <= USED { all } else { Vec::new() }
    }
}
