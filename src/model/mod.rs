//! Architectures: GGUF metadata and tensors to a [`Plan`]. One file per architecture.

mod block;
mod deepseek2;
mod exaone4;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt_oss;
mod granite;
mod granitemoe;
mod keys;
mod llama;
mod metadata;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen3moe;
mod rope;
mod smollm3;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::gguf::{Gguf, GgufError, Value, type_name};
use crate::numerics::Precision;
use crate::ops::route::{Gating, Weighing};
use crate::plan::{self, Plan, PlanError, Weight, WeightSource};
use crate::quant;

use block::{Design, Experts, Layer};
use metadata::Metadata;
use rope::Factors;

/// Architectures this crate runs.
static ARCHITECTURES: &[&Architecture] = &[
    &llama::ARCHITECTURE,
    &qwen2::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &qwen2moe::ARCHITECTURE,
    &qwen3moe::ARCHITECTURE,
    &gemma2::ARCHITECTURE,
    &gemma3::ARCHITECTURE,
    &phi3::ARCHITECTURE,
    &smollm3::ARCHITECTURE,
    &olmo2::ARCHITECTURE,
    &granite::ARCHITECTURE,
    &granitemoe::ARCHITECTURE,
    &glm4::ARCHITECTURE,
    &exaone4::ARCHITECTURE,
    &gpt_oss::ARCHITECTURE,
    &deepseek2::ARCHITECTURE,
];

/// The names of the architectures this crate runs, as `general.architecture` gives them.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|a| a.name)
}

/// What is known of an architecture.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// Keys that it obeys besides [`metadata::KEYS`], after its name.
    keys: &'static [&'static str],
    /// Keys that files have and that change nothing, and why.
    ignored: &'static [(&'static str, &'static str)],
    /// The tensors that divide RoPE's frequencies.
    factors: Factors,
    /// What it computes.
    design: fn(&Source<'_>) -> Result<Design, ModelError>,
}

/// What a [`Design`] is made from.
struct Source<'a> {
    meta: Metadata<'a>,
    config: &'a Config,
    factors: Factors,
    /// Positions of the context that the model is opened for.
    context: usize,
}

impl Source<'_> {
    /// The usual table of angles.
    fn angles(&self) -> Result<plan::Angles, ModelError> {
        self.scaled(self.meta.positive("rope.freq_base", 10000.0)?)
    }

    /// The table of a base, scaled as the file says.
    fn scaled(&self, base: f64) -> Result<plan::Angles, ModelError> {
        rope::scaled(self.meta, self.config, base, self.factors, self.context)
    }

    /// A number that stands for itself but for 0 and 1, which ask for nothing.
    fn scale(&self, name: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.meta.optional_number(name)?.map(|by| by as f32).filter(|by| *by != 1.0))
    }

    /// The experts of an architecture that always has some.
    fn needed_experts(&self, width: usize, weighing: Weighing) -> Result<Experts, ModelError> {
        let experts = self.experts(width, weighing)?;
        experts.ok_or_else(|| self.meta.refused("expert_count", "the architecture has experts"))
    }

    /// The experts of the file; `None` where it has none. `width` is the size of their hidden rows.
    fn experts(&self, width: usize, weighing: Weighing) -> Result<Option<Experts>, ModelError> {
        let Some(count) = self.meta.optional_count("expert_count")? else { return Ok(None) };
        let used = self.meta.count("expert_used_count", None)?;
        if used > count {
            return Err(self.meta.refused("expert_used_count", "there are not so many experts"));
        }
        Ok(Some(Experts { count, used, width, weighing, gating: Gating::BY_SCORE, first: 0, shared: None }))
    }

    /// How many positions layers with a window see; `None` without one.
    fn window(&self, default: Option<usize>) -> Result<Option<usize>, ModelError> {
        let name = "attention.sliding_window";
        if self.meta.has(name) { self.meta.optional_count(name) } else { Ok(default) }
    }

    /// The layers where all but every `period`-th have the window; their tables of angles with a window and without.
    fn layers(
        &self,
        window: Option<usize>,
        period: usize,
        angles: [Option<usize>; 2],
    ) -> Result<Vec<Layer>, ModelError> {
        let local = self.meta.window_pattern(self.config.block_count, period)?;
        let layer = |local: bool| match local && window.is_some() {
            true => Layer { angles: angles[0], window },
            false => Layer { angles: angles[1], window: None },
        };
        Ok(local.into_iter().map(layer).collect())
    }
}

