//! The plan in double precision on dequantised weights, with nothing rounded on the way: what the model means.
//!
//! It shares no arithmetic with the backends. Where a run differs from it by more than its precision explains, the run is
//! wrong; where both show the same collapse, the model is.

use crate::model::Model;
use crate::ops::attention::Scoring;
use crate::ops::{self, Row};
use crate::plan::{BufferId, CacheSpec, Op, Plan, Step, WeightId, WeightSource as _};

use super::Values;

/// Runs the whole plan over a prompt; the logits of every row are wanted.
pub(super) fn run(model: &Model, plan: &Plan, prompt: &[u32]) -> Vec<Values> {
    let mut machine = Machine::new(model, plan);
    plan.steps.iter().map(|step| Values { step: step.clone(), x: machine.step(step, prompt) }).collect()
}

/// The steps for wanted rows alone, over residual streams of equal width: the logits of each.
pub(super) fn lens(model: &Model, plan: &Plan, streams: &[&[f64]]) -> Vec<Vec<f64>> {
    let mut machine = Machine::new(model, plan);
    let Some((gather, rest)) = plan.steps[plan.first_wanted()..].split_first() else { return Vec::new() };
    if let Some(BufferId(x)) = gather.op.output() {
        machine.buffers[x] = streams.concat();
    }
    for step in rest {
        machine.step(step, &[]);
    }
    machine.buffers[plan.logits.0].chunks(plan.vocabulary()).map(<[f64]>::to_vec).collect()
}

/// Buffers with one row per token.
struct Machine<'a> {
    model: &'a Model,
    plan: &'a Plan,
    buffers: Vec<Vec<f64>>,
    /// Keys and values, `[position, width]`.
    caches: Vec<[Vec<f64>; 2]>,
}

impl<'a> Machine<'a> {
    fn new(model: &'a Model, plan: &'a Plan) -> Self {
        let caches = vec![[Vec::new(), Vec::new()]; plan.caches.len()];
        Self { model, plan, buffers: vec![Vec::new(); plan.buffers.len()], caches }
    }

    /// Runs a step and gives its output; for the cache the keys of every row, then the values.
    fn step(&mut self, step: &Step, ids: &[u32]) -> Vec<f64> {
        let take = |b: BufferId| &self.buffers[b.0];
        let result = match step.op {
            Op::Embedding(ops::Embedding { weight, .. }) => {
                ids.iter().flat_map(|&id| self.row(weight, id as usize)).collect()
            }
            Op::QuantizeActivations(ops::QuantizeActivations { x, .. }) => take(x).clone(),
            Op::Matmul(ops::Matmul { weight, bias, x, .. }) => {
                let bias = bias.map(|b| self.row(b, 0));
                self.products(weight, bias.as_deref(), take(x))
            }
            Op::ExpertMatmul(ref op) => self.expert_products(op),
            Op::KvStore(ops::KvStore { k, v, cache }) => {
                let (k, v) = (take(k).clone(), take(v).clone());
                let both = [k.as_slice(), v.as_slice()].concat();
                self.caches[cache.0] = [k, v];
                return both;
            }
            Op::Attention(ops::Attention { q, cache, heads, scoring, .. }) => {
                let [k, v] = &self.caches[cache.0];
                let spec = self.plan.caches[cache.0];
                let head_dim = spec.head_dim;
                let sinks = scoring.sinks.map_or_else(Vec::new, |id| self.row(id, 0));
                let shape = Heads { heads, spec, scoring, sinks };
                let mut out = Vec::with_capacity(take(q).len());
                for (position, q) in take(q).chunks(heads * head_dim).enumerate() {
                    for head in 0..heads {
                        let weights = shape.weights(head, position, q, k);
                        let value =
                            |d| weights.iter().enumerate().map(|(p, w)| w * v[shape.at(head, p) + d]).sum::<f64>();
                        out.extend((0..head_dim).map(value));
                    }
                }
                out
            }
            Op::Gather(ops::Gather { x, .. }) => take(x).clone(),
            ref op => self.per_row(op),
        };
        if let Some(BufferId(out)) = step.op.output() {
            self.buffers[out].clone_from(&result);
        }
        result
    }

    /// All rows of an op that is computed row by row.
    fn per_row(&self, op: &Op) -> Vec<f64> {
        let (Some(facts), Some(out), shapes) = (op.per_row(), op.output(), self.plan.shapes()) else {
            return Vec::new();
        };
        let width = shapes.width(out);
        let reads = facts.reads().map(|id| id.map_or((&[][..], 1), |id| (&self.buffers[id.0][..], shapes.width(id))));
        let vector = facts.vector().map_or_else(Vec::new, |id| self.row(id, 0));
        let (first, rows) = (reads[0].0, reads[0].0.len() / reads[0].1);
        let mut result = if op.is_in_place() { first.to_vec() } else { vec![0.0; rows * width] };
        for (position, out) in result.chunks_mut(width).enumerate() {
            let reads = reads.map(|(x, width)| x.get(position * width..(position + 1) * width).unwrap_or_default());
            let angles = facts.angles().map_or(&[][..], |id| &shapes.angles[id.0].frequencies);
            let angles: Vec<f64> = angles.iter().map(|frequency| position as f64 * frequency).collect();
            facts.row64(&shapes, Row { reads, vector: &vector, angles: &angles }, out);
        }
        result
    }

