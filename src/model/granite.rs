//! Architecture `granite`: Granite 3 and 4 (IBM 2024): Llama's block with four scales.

use super::block::Design;
use super::rope::{FREQUENCIES, Factors, LONG};
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "granite",
    keys: &["attention.scale", "embedding_scale", "residual_scale", "logit_scale", "rope.scaling.finetuned"],
    ignored: &[],
    tensors: &[FREQUENCIES, LONG[0], LONG[1]],
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let meta = s.meta;
    let scale = |name: &str| -> Result<Option<f32>, ModelError> {
        Ok(meta.optional_number(name)?.map(|by| by as f32).filter(|by| *by != 1.0))
    };
    let usual = Design::llama(s.config, s.angles(Factors::Tensors)?);
    let divisor = meta.optional_number("attention.scale")?.map_or(usual.divisor, |scale| 1.0 / scale);
    let Some(logits) = meta.optional_number("logit_scale")? else {
        return Err(meta.refused("logit_scale", "the logits are divided by it"));
    };
    let mut layers = usual.layers.clone();
    if !meta.flag("rope.scaling.finetuned", true)? {
        layers.iter_mut().for_each(|layer| layer.angles = None);
    }
    Ok(Design {
        embedding_scale: scale("embedding_scale")?,
        residual_scale: scale("residual_scale")?,
        logit_scale: Some((1.0 / logits) as f32),
        divisor,
        biases: &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
        layers,
        ..usual
    })
}
