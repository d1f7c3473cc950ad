//! Causal attention over the f16 cache: multi-head, grouped-query or multi-query (Ainslie et al. 2023).

use super::shapes::{BufferId, CacheId, CacheSpec, Shapes, ensure, same};
use super::{Call, Operand, Operation, Part};
use crate::numerics::{ACTIVATION_FLOOR, exp2, f16_value, flush, r13, recip, s8, settle};
pub use crate::shaders::{ATTENTION as SHADER, params::Attention as Params};

impl Params {
    /// Parameters for a model's heads and a cache of `context` positions.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, context: usize) -> Self {
        let scale = (std::f64::consts::LOG2_E / libm::sqrt(head_dim as f64)) as f32;
        Self {
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            context: context as u32,
            scale,
        }
    }
}

/// One head of one row: `q` and `out` of `head_dim` elements, `count` positions visible, `scores` scratch of at least
/// `count`. The caches are `[position][kv_heads * head_dim]`.
pub fn cpu(
    p: &Params,
    head: usize,
    count: usize,
    q: &[f32],
    k_cache: &[u16],
    v_cache: &[u16],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let head_dim = p.head_dim as usize;
    let width = p.kv_heads as usize * head_dim;
    let at = head / (p.heads / p.kv_heads) as usize * head_dim;
    let scores = &mut scores[..count];
    for (position, score) in scores.iter_mut().enumerate() {
        let k = &k_cache[position * width + at..][..head_dim];
        let products = q.iter().zip(k).map(|(&q, &k)| r13(flush(q, ACTIVATION_FLOOR)) * f16_value(u32::from(k)));
        *score = s8::sum(products) * p.scale;
    }
    let inverse = weigh(scores);
    for (d, out) in out.iter_mut().enumerate() {
        let v = v_cache[at + d..].iter().step_by(width);
        let products = scores.iter().zip(v).map(|(&w, &v)| w * f16_value(u32::from(v)));
        *out = settle(s8::sum(products) * inverse);
    }
}

/// Turns scores (base 2) into softmax weights, and gives the inverse of their sum.
#[inline(always)]
pub fn weigh(scores: &mut [f32]) -> f32 {
    // The largest is the same in any order.
    let mut tops = [-f32::from_bits((127 + 100) << 23); 8];
    for eight in scores.chunks_mut(8) {
        for (top, score) in tops.iter_mut().zip(eight) {
            *score = flush(*score, ACTIVATION_FLOOR);
            *top = top.max(*score);
        }
    }
    let top = tops.iter().fold(tops[0], |m, t| m.max(*t));
    for score in scores.iter_mut() {
        *score = r13(exp2(*score - top));
    }
    recip(s8::sum_of(scores, |w| w))
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [p.heads, rows, 1]
}

/// Attends with `heads` query heads over a cache, which every row's keys and values were appended to.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Attention {
    pub q: BufferId,
    pub out: BufferId,
    pub cache: CacheId,
    pub heads: usize,
}

impl Operation for Attention {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.q), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn needs_every_row(&self) -> bool {
        true
    }

    fn attends_to(&self) -> Option<CacheId> {
        Some(self.cache)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (CacheSpec { kv_heads, head_dim }, heads) = (shapes.cache(self.cache)?, self.heads);
        ensure!(
            kv_heads > 0 && heads > 0 && heads % kv_heads == 0,
            "shares {kv_heads} keys among {heads} heads"
        );
        ensure!(head_dim.is_multiple_of(2), "has heads of odd size {head_dim}");
        same("queries and heads", shapes.float(self.q)?, heads * head_dim)?;
        same("an output and heads", shapes.float(self.out)?, heads * head_dim)
    }

    fn call(&self, shapes: &Shapes<'_>, context: usize, _: &Part) -> Call {
        let CacheSpec { kv_heads, head_dim } = shapes.caches[self.cache.0];
        let p = Params::new(self.heads, kv_heads, head_dim, context);
        let (keys, values) = (Operand::Keys(self.cache), Operand::Values(self.cache));
        let operands = [Operand::Rows(self.q), keys, values, Operand::Scores, Operand::Rows(self.out)];
        Call::new(&SHADER, &p, workgroups(&p, 1), operands)
    }
}
