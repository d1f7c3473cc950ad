//! Architecture `llama`: Llama 1 to 3, TinyLlama, SmolLM2, Mistral (Touvron et al. 2023; `llama.cpp` names).

use super::block::Design;
use super::rope::{FREQUENCIES, Factors, LONG};
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "llama", keys: &[], ignored: &[], tensors: &[FREQUENCIES, LONG[0], LONG[1]], design };

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let biases = &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    Ok(Design { biases, ..Design::llama(s.config, s.angles(Factors::Tensors)?) })
}
