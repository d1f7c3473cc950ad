//! Architecture `gpt-oss` (OpenAI 2025): experts with biases and a clamped gate, a window in every other layer, scores without values.

use super::block::{Design, Gate, Output};
use super::rope::Factors;
use super::{Architecture, ModelError, Source};
use crate::ops::route::Weighing;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gpt-oss",
    keys: &[
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "rope.freq_base_swa",
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
    ],
    ignored: &[],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let (meta, c) = (s.meta, s.config);
    let global = s.angles()?;
    let local = s.scaled(meta.positive("rope.freq_base_swa", meta.positive("rope.freq_base", 10000.0)?)?)?;
    let window = s.window(None)?;
    if window.is_none() {
        return Err(meta.refused("attention.sliding_window", "every other layer has a window"));
    }
    let layers = s.layers(window, 2, [Some(1), Some(0)])?;
    let width = meta.count("expert_feed_forward_length", Some(c.feed_forward_length))?;
    let experts = Some(s.needed_experts(width, Weighing::Chosen)?);
    Ok(Design {
        neox: true,
        ffn_norm: "post_attention_norm",
        biases: &[
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate_inp",
            "ffn_gate_exps",
            "ffn_up_exps",
            "ffn_down_exps",
        ],
        gate: Gate::Clamped,
        sinks: true,
        experts,
        output: Output::Required,
        angles: vec![global.clone(), local],
        layers,
        ..Design::llama(c, global)
    })
}
