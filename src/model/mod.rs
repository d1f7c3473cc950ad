//! Architectures: GGUF metadata and tensors to a [`Plan`]. One file per architecture.

mod keys;
mod llama;

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::gguf::{Gguf, GgufError, Value, type_name};
use crate::numerics::Precision;
use crate::plan::{Plan, PlanError, Weight, WeightSource};
use crate::quant;

/// Architectures this crate runs.
pub const ARCHITECTURES: &[&str] = &["llama"];

/// Why a file cannot be run as a model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The file itself.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not one of [`ARCHITECTURES`].
    #[error("architecture '{0}' is not supported; supported: {list}", list = ARCHITECTURES.join(", "))]
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
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            return Err(ModelError::Architecture(architecture));
        }
        let config = llama::config(&gguf)?;
        keys::check(&gguf, &architecture, llama::KEYS)?;
        let model = Self { gguf, config };
        let plan = model.plan(Precision::Fast)?;
        model.check_tensors(&plan, llama::TENSORS)?;
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
        llama::plan(&self.gguf, &self.config, precision, layers)
    }
}

impl WeightSource for Model {
    fn data(&self, weight: &Weight) -> &[u8] {
        self.gguf.tensor(&weight.name).map_or(&[], |t| self.gguf.data(t))
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
        "adapter" => Some("an adapter (LoRA); merge it into its model first: llama-export-lora -m MODEL --lora FILE"),
        "mmproj" => Some("the image or sound encoder of a model (mmproj); give the language model itself"),
        "imatrix" => Some("an importance matrix, which llama-quantize reads; give the model itself"),
        "control_vector" => Some("a control vector; give the model itself"),
        _ => None,
    }
}

/// The weight of this name, if present, with its shape checked: `rows` 1 asks for a vector.
fn weight(gguf: &Gguf, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>, ModelError> {
    let Some(tensor) = gguf.tensor(name) else { return Ok(None) };
    let expected: Vec<u64> = if rows == 1 { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
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
    Ok(Some(Weight { name: name.to_owned(), format, rows, cols }))
}
