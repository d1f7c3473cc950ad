//! Figures of a run's numbers.

use super::reference;
use super::{LayerError, LayerFigures, Reference, StepFigures, Values};
use crate::model::Model;
use crate::ops;
use crate::plan::{Op, Plan, Words};

/// Figures of every step with float output.
pub(super) fn steps(values: &[Values], tokens: usize) -> Vec<StepFigures> {
    values.iter().filter(|v| is_float(v)).map(|v| step(v, last(v, tokens))).collect()
}

fn is_float(v: &Values) -> bool {
    v.step.op.words() == Words::Floats
}

/// The row of the last token.
fn last(v: &Values, tokens: usize) -> &[f64] {
    &v.x[v.x.len() - v.x.len() / tokens..]
}

fn step(v: &Values, x: &[f64]) -> StepFigures {
    let n = x.len().max(1) as f64;
    let (mean, deviation) = moments(x);
    StepFigures {
        step: v.step.name.to_string(),
        op: v.step.op.name(),
        min: x.iter().copied().fold(f64::INFINITY, f64::min),
        max: x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        mean,
        deviation,
        l2: norm(x),
        zeros: x.iter().filter(|x| **x == 0.0).count() as f64 / n,
        non_finite: x.iter().filter(|x| !x.is_finite()).count(),
        error: None,
    }
}

/// Adds to each step how far it is from the same step of the reference.
pub(super) fn add_errors(steps: &mut [StepFigures], values: &[Values], truth: &[Values], tokens: usize) {
    let floats = values.iter().zip(truth).filter(|(v, _)| is_float(v));
    for (figures, (v, t)) in steps.iter_mut().zip(floats) {
        figures.error = Some(distance(last(v, tokens), last(t, tokens)).error);
    }
}

/// The double-precision run, and how far the traced one is from it.
pub(super) fn reference(model: &Model, plan: &Plan, values: &[Values], truth: &[Values], tokens: usize) -> Reference {
    let pairs = streams(plan, values, tokens).into_iter().zip(streams(plan, truth, tokens));
    let errors = pairs.map(|((_, x), (_, t))| distance(x, t)).collect();
    let logits = |all: &[Values]| all.last().map_or(Vec::new(), |v| last(v, tokens).to_vec());
    let logits = distance(&logits(values), &logits(truth));
    Reference { layers: layers(model, plan, truth, tokens), errors, logits }
}

impl Reference {
    /// How the error grows over the layers, in a sentence.
    pub fn summary(&self) -> String {
        let part = |i: usize| match (self.errors.get(i), self.layers.get(i)) {
            (Some(e), Some(l)) => format!("{:.2} % after {}", 100.0 * e.error, l.name()),
            _ => "none".to_owned(),
        };
        let worst = (0..self.errors.len()).max_by(|&a, &b| self.errors[a].error.total_cmp(&self.errors[b].error));
        let (first, worst) = (part(1.min(self.errors.len().saturating_sub(1))), part(worst.unwrap_or(0)));
        let (logits, cosine) = (100.0 * self.logits.error, self.logits.cosine);
        format!("error against float64: {first}, largest {worst}; logits {logits:.2} %, cosine {cosine:.6}")
    }
}

/// The residual stream of the last token after the embedding and after every layer: what the last step of each leaves.
fn streams<'a>(plan: &Plan, values: &'a [Values], tokens: usize) -> Vec<(Option<usize>, &'a [f64])> {
    let body = &values[..plan.first_wanted().min(values.len())];
    let parts = body.chunk_by(|a, b| a.step.name.layer == b.step.name.layer);
    parts.filter_map(|part| part.last().map(|v| (v.step.name.layer, last(v, tokens)))).collect()
}

