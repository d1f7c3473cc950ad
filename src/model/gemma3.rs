//! Architecture `gemma3` (Gemma Team 2025): Gemma 2's block with norms of heads in place of caps, a window in five layers of six, and
//! their own base of RoPE.

use super::block::{Design, Gate, HeadNorms};
use super::rope::{self, Factors};
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    keys: &[
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "final_logit_softcapping",
        "rope.freq_base_swa",
    ],
    ignored: &[],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let (meta, c) = (s.meta, s.config);
    let global = s.angles()?;
    // Layers with a window have a base of their own, and no scaling.
    let local = rope::unscaled(c, meta.positive("rope.freq_base_swa", 10000.0)?);
    let layers = s.layers(s.window(None)?, 6, [Some(1), Some(0)])?;
    // The 27B model, told by its layers alone.
    let divided = if c.block_count == 62 { c.embedding_length / c.head_count } else { c.head_dim };
    Ok(Design {
        neox: true,
        embedding_scale: Some((c.embedding_length as f32).sqrt()),
        logit_cap: meta.optional_number("final_logit_softcapping")?.map(|cap| cap as f32),
        norms_behind: true,
        head_norms: HeadNorms::Each,
        gate: Gate::Gelu,
        divisor: libm::sqrt(divided as f64),
        angles: vec![global.clone(), local],
        layers,
        ..Design::llama(c, global)
    })
}
