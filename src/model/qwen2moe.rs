//! Architecture `qwen2moe`: Qwen 1.5 and 2 with experts (Yang et al. 2024): Qwen 2's block, experts whose weights are not normed, and a
//! shared expert behind a gate.

use super::block::{Design, Experts, Shared};
use super::rope::Factors;
use super::{Architecture, ModelError, Source};
use crate::ops::route::Weighing;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen2moe",
    keys: &["expert_count", "expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"],
    ignored: &[("attention.sliding_window", "the models' own switch for the window is off")],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let c = s.config;
    let used = s.meta.count("expert_used_count", None)?;
    let width = s.meta.count("expert_feed_forward_length", Some(c.feed_forward_length / used))?;
    let shared = s.meta.count("expert_shared_feed_forward_length", Some(c.feed_forward_length))?;
    let experts = s.needed_experts(width, Weighing::All)?;
    Ok(Design {
        neox: true,
        biases: &["attn_q", "attn_k", "attn_v"],
        experts: Some(Experts { shared: Some(Shared { width: shared, gated: true }), ..experts }),
        ..Design::llama(c, s.angles()?)
    })
}