/// Figures of the embedding and of every layer.
pub(super) fn layers(model: &Model, plan: &Plan, values: &[Values], tokens: usize) -> Vec<LayerFigures> {
    let streams = streams(plan, values, tokens);
    let logits = reference::lens(model, plan, &streams.iter().map(|s| s.1).collect::<Vec<_>>());
    let before = std::iter::once(streams.first()).chain(streams.iter().map(Some)).flatten();
    let all = streams.iter().zip(before).zip(&logits);
    all.map(|((&(layer, x), (_, before)), logits)| {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let top: Vec<_> = order.iter().take(5).map(|&i| (i as u32, logits[i])).collect();
        let first = top.first().map_or(0.0, |t| t.1);
        LayerFigures {
            layer,
            l2: norm(x),
            deviation: moments(x).1,
            cosine: cosine(x, before),
            entropy: entropy(logits, first),
            even: (logits.len() as f64).ln(),
            spread: first - top.last().map_or(0.0, |t| t.1),
            attention: layer.and_then(|layer| attention(plan, values, layer, tokens)),
            top,
        }
    })
    .collect()
}

/// Entropy in nats of the distribution with these logits, the largest of which is `top`.
fn entropy(logits: &[f64], top: f64) -> f64 {
    let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
    sum.ln() - logits.iter().map(|l| (l - top).exp() * (l - top)).sum::<f64>() / sum
}

/// How even the last token's attention is in a layer: 1 where every head weighs all positions alike.
fn attention(plan: &Plan, values: &[Values], layer: usize, tokens: usize) -> Option<f64> {
    let here = |v: &&Values| v.step.name.layer == Some(layer);
    let attends = values.iter().position(|v| here(&v) && matches!(v.step.op, Op::Attention(ops::Attention { .. })))?;
    let Op::Attention(op @ ops::Attention { q, cache: attended, heads, .. }) = &values[attends].step.op else {
        return None;
    };
    // The queries as they are when attention reads them, and the cache that it reads.
    let before = &values[..attends];
    let queries = last(before.iter().rfind(|v| v.step.op.output() == Some(*q))?, tokens);
    let stores = |v: &&Values| matches!(v.step.op, Op::KvStore(ops::KvStore { cache, .. }) if cache == *attended);
    let cache = &before.iter().rfind(stores)?.x;
    // How even it is among the positions: a score without a value takes no part.
    let entropy = |head| {
        let keys = &cache[..cache.len() / 2];
        let weights = op.weights64(plan.caches[attended.0], [head, tokens - 1], queries, keys, &[]);
        -weights.iter().filter(|w| **w > 0.0).map(|w| w * w.ln()).sum::<f64>()
    };
    (tokens > 1).then(|| (0..*heads).map(entropy).sum::<f64>() / *heads as f64 / (tokens as f64).ln())
}

fn distance(x: &[f64], truth: &[f64]) -> LayerError {
    let difference: Vec<_> = x.iter().zip(truth).map(|(x, t)| x - t).collect();
    LayerError { error: norm(&difference) / norm(truth).max(f64::MIN_POSITIVE), cosine: cosine(x, truth) }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a) * norm(b)).max(f64::MIN_POSITIVE)
}

/// Mean and standard deviation.
fn moments(x: &[f64]) -> (f64, f64) {
    let n = x.len().max(1) as f64;
    let mean = x.iter().sum::<f64>() / n;
    (mean, (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_that_of_the_definition() {
        let even = [3.0; 8];
        assert!((entropy(&even, 3.0) - 8f64.ln()).abs() < 1e-12);
        let p = [0.5f64, 0.25, 0.25];
        let want = -p.iter().map(|p| p * p.ln()).sum::<f64>();
        assert!((entropy(&p.map(f64::ln), p[0].ln()) - want).abs() < 1e-12);
    }

    #[test]
    fn distances() {
        let d = distance(&[1.0, 1.0], &[1.0, 0.0]);
        assert!((d.error - 1.0).abs() < 1e-12 && (d.cosine - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(moments(&[1.0, 3.0]), (2.0, 1.0));
    }
}
