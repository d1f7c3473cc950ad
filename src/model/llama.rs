//! Architecture `llama`: Llama 1 to 3, TinyLlama, SmolLM2, Mistral, Mixtral (Touvron et al. 2023; `llama.cpp` names).

use super::block::Design;
use super::rope::Factors;
use super::{Architecture, ModelError, Source};
use crate::ops::route::Weighing;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    keys: &["expert_count", "expert_used_count"],
    ignored: &[],
    factors: Factors::Tensors,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let biases = &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let experts = s.experts(s.config.feed_forward_length, Weighing::Normed)?;
    Ok(Design { biases, experts, ..Design::llama(s.config, s.angles()?) })
}
