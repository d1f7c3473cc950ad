//! Architecture `qwen2`: Qwen 1.5, 2 and 2.5 (Yang et al. 2024): biases, and RoPE by halves.

use super::block::Design;
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    keys: &[],
    ignored: &[("attention.sliding_window", "the models' own switch for the window is off")],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let biases = &["attn_q", "attn_k", "attn_v", "output"];
    Ok(Design { neox: true, biases, ..Design::llama(s.config, s.angles()?) })
}