/// Why a file cannot be run as a model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The file itself.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not one of [`architectures`].
    #[error("architecture '{0}' is not supported; supported: {list}", list = architectures().collect::<Vec<_>>().join(", "))]
    Architecture(String),
    /// A tensor the architecture needs.
    #[error("tensor '{0}' is missing; the file is incomplete or not what its architecture says")]
    MissingTensor(String),
    /// A file with another purpose.
    #[error("this file is {0}")]
    NotAModel(&'static str),
    /// Metadata that asks for what is not done.
    #[error("metadata '{key}' is {value}: {what} is not supported for architecture '{architecture}'")]
    Unsupported {
        /// The key.
        key: String,
        /// What it says.
        value: String,
        /// What it asks for.
        what: &'static str,
        /// The architecture.
        architecture: String,
    },
    /// Metadata of the architecture that may ask for anything.
    #[error(
        "metadata '{key}' ({value}) is not known to this program and may change what the model computes; use a newer \
         samebits, or a file without it"
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// What it says.
        value: String,
    },
    /// Tensors that no step of the architecture reads.
    #[error("tensor '{name}'{} {reason}", others(*.more))]
    UnusedTensor {
        /// The first of them.
        name: String,
        /// How many there are besides.
        more: usize,
        /// Why it is not read.
        reason: String,
    },
    /// More tokens than the model has numbers for.
    #[error("the vocabulary has {tokens} tokens but 'token_embd.weight' has {rows} rows; the file is damaged")]
    Vocabulary {
        /// Tokens of the vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A tensor of another shape than the metadata says.
    #[error(
        "tensor '{name}' has shape {found:?}, expected {expected:?}; the file is damaged or of a variant not supported"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the file, columns first.
        found: Vec<u64>,
        /// The shape wanted.
        expected: Vec<u64>,
    },
    /// A tensor type without a format.
    #[error("tensor '{name}' has type {type_name}, which is not supported; use a file in one of: {list}", list = supported())]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        type_name: String,
    },
    /// Metadata that cannot be.
    #[error("metadata '{key}' is {value}: {reason}")]
    Metadata {
        /// The key.
        key: String,
        /// What it says.
        value: String,
        /// Why that does not work.
        reason: &'static str,
    },
    /// Parts that do not fit together.
    #[error("the file describes a model that cannot run: {0}")]
    Plan(#[from] PlanError),
    /// Layers the model does not have.
    #[error("layers {}..{} were asked for, but the model has {available}: 0..{available} are all of them", asked.start, asked.end)]
    Layers {
        /// What was asked for.
        asked: Range<usize>,
        /// Layers of the model.
        available: usize,
    },
}

fn others(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more)") }
}

fn supported() -> String {
    quant::FORMATS.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}

/// The numbers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or empty.
    pub name: String,
    /// Layers.
    pub block_count: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// Width of the feed-forward layer.
    pub feed_forward_length: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads.
    pub head_count_kv: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Epsilon of the norms.
    pub rms_eps: f32,
    /// Elements of a head that RoPE rotates.
    pub rope_dimensions: usize,
    /// Weights in all.
    pub parameters: u64,
}

/// An opened model file: metadata checked, nothing computed yet.
#[derive(Clone, Debug)]
pub struct Model {
    /// The file.
    pub gguf: Arc<Gguf>,
    /// Its numbers.
    pub config: Config,
    /// Positions of the context that it is opened for ([`Self::for_context`]).
    context: usize,
    architecture: &'static Architecture,
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Model {
    /// Opens a file and checks that it can be run.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::new(Gguf::open(path)?)
    }

    /// The story model that is part of the program (`models/README.md`).
    #[cfg(builtin_model)]
    pub fn stories() -> Result<Self, ModelError> {
        Self::new(Self::stories_file()?)
    }

    /// The file of [`Self::stories`].
    #[cfg(builtin_model)]
    pub fn stories_file() -> Result<Gguf, GgufError> {
        Gguf::from_static(include_bytes!("../../models/stories.gguf"))
    }

    /// Checks that an opened container can be run, and that nothing in it would be left out: every key that changes results
    /// is obeyed, every tensor is read.
    pub fn new(gguf: impl Into<Arc<Gguf>>) -> Result<Self, ModelError> {
        let gguf = gguf.into();
        gguf.whole()?;
        if let Some(purpose) = other_purpose(&gguf) {
            return Err(ModelError::NotAModel(purpose));
        }
        let architecture = gguf.get_str("general.architecture")?.to_owned();
        let Some(&architecture) = ARCHITECTURES.iter().find(|a| a.name == architecture) else {
            return Err(ModelError::Architecture(architecture));
        };
        let config = Metadata { gguf: &gguf, architecture: architecture.name }.config()?;
        let ignored = architecture.ignored.iter().map(|i| i.0);
        let known: Vec<&str> = metadata::KEYS.iter().chain(architecture.keys).copied().chain(ignored).collect();
        keys::check(&gguf, architecture.name, &known)?;
        let model = Self { context: config.context_length, gguf, config, architecture };
        let plan = model.plan(Precision::Fast)?;
        let meta = Metadata { gguf: &model.gguf, architecture: architecture.name };
        model.check_tensors(&plan, &rope::tensors(meta, architecture.factors)?)?;
        model.check_vocabulary()?;
        Ok(model)
    }

