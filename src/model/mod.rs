//! Architectures: GGUF metadata and tensors to a [`Plan`]. One file per architecture.

mod llama;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::gguf::{Gguf, GgufError};
use crate::numerics::Precision;
use crate::plan::{Plan, Weight};
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
    /// Layers the model does not have.
    #[error("layers {}..{} were asked for, but the model has {available}: 0..{available} are all of them", asked.start, asked.end)]
    Layers {
        /// What was asked for.
        asked: Range<usize>,
        /// Layers of the model.
        available: usize,
    },
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
        Self::new(Gguf::from_static(include_bytes!("../../models/stories.gguf"))?)
    }

    /// Checks that an opened container can be run.
    pub fn new(gguf: Gguf) -> Result<Self, ModelError> {
        let architecture = gguf.get_str("general.architecture")?.to_owned();
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            return Err(ModelError::Architecture(architecture));
        }
        let config = llama::config(&gguf)?;
        let model = Self { gguf: Arc::new(gguf), config };
        model.plan(Precision::Fast)?;
        Ok(model)
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

    /// The bytes of a weight of the plan.
    pub fn data(&self, weight: &Weight) -> &[u8] {
        self.gguf.tensor(&weight.name).map_or(&[], |t| self.gguf.data(t))
    }

    /// Says that the bytes of a weight will not be needed soon.
    pub fn release(&self, weight: &Weight) {
        if let Some(tensor) = self.gguf.tensor(&weight.name) {
            self.gguf.release(tensor);
        }
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
        let type_name =
            crate::gguf::ggml_type(tensor.type_id).map_or_else(|| tensor.type_id.to_string(), |t| t.name.to_owned());
        return Err(ModelError::Type { name: name.to_owned(), type_name });
    };
    Ok(Some(Weight { name: name.to_owned(), format, rows, cols }))
}
