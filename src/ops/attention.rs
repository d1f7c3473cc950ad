//! Causal attention over the f16 cache: multi-head, grouped-query or multi-query (Ainslie et al. 2023).

use super::examples::{Example, Floats, Scene, bits};
use super::float64::{Memory64, dot};
use super::shapes::{BufferId, CacheId, CacheSpec, Shapes, WeightId, ensure, same};
use super::{Call, Operand, Operation, Part, Whole, kv_store};
use crate::numerics::{ACTIVATION_FLOOR, WEIGHT_FLOOR, exp2, f16_bits, f16_value, flush, r13, recip, s8, settle, tanh};
pub use crate::shaders::{ATTENTION as SHADER, params::Attention as Params};

impl Params {
    /// Parameters for `heads` query heads and a cache of `context` positions.
    pub fn new(heads: usize, spec: CacheSpec, scoring: Scoring, context: usize) -> Self {
        let scale = match scoring.cap {
            Some(cap) => 1.0 / (scoring.divisor * cap),
            None => std::f64::consts::LOG2_E / scoring.divisor,
        };
        Self {
            heads: heads as u32,
            kv_heads: spec.kv_heads as u32,
            head_dim: spec.head_dim as u32,
            context: context as u32,
            scale: scale as f32,
            cap: scoring.cap.map_or(0.0, |cap| (cap * std::f64::consts::LOG2_E) as f32),
            window: spec.window.map_or(u32::MAX, |window| window as u32),
            sinks: u32::from(scoring.sinks.is_some()),
        }
    }

    /// The first position that a row sees which sees `count` or has fewer before it, and where its tile of 32 begins.
    pub fn first(&self, count: usize) -> (usize, usize) {
        let first = count.saturating_sub(self.window as usize);
        (first, first / 32 * 32)
    }
}

/// How scores become softmax weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scoring {
    /// Products of queries and keys are divided by this.
    pub divisor: f64,
    /// Scores are bent so that none is beyond this: `cap · tanh(score / cap)`.
    pub cap: Option<f64>,
    /// A vector with a score for each query head, which takes part in the softmax and weighs nothing.
    pub sinks: Option<WeightId>,
}

impl Scoring {
    /// The usual: the square root of the size of a head divides, and nothing else.
    pub fn usual(head_dim: usize) -> Self {
        Self { divisor: libm::sqrt(head_dim as f64), cap: None, sinks: None }
    }
}

/// One head of one row: `q` and `out` of `head_dim` elements, `count` positions up to the row's own, `scores` scratch of at least
/// `count`. The caches are `[position][kv_heads * head_dim]`, from the tile on that the row sees ([`Params::first`]). `sinks` has a score
/// for each head, or none.
pub fn cpu(
    p: &Params,
    head: usize,
    count: usize,
    q: &[f32],
    k_cache: &[u16],
    v_cache: &[u16],
    sinks: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let head_dim = p.head_dim as usize;
    let width = p.kv_heads as usize * head_dim;
    let at = head / (p.heads / p.kv_heads) as usize * head_dim;
    let (first, start) = p.first(count);
    let scores = &mut scores[..count - start];
    for (k, score) in k_cache.chunks(width).zip(&mut *scores) {
        let k = &k[at..][..head_dim];
        let products = q.iter().zip(k).map(|(&q, &k)| r13(flush(q, ACTIVATION_FLOOR)) * f16_value(u32::from(k)));
        *score = s8::sum(products) * p.scale;
    }
    let inverse = weigh(p, start, first, sinks.get(head).copied(), scores);
    for (d, out) in out.iter_mut().enumerate() {
        let v = v_cache[at + d..].iter().step_by(width);
        let products = scores.iter().zip(v).map(|(&w, &v)| w * f16_value(u32::from(v)));
        *out = settle(s8::elements_from(start / 32, products) * inverse);
    }
}