    /// A dequantised row of a weight.
    fn row(&self, weight: WeightId, row: usize) -> Vec<f64> {
        let w = &self.plan.weights[weight.0];
        let bytes = w.format.row_bytes(w.cols);
        let mut values = vec![0.0; w.cols];
        w.format.dequantize(&self.model.data(w)[row * bytes..][..bytes], &mut values);
        values.into_iter().map(f64::from).collect()
    }

    /// Products with the matrices of the experts that each row's routes name.
    fn expert_products(&self, op: &ops::ExpertMatmul) -> Vec<f64> {
        let (shapes, w) = (self.plan.shapes(), &self.plan.weights[op.weight.0]);
        let (used, width, slots) = (op.used(&shapes), op.rows(&shapes), op.has_slots(&shapes));
        let bias = op.bias.map(|b| self.row(b, 0));
        let mut out = Vec::new();
        let routes = op.routes.map(|routes| &self.buffers[routes.0]);
        let x_width = shapes.width(op.x);
        for row in 0..self.buffers[op.x.0].len() / x_width {
            for slot in 0..used {
                let expert = routes.map_or(slot, |routes| routes[row * 2 * used + slot] as usize);
                let x_row = if slots { row * used + slot } else { row };
                let x = &self.buffers[op.x.0][x_row * w.cols..][..w.cols];
                let first = expert * width;
                out.extend(
                    (first..first + width)
                        .map(|n| dot(&self.row(op.weight, n), x) + bias.as_ref().map_or(0.0, |b| b[n])),
                );
            }
        }
        out
    }

    /// `x` of `[rows, cols]` times a matrix, its rows spread over the threads.
    fn products(&self, weight: WeightId, bias: Option<&[f64]>, x: &[f64]) -> Vec<f64> {
        let w = &self.plan.weights[weight.0];
        let rows = x.len() / w.cols;
        let mut columns = vec![0.0; w.rows * rows];
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = w.rows.div_ceil(threads);
        std::thread::scope(|scope| {
            for (t, part) in columns.chunks_mut((share * rows).max(1)).enumerate() {
                scope.spawn(move || {
                    for (i, out) in part.chunks_mut(rows).enumerate() {
                        let n = t * share + i;
                        let matrix_row = self.row(weight, n);
                        for (x, out) in x.chunks(w.cols).zip(out) {
                            *out = dot(&matrix_row, x) + bias.map_or(0.0, |b| b[n]);
                        }
                    }
                });
            }
        });
        (0..rows).flat_map(|r| columns.iter().skip(r).step_by(rows.max(1)).copied()).collect()
    }
}

/// The heads of an attention.
pub(super) struct Heads {
    /// Of queries.
    pub heads: usize,
    /// The cache's.
    pub spec: CacheSpec,
    /// How scores become weights.
    pub scoring: Scoring,
    /// A score for each head that weighs nothing, or none.
    pub sinks: Vec<f64>,
}

impl Heads {
    /// Where the keys and values of a query head begin at a position of the cache.
    fn at(&self, head: usize, position: usize) -> usize {
        let CacheSpec { kv_heads, head_dim, .. } = self.spec;
        (position * kv_heads + head / (self.heads / kv_heads)) * head_dim
    }

    /// What a query head at a position gives each position up to its own; `q` is the row of all heads.
    pub fn weights(&self, head: usize, position: usize, q: &[f64], k: &[f64]) -> Vec<f64> {
        let head_dim = self.spec.head_dim;
        let q = &q[head * head_dim..][..head_dim];
        let first = self.spec.first_seen(position);
        let score = |p: usize| match (p < first, dot(q, &k[self.at(head, p)..][..head_dim]) / self.scoring.divisor) {
            (true, _) => f64::NEG_INFINITY,
            (_, score) => self.scoring.cap.map_or(score, |cap| cap * (score / cap).tanh()),
        };
        let scores: Vec<f64> = (0..=position).map(score).collect();
        let sink = self.sinks.get(head).copied().unwrap_or(f64::NEG_INFINITY);
        let top = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum = weights.iter().sum::<f64>() + (sink - top).exp();
        weights.into_iter().map(|w| w / sum).collect()
    }
}

/// Eight partial sums, so that a compiler can use vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}
