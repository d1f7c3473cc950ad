//! What a model does on the way from prompt to logits: figures per step, and per layer the *logit lens* (nostalgebraist
//! 2020): the final norm and the output matrix applied to the residual stream after that layer.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::backend::{Backend, BackendError, Batch, Rows};
use crate::model::Model;
use crate::plan::{Op, Plan, Step};

/// Figures of a step's output for the last token of the prompt.
#[derive(Clone, Debug, Serialize)]
pub struct StepFigures {
    /// The step.
    pub step: String,
    /// Its op.
    pub op: &'static str,
    /// Smallest element.
    pub min: f32,
    /// Largest element.
    pub max: f32,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Euclidean norm.
    pub l2: f64,
    /// Share of zeros.
    pub zeros: f64,
    /// NaN and infinite elements.
    pub non_finite: usize,
}

/// The logit lens after a layer; layer 0 is the embedding alone.
#[derive(Clone, Debug, Serialize)]
pub struct LayerFigures {
    /// Layers passed.
    pub layer: usize,
    /// Norm of the residual stream.
    pub l2: f64,
    /// Cosine to the residual stream one layer before.
    pub cosine: f64,
    /// Entropy of the distribution, in nats.
    pub entropy: f64,
    /// Entropy of an even choice among all tokens.
    pub even: f64,
    /// Logit of the first minus logit of the fifth token.
    pub spread: f64,
    /// The five likeliest tokens and their logits.
    pub top: Vec<(u32, f64)>,
}

/// A whole trace.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Every step with float output, in order.
    pub steps: Vec<StepFigures>,
    /// The embedding and every layer.
    pub layers: Vec<LayerFigures>,
    /// What a person should look at, in words.
    pub warnings: Vec<String>,
    /// A hash of every step's output, all tokens: traces of other machines compare by it.
    pub hashes: Vec<(String, String)>,
    /// Every step's output words, all tokens.
    #[serde(skip)]
    pub outputs: Vec<(Step, Vec<u32>)>,
}

/// Runs a prompt of at most the backend's batch size and looks at every step.
///
/// # Errors
/// When the backend fails.
pub fn trace(model: &Model, plan: &Plan, backend: &mut dyn Backend, prompt: &[u32]) -> Result<Trace, BackendError> {
    let mut outputs: Vec<(Step, Vec<u32>)> = Vec::new();
    let mut listen = |step: &Step, words: &[u32]| outputs.push((step.clone(), words.to_vec()));
    backend.forward(Batch { ids: prompt, position: 0, logits: Rows::All }, Some(&mut listen))?;
    let last = |words: &[u32]| -> Vec<f32> {
        words[words.len() - words.len() / prompt.len()..].iter().map(|w| f32::from_bits(*w)).collect()
    };
    let floats = |step: &Step| !matches!(step.op, Op::KvStore { .. } | Op::QuantizeActivations { .. });
    let steps = outputs.iter().filter(|(s, _)| floats(s)).map(|(s, w)| figures(s, &last(w))).collect();
    let residual = |name: &str| name == "token_embd" || name.ends_with(".ffn_residual");
    let streams: Vec<_> = outputs.iter().filter(|(s, _)| residual(&s.name)).map(|(_, w)| last(w)).collect();
    let logits = lens(model, plan, &streams);
    let layers: Vec<_> =
        (0..streams.len()).map(|i| layer(i, &streams[i], streams.get(i.wrapping_sub(1)), &logits[i])).collect();
    let hashes = outputs.iter().map(|(s, w)| (s.name.clone(), hash(w))).collect();
    let mut trace = Trace { steps, layers, warnings: Vec::new(), hashes, outputs };
    trace.warnings = warnings(&trace);
    Ok(trace)
}