/// Turns scores into softmax weights, and gives the inverse of their sum. The scores are those from position `start` on, a multiple
/// of 32; what comes before position `first` weighs nothing. A sink adds to the sum.
#[inline(always)]
pub fn weigh(p: &Params, start: usize, first: usize, sink: Option<f32>, scores: &mut [f32]) -> f32 {
    let (unseen, scores_seen) = scores.split_at_mut(first - start);
    unseen.fill(0.0);
    let sink = sink.map(|sink| flush(flush(sink, WEIGHT_FLOOR) * std::f32::consts::LOG2_E, ACTIVATION_FLOOR));
    // The largest is the same in any order.
    let mut tops = [sink.unwrap_or(-f32::from_bits((127 + 100) << 23)); 8];
    if p.cap != 0.0 {
        for score in scores_seen.iter_mut() {
            *score = tanh(*score) * p.cap;
        }
    }
    for eight in scores_seen.chunks_mut(8) {
        for (top, score) in tops.iter_mut().zip(eight) {
            *score = flush(*score, ACTIVATION_FLOOR);
            *top = top.max(*score);
        }
    }
    let top = tops.iter().fold(tops[0], |m, t| m.max(*t));
    for score in scores_seen.iter_mut() {
        *score = r13(exp2(*score - top));
    }
    let sum = s8::sum_from(start / 32, scores, |w| w);
    recip(sink.map_or(sum, |sink| sum + r13(exp2(sink - top))))
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
    pub scoring: Scoring,
}

impl Attention {
    /// Parameters over a cache of `context` positions.
    pub(crate) fn params(&self, shapes: &Shapes<'_>, context: usize) -> Params {
        Params::new(self.heads, shapes.caches[self.cache.0], self.scoring, context)
    }
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
        let (CacheSpec { kv_heads, head_dim, window, .. }, heads) = (shapes.cache(self.cache)?, self.heads);
        ensure!(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, "shares {kv_heads} keys among {heads} heads");
        ensure!(head_dim.is_multiple_of(2), "has heads of odd size {head_dim}");
        ensure!(window != Some(0), "has a window of no positions");
        ensure!(self.scoring.divisor.is_normal(), "divides scores by {}", self.scoring.divisor);
        if let Some(cap) = self.scoring.cap {
            ensure!(cap.is_normal() && cap > 0.0, "caps scores at {cap}");
        }
        self.scoring.sinks.map_or(Ok(()), |sinks| shapes.vector(sinks, heads))?;
        same("queries and heads", shapes.float(self.q)?, heads * head_dim)?;
        same("an output and heads", shapes.float(self.out)?, heads * head_dim)
    }

    fn call(&self, shapes: &Shapes<'_>, context: usize, _: &Part) -> Call {
        let p = self.params(shapes, context);
        let (keys, values) = (Operand::Keys(self.cache), Operand::Values(self.cache));
        let sinks = Operand::Vector(self.scoring.sinks);
        let operands = [Operand::Rows(self.q), keys, values, sinks, Operand::Scores, Operand::Rows(self.out)];
        Call::new(&SHADER, &p, workgroups(&p, 1), operands)
    }
}

impl Attention {
    /// What a query head at a position gives each position up to its own, in double precision: `q` is the row of all heads, `k` the
    /// cache's keys, `sinks` has a score for each head or none.
    pub fn weights64(
        &self,
        spec: CacheSpec,
        [head, position]: [usize; 2],
        q: &[f64],
        k: &[f64],
        sinks: &[f64],
    ) -> Vec<f64> {
        let (q, first) = (&q[head * spec.head_dim..][..spec.head_dim], spec.first_seen(position));
        let product = |p: usize| dot(q, &k[self.at(spec, head, p)..][..spec.head_dim]) / self.scoring.divisor;
        let score = |p: usize| match p < first {
            true => f64::NEG_INFINITY,
            false => self.scoring.cap.map_or(product(p), |cap| cap * (product(p) / cap).tanh()),
        };
        let scores: Vec<f64> = (0..=position).map(score).collect();
        let sink = sinks.get(head).copied().unwrap_or(f64::NEG_INFINITY);
        let top = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum = weights.iter().sum::<f64>() + (sink - top).exp();
        weights.into_iter().map(|w| w / sum).collect()
    }

