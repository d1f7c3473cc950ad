//! Architecture `qwen3`: Qwen 3 (Yang et al. 2025): a norm of every head of queries and keys, and RoPE by halves.

use super::block::{Design, HeadNorms};
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "qwen3", keys: &[], ignored: &[], factors: Factors::None, design };

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    Ok(Design { neox: true, head_norms: HeadNorms::Each, ..Design::llama(s.config, s.angles()?) })
}
