//! Architecture `granite`: Granite 3 and 4 (IBM 2024): Llama's block with four scales.

use super::block::Design;
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "granite",
    keys: &["attention.scale", "embedding_scale", "residual_scale", "logit_scale", "rope.scaling.finetuned"],
    ignored: &[],
    factors: Factors::Tensors,
    design,
};

pub(super) fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let meta = s.meta;
    let usual = Design::llama(s.config, s.angles()?);
    let divisor = meta.optional_number("attention.scale")?.map_or(usual.divisor, |scale| 1.0 / scale);
    let Some(logits) = meta.optional_number("logit_scale")? else {
        return Err(meta.refused("logit_scale", "the logits are divided by it"));
    };
    let mut layers = usual.layers.clone();
    if !meta.flag("rope.scaling.finetuned", true)? {
        layers.iter_mut().for_each(|layer| layer.angles = None);
    }
    Ok(Design {
        embedding_scale: s.scale("embedding_scale")?,
        residual_scale: s.scale("residual_scale")?,
        logit_scale: Some((1.0 / logits) as f32),
        divisor,
        biases: &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
        layers,
        ..usual
    })
}
