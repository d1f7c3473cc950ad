//! Architecture `gemma2` (Gemma Team 2024): norms on both sides of the branches, a window in every other layer, caps of scores and
//! logits, GELU, a scale of the embedding.

use super::block::{Design, Gate, Output};
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma2",
    keys: &[
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "rope.freq_base_swa",
    ],
    ignored: &[],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let (meta, c) = (s.meta, s.config);
    // The base of the layers with a window; both are scaled alike.
    let global = s.angles()?;
    let base = meta.positive("rope.freq_base_swa", meta.positive("rope.freq_base", 10000.0)?)?;
    let local = s.scaled(base)?;
    let window = s.window(Some(4096))?;
    let layers = s.layers(window, 2, [Some(1), Some(0)])?;
    // The 27B model, told by its layers alone.
    let divided = if c.block_count == 46 { c.embedding_length / c.head_count } else { c.head_dim };
    let cap = |name: &str, default: f64| match meta.has(name) {
        true => meta.optional_number(name),
        false => Ok(Some(default)),
    };
    Ok(Design {
        neox: true,
        embedding_scale: Some((c.embedding_length as f32).sqrt()),
        logit_cap: cap("final_logit_softcapping", 30.0)?.map(|cap| cap as f32),
        score_cap: cap("attn_logit_softcapping", 50.0)?,
        norms_behind: true,
        gate: Gate::Gelu,
        divisor: libm::sqrt(divided as f64),
        output: Output::Tied,
        angles: vec![global.clone(), local],
        layers,
        ..Design::llama(c, global)
    })
}
