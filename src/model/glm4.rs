//! Architecture `glm4`: GLM-4 (Team GLM 2024): norms on both sides of the branches, biases, one matrix for gate and up, and RoPE over a
//! part of each head.

use super::block::Design;
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "glm4", keys: &[], ignored: &[], factors: Factors::None, design };

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let biases = &["attn_q", "attn_k", "attn_v"];
    Ok(Design { norms_behind: true, biases, ..Design::llama(s.config, s.angles()?) })
}