fn hash(words: &[u32]) -> String {
    Sha256::digest(bytemuck::cast_slice::<u32, u8>(words)).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn figures(step: &Step, x: &[f32]) -> StepFigures {
    let n = x.len().max(1) as f64;
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    StepFigures {
        step: step.name.clone(),
        op: step.op.name(),
        min: x.iter().copied().fold(f32::INFINITY, f32::min),
        max: x.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        mean,
        deviation: (squares / n - mean * mean).max(0.0).sqrt(),
        l2: squares.sqrt(),
        zeros: x.iter().filter(|x| **x == 0.0).count() as f64 / n,
        non_finite: x.iter().filter(|x| !x.is_finite()).count(),
    }
}

/// The logits of each residual stream, in f64 from the dequantised weights.
fn lens(model: &Model, plan: &Plan, streams: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let (mut normed, mut logits) = (Vec::new(), vec![Vec::new(); streams.len()]);
    for step in &plan.head {
        match step.op {
            Op::RmsNorm { weight, eps, .. } => {
                let w = &plan.weights[weight.0];
                let mut scale = vec![0.0f32; w.cols];
                w.format.dequantize(model.data(w), &mut scale);
                for x in streams {
                    let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
                    let r = 1.0 / (square + f64::from(eps)).sqrt();
                    normed
                        .push(x.iter().zip(&scale).map(|(x, s)| f64::from(*x) * r * f64::from(*s)).collect::<Vec<_>>());
                }
            }
            Op::Matmul { weight, .. } => {
                let w = &plan.weights[weight.0];
                let mut row = vec![0.0f32; w.cols];
                for raw in model.data(w).chunks_exact(w.format.row_bytes(w.cols)) {
                    w.format.dequantize(raw, &mut row);
                    for (x, logits) in normed.iter().zip(&mut logits) {
                        logits.push(x.iter().zip(&row).map(|(x, w)| x * f64::from(*w)).sum());
                    }
                }
            }
            _ => {}
        }
    }
    logits
}

fn layer(layer: usize, x: &[f32], before: Option<&Vec<f32>>, logits: &[f64]) -> LayerFigures {
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let cosine = before.map_or(1.0, |b| {
        let dot = x.iter().zip(b).map(|(x, b)| f64::from(*x) * f64::from(*b)).sum::<f64>();
        dot / (norm(x) * norm(b)).max(f64::MIN_POSITIVE)
    });
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let top: Vec<_> = order.iter().take(5).map(|&i| (i as u32, logits[i])).collect();
    let max = top.first().map_or(0.0, |t| t.1);
    let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
    let entropy = sum.ln() - logits.iter().map(|l| (l - max).exp() * (l - max)).sum::<f64>() / sum;
    let spread = max - top.last().map_or(0.0, |t| t.1);
    LayerFigures { layer, l2: norm(x), cosine, entropy, even: (logits.len() as f64).ln(), spread, top }
}

fn warnings(trace: &Trace) -> Vec<String> {
    let mut found = Vec::new();
    for s in trace.steps.iter().filter(|s| s.non_finite > 0).take(1) {
        found.push(format!("step '{}' is the first with NaN or infinity ({} elements)", s.step, s.non_finite));
    }
    let layers = &trace.layers;
    if let Some(last) = layers.last() {
        // `entropy` of an even choice among all tokens is the logarithm of their number.
        let share = last.entropy / last.even;
        if share > 0.9 {
            let text = "the model hardly chooses: the entropy after the last layer is";
            found.push(format!("{text} {:.0} % of an even choice, the spread {:.3}", 100.0 * share, last.spread));
        }
    }
    for pair in layers.windows(2) {
        if pair[1].l2 > 100.0 * pair[0].l2.max(1e-6) && pair[1].layer > 2 {
            found.push(format!(
                "the norm explodes in layer {}: {:.3e} to {:.3e}",
                pair[1].layer, pair[0].l2, pair[1].l2
            ));
        }
        if pair[1].cosine > 0.999_999 {
            found.push(format!("layer {} changes nothing: it is dead", pair[1].layer));
        }
    }
    found
}

/// The first step whose output differs between two traces, and how many words do.
pub fn first_difference(a: &Trace, b: &Trace) -> Option<(String, usize, usize)> {
    a.outputs.iter().zip(&b.outputs).find_map(|((step, x), (_, y))| {
        let wrong = x.iter().zip(y).filter(|(x, y)| x != y).count();
        (wrong > 0).then(|| (step.name.clone(), wrong, x.len()))
    })
}
