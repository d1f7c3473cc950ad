//! What a model does on the way from prompt to logits: figures per step, and per layer the *logit lens* (nostalgebraist
//! 2020): the final norm and the output matrix applied to the residual stream after that layer. Optionally beside a
//! double-precision run of the same plan, which tells what rounding did.

mod compare;
mod figures;
#[cfg(feature = "pictures")]
mod page;
#[cfg(feature = "pictures")]
mod plot;
mod reference;
mod warnings;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model::Model;
use crate::numerics::f16_value;
use crate::plan::{Plan, Step, Words};

pub use compare::{Difference, Run, first_difference, run};
#[cfg(feature = "pictures")]
pub use page::{Page, Verdict};
#[cfg(feature = "pictures")]
pub use plot::{PlotError, svg};

/// Figures of a step's output for the last token of the prompt.
#[derive(Clone, Debug, Serialize)]
pub struct StepFigures {
    /// The step.
    pub step: String,
    /// Its op.
    pub op: &'static str,
    /// Smallest element.
    pub min: f64,
    /// Largest element.
    pub max: f64,
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
    /// Norm of the difference from the reference, in norms of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

/// The residual stream after a layer and the logit lens on it, for the last token of the prompt.
#[derive(Clone, Debug, Serialize)]
pub struct LayerFigures {
    /// The layer; `None` for the embedding alone.
    pub layer: Option<usize>,
    /// Norm of the residual stream.
    pub l2: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// Cosine to the residual stream before the layer.
    pub cosine: f64,
    /// Entropy of the next token's distribution, in nats.
    pub entropy: f64,
    /// Entropy of an even choice among all tokens.
    pub even: f64,
    /// Logit of the first minus logit of the fifth token.
    pub spread: f64,
    /// Entropy of the attention weights, mean of all heads, as a share of that of even weights; `None` for the embedding
    /// and for a prompt of one token.
    pub attention: Option<f64>,
    /// The five likeliest tokens and their logits.
    pub top: Vec<(u32, f64)>,
}

/// The double-precision run of the same plan.
#[derive(Clone, Debug, Serialize)]
pub struct Reference {
    /// Its layers.
    pub layers: Vec<LayerFigures>,
    /// How far the traced run is from it after each of them.
    pub errors: Vec<LayerError>,
    /// The same of the logits of the last token.
    pub logits: LayerError,
}

/// Distance of two vectors.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LayerError {
    /// Norm of the difference, in norms of the reference.
    pub error: f64,
    /// Cosine between the two.
    pub cosine: f64,
}

/// A whole trace.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Every step with float output, in order.
    pub steps: Vec<StepFigures>,
    /// The embedding and every layer.
    pub layers: Vec<LayerFigures>,
    /// The same in double precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// What a person should look at, in words.
    pub warnings: Vec<String>,
    /// A hash of every step's output, all tokens: traces of other machines compare by it.
    pub hashes: Vec<(String, String)>,
}

/// A step's output as numbers, all tokens.
struct Values {
    step: Step,
    x: Vec<f64>,
}

/// Bytes of memory that `runs` runs of a prompt take, and the figures of one of them: every output of every step is kept.
pub fn memory(plan: &Plan, tokens: usize, runs: usize, with_reference: bool) -> u64 {
    let width = |step: &Step| step.op.output().map_or(0, |b| plan.buffers[b.0].width as u64);
    let elements = plan.steps.iter().map(width).sum::<u64>().saturating_mul(tokens as u64);
    // A word of each run; a double for the figures, and for a reference's buffers and outputs.
    let bytes = 4 * runs as u64 + if with_reference { 24 } else { 8 };
    elements.saturating_mul(bytes)
}

/// The figures of a run that was listened to, beside a double-precision run where one is wanted.
///
/// # Panics
/// If `run` has no outputs.
pub fn analyse(model: &Model, plan: &Plan, prompt: &[u32], run: &Run, with_reference: bool) -> Trace {
    let outputs = run.outputs.as_deref().unwrap_or_else(|| panic!("a run without outputs has no figures"));
    let values: Vec<_> = outputs.iter().map(|(step, words)| numbers(step, words)).collect();
    let tokens = prompt.len();
    let mut steps = figures::steps(&values, tokens);
    let layers = figures::layers(model, plan, &values, tokens);
    let reference = with_reference.then(|| {
        let truth = reference::run(model, plan, prompt);
        figures::add_errors(&mut steps, &values, &truth, tokens);
        figures::reference(model, plan, &values, &truth, tokens)
    });
    let hashes = outputs.iter().map(|(s, w)| (s.name.to_string(), hash(w))).collect();
    let warnings = warnings::of(&steps, &layers, reference.as_ref());
    Trace { steps, layers, reference, warnings, hashes }
}

impl LayerFigures {
    /// The layer as its steps name it, such as `blk.3`.
    pub fn name(&self) -> String {
        self.layer.map_or_else(|| "embedding".to_owned(), |layer| format!("blk.{layer}"))
    }
}

/// Output words as numbers. Quantised activations give none: their float source is a step of its own.
fn numbers(step: &Step, words: &[u32]) -> Values {
    let x = match step.op.words() {
        Words::Quantized => Vec::new(),
        Words::Halves => words.iter().flat_map(|w| [w & 0xffff, w >> 16]).map(|h| f64::from(f16_value(h))).collect(),
        Words::Floats => words.iter().map(|w| f64::from(f32::from_bits(*w))).collect(),
    };
    Values { step: step.clone(), x }
}

fn hash(words: &[u32]) -> String {
    Sha256::digest(bytemuck::cast_slice::<u32, u8>(words)).iter().take(8).map(|b| format!("{b:02x}")).collect()
}
