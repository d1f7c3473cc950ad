//! Architecture `deepseek2`: DeepSeek V2, V3, R1, Kimi K2 (DeepSeek-AI 2024): latent attention, experts in groups behind dense layers.

use super::block::{Design, Experts, Latent, Shared};
use super::rope::{self, Factors};
use super::{Architecture, ModelError, Source};
use crate::ops::route::{Gating, Weighing};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek2",
    keys: &[
        "attention.q_lora_rank",
        "attention.kv_lora_rank",
        "attention.key_length_mla",
        "attention.value_length_mla",
        "leading_dense_block_count",
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "expert_shared_count",
        "expert_weights_scale",
        "expert_weights_norm",
        "expert_gating_func",
        "expert_group_count",
        "expert_group_used_count",
        rope::MULTIPLIER,
    ],
    ignored: &[],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let (meta, c) = (s.meta, s.config);
    for name in ["attention.key_length_mla", "attention.value_length_mla"] {
        if !meta.has(name) {
            return Err(
                meta.refused(name, "files without it are too old; convert the model again with a current llama.cpp")
            );
        }
    }
    // The models of 26 and 27 layers ("Lite") have no rank of queries, whatever the file says.
    let q_rank = if matches!(c.block_count, 26 | 27) { None } else { meta.optional_count("attention.q_lora_rank")? };
    let latent = Latent {
        q_rank,
        rank: meta.count("attention.kv_lora_rank", None)?,
        rope: c.rope_dimensions,
        values: meta.count("attention.value_length_mla", None)?,
    };
    if latent.rope >= c.head_dim || !latent.rank.is_multiple_of(2) {
        return Err(meta.refused("attention.kv_lora_rank", "it must be even, and RoPE must leave a part of the heads"));
    }
    let mut groups = [1, 1];
    if let Some(count) = meta.optional_count("expert_group_count")?.filter(|count| *count > 1) {
        groups = [count, meta.count("expert_group_used_count", None)?];
    }
    let gating =
        Gating { sigmoid: is_sigmoid(s)?, groups, scale: s.scale("expert_weights_scale")?.unwrap_or(1.0), bias: None };
    let weighing = if meta.flag("expert_weights_norm", false)? { Weighing::Normed } else { Weighing::All };
    let width = meta.count("expert_feed_forward_length", Some(c.feed_forward_length))?;
    let shared = meta.optional_count("expert_shared_count")?;
    let first = meta.optional_count("leading_dense_block_count")?.unwrap_or(0);
    let experts = s.experts(width, weighing)?.map(|experts| Experts {
        gating,
        first,
        shared: shared.map(|count| Shared { width: count * width, gated: false }),
        ..experts
    });
    let usual = Design::llama(c, s.angles()?);
    Ok(Design { divisor: usual.divisor / rope::latent_scale(meta)?, latent: Some(latent), experts, ..usual })
}

/// Whether the parts of experts are sigmoids: 1 is the softmax, 2 the sigmoid.
fn is_sigmoid(s: &Source<'_>) -> Result<bool, ModelError> {
    match s.meta.optional_count("expert_gating_func")? {
        None | Some(1) => Ok(false),
        Some(2) => Ok(true),
        Some(_) => Err(s.meta.refused("expert_gating_func", "supported: 1 (softmax), 2 (sigmoid)")),
    }
}