    /// Where the keys and values of a query head begin at a position of the cache.
    fn at(&self, spec: CacheSpec, head: usize, position: usize) -> usize {
        position * spec.width() + head / (self.heads / spec.kv_heads) * spec.head_dim
    }
}

impl Whole for Attention {
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        let (spec, [k, v], q) = (from.shapes().caches[self.cache.0], from.cache(self.cache), from.rows(self.q));
        let sinks = from.vector(self.scoring.sinks);
        let mut out = Vec::with_capacity(q.len());
        for (position, q) in q.chunks(self.heads * spec.head_dim).enumerate() {
            for head in 0..self.heads {
                let weights = self.weights64(spec, [head, position], q, k, &sinks);
                let value = |d| weights.iter().enumerate().map(|(p, w)| w * v[self.at(spec, head, p) + d]).sum::<f64>();
                out.extend((0..spec.head_dim).map(value));
            }
        }
        out
    }

    fn examples(floats: Floats<'_>) -> Vec<Example> {
        let mut all = Vec::new();
        // One head; one key head for all queries; odd sizes; SmolLM2's and TinyLlama's heads; more positions than a pass takes.
        for (kv_heads, group, head_dim, position) in
            [(1, 1, 2, 37), (1, 4, 32, 37), (2, 3, 30, 37), (3, 3, 64, 37), (4, 8, 64, 5), (1, 2, 2, 2100)]
        {
            let spec = CacheSpec { kv_heads, head_dim, window: None, ring: None };
            all.extend(example(floats, kv_heads * group, spec, Scoring::usual(head_dim), position));
        }
        // Windows, one of them longer than the cache; scores that are capped; a score without a value.
        for (window, cap, sinks) in [(Some(9), None, false), (Some(300), Some(30.0), true), (None, Some(2.5), true)] {
            let spec = CacheSpec { kv_heads: 2, head_dim: 34, window, ring: None };
            let scoring = Scoring { divisor: 3.0, cap, sinks: sinks.then_some(WeightId(0)) };
            all.extend(example(floats, 4, spec, scoring, 290));
        }
        all
    }
}

/// Two rows at a position, over a random cache.
fn example(floats: Floats<'_>, heads: usize, spec: CacheSpec, scoring: Scoring, position: usize) -> Option<Example> {
    let (rows, context, width) = (2, position + 2, heads * spec.head_dim);
    let [k, v] = [(); 2].map(|()| {
        let values = floats(context * spec.width());
        values.iter().map(|x| f16_bits(x * 0.1) as u16).collect::<Vec<_>>()
    });
    let q = floats(rows * width);
    let sinks = if scoring.sinks.is_some() { floats(heads) } else { Vec::new() };
    let (mut expected, mut scores) = (vec![0.0; q.len()], vec![0.0; context]);
    let p = Params::new(heads, spec, scoring, context);
    for (i, (q, out)) in q.chunks(spec.head_dim).zip(expected.chunks_mut(spec.head_dim)).enumerate() {
        let count = position + i / heads + 1;
        let seen = p.first(count).1 * spec.width();
        cpu(&p, i % heads, count, q, &k[seen..], &v[seen..], &sinks, &mut scores, out);
    }
    let cached = [&k, &v].map(|rows| kv_store::cache_from_rows(rows, spec.width()));
    let mut scene = Scene { cache: Some((spec, cached)), scores: rows * heads * context, ..Scene::default() };
    if scoring.sinks.is_some() {
        scene.vector(&sinks)?;
    }
    let (q, out) = (scene.floats(width, &q), scene.floats(width, &vec![0.0; rows * width]));
    let CacheSpec { kv_heads, head_dim, window, .. } = spec;
    let window = window.map_or_else(String::new, |window| format!(", window {window}"));
    let shape = format!("[{rows}, {heads} heads on {kv_heads}, {head_dim}] at position {position}{window}");
    let op = Attention { q, out, cache: CacheId(0), heads, scoring };
    scene.example(&op, [rows, position, context], shape, (Operand::Rows(out), bits(&expected)))
}