    /// Refuses tensors that neither a step nor the architecture itself (`besides`) reads.
    fn check_tensors(&self, plan: &Plan, besides: &[&str]) -> Result<(), ModelError> {
        let read: HashSet<&str> = plan.weights.iter().map(|w| w.name.as_str()).chain(besides.iter().copied()).collect();
        let mut unused = self.gguf.tensors().iter().map(|t| t.name.as_str()).filter(|name| !read.contains(name));
        let Some(name) = unused.next() else { return Ok(()) };
        let (more, c) = (unused.count(), &self.config);
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse().ok());
        let reason = match layer {
            Some(layer) if (c.block_count..).contains(&layer) => {
                format!(
                    "lies beyond '{}.block_count', which is {}; the file contradicts itself",
                    c.architecture, c.block_count
                )
            }
            _ => {
                format!("is not part of architecture '{}' as this program runs it; the model needs it", c.architecture)
            }
        };
        Err(ModelError::UnusedTensor { name: name.to_owned(), more, reason })
    }

    fn check_vocabulary(&self) -> Result<(), ModelError> {
        let (rows, key) = (self.config.vocabulary, "tokenizer.ggml.tokens");
        match self.gguf.get(key) {
            Some(Value::Array(tokens)) if tokens.len() > rows => {
                Err(ModelError::Vocabulary { tokens: tokens.len(), rows })
            }
            _ => Ok(()),
        }
    }

    /// What to compute.
    pub fn plan(&self, precision: Precision) -> Result<Plan, ModelError> {
        self.plan_of_layers(precision, 0..self.config.block_count)
    }

    /// What to compute when only these layers stand between the embedding and the output; they may be none.
    pub fn plan_of_layers(&self, precision: Precision, layers: Range<usize>) -> Result<Plan, ModelError> {
        if layers.end > self.config.block_count {
            return Err(ModelError::Layers { asked: layers, available: self.config.block_count });
        }
        let meta = Metadata { gguf: &self.gguf, architecture: self.architecture.name };
        let design = (self.architecture.design)(&Source {
            meta,
            config: &self.config,
            factors: self.architecture.factors,
            context: self.context,
        })?;
        block::plan(self, &design, precision, layers)
    }

    /// The model opened for a context of so many positions, on which LongRoPE's factors and the windows of attention depend. Without this
    /// it is opened for the context it was trained for.
    pub fn for_context(&self, positions: usize) -> Self {
        Self { context: positions, ..self.clone() }
    }

    /// Keys of the file that the architecture has no use for, and why.
    pub fn ignored_keys(&self) -> impl Iterator<Item = (String, &'static str)> + use<'_> {
        let keys = self.architecture.ignored.iter();
        keys.map(|(name, why)| (format!("{}.{name}", self.architecture.name), *why))
            .filter(|(key, _)| self.gguf.get(key).is_some())
    }
}

impl WeightSource for Model {
    fn data(&self, weight: &Weight) -> &[u8] {
        let bytes = weight.format.row_bytes(weight.cols);
        let rows = weight.first * bytes..(weight.first + weight.rows) * bytes;
        self.gguf.tensor(&weight.name).and_then(|t| self.gguf.data(t).get(rows)).unwrap_or_default()
    }

    fn release(&self, weight: &Weight) {
        if let Some(tensor) = self.gguf.tensor(&weight.name) {
            self.gguf.release(tensor);
        }
    }
}

/// What a file is that is no language model, as far as it says so.
fn other_purpose(gguf: &Gguf) -> Option<&'static str> {
    match gguf.get_str("general.type").ok()? {
        "adapter" => Some("an adapter (LoRA); merge it into its model first, with llama.cpp's llama-export-lora"),
        "mmproj" => Some("the image or sound encoder of a model (mmproj); give the language model itself"),
        "imatrix" => Some("an importance matrix, which llama-quantize reads; give the model itself"),
        "control_vector" => Some("a control vector; give the model itself"),
        _ => None,
    }
}

/// The weight of this name, if present, with its shape checked: `rows` 1 asks for a vector.
fn weight(gguf: &Gguf, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>, ModelError> {
    shaped(gguf, name, &[cols, rows][..if rows == 1 { 1 } else { 2 }])
}

/// The weight of this name, if present, with its shape checked, columns first: all rows of all dimensions.
fn shaped(gguf: &Gguf, name: &str, shape: &[usize]) -> Result<Option<Weight>, ModelError> {
    let Some(tensor) = gguf.tensor(name) else { return Ok(None) };
    let expected: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    let (cols, rows) = (shape[0], shape[1..].iter().product());
    let significant = tensor.dims.iter().rposition(|d| *d != 1).map_or(1, |i| i + 1);
    let mut found = tensor.dims[..significant].to_vec();
    found.resize(significant.max(expected.len()), 1);
    if found != expected {
        return Err(ModelError::Shape { name: name.to_owned(), found: tensor.dims.clone(), expected });
    }
    let Some(format) = quant::format(tensor.type_id) else {
        let type_name = type_name(tensor.type_id).into_owned();
        return Err(ModelError::Type { name: name.to_owned(), type_name });
    };
    Ok(Some(Weight { name: name.to_owned(), format, first: 0, rows, cols }))
}
