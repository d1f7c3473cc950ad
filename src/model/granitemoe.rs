//! Architecture `granitemoe`: Granite 3 and 4 with experts (IBM 2024), and with a shared expert or without.

use super::block::{Design, Experts, Shared};
use super::rope::Factors;
use super::{Architecture, ModelError, Source, granite};
use crate::ops::route::Weighing;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "granitemoe",
    keys: &[
        "attention.scale",
        "embedding_scale",
        "residual_scale",
        "logit_scale",
        "rope.scaling.finetuned",
        "expert_count",
        "expert_used_count",
        "expert_shared_feed_forward_length",
    ],
    ignored: &[],
    factors: Factors::Tensors,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let shared = s.meta.optional_count("expert_shared_feed_forward_length")?;
    let shared = shared.map(|width| Shared { width, gated: false });
    let experts = s.experts(s.config.feed_forward_length, Weighing::Normed)?;
    Ok(Design { experts: experts.map(|e| Experts { shared, ..e }), ..granite::design(s)? })
}
