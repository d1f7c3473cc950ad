//! Causal attention over the f16 cache: multi-head, grouped-query or multi-query (Ainslie et al. 2023).

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
