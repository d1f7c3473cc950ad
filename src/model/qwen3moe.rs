//! Architecture `qwen3moe`: Qwen 3 with experts (Yang et al. 2025).

use super::block::{Design, HeadNorms};
use super::rope::Factors;
use super::{Architecture, ModelError, Source};
use crate::ops::route::Weighing;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3moe",
    keys: &["expert_count", "expert_used_count", "expert_feed_forward_length"],
    ignored: &[],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let used = s.meta.count("expert_used_count", None)?;
    let width = s.meta.count("expert_feed_forward_length", Some(s.config.feed_forward_length / used))?;
    let experts = Some(s.needed_experts(width, Weighing::Normed)?);
    Ok(Design { neox: true, head_norms: HeadNorms::Each, experts, ..Design::llama(s.config, s.angles()?) })
}
