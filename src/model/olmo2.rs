//! Architecture `olmo2`: OLMo 2 and 3 (OLMo Team 2024): norms behind the branches only, one norm over all heads; OLMo 3 has a window in
//! three layers of four.

use super::block::{Design, HeadNorms, Output};
use super::rope::{self, Factors};
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "olmo2",
    keys: &["attention.sliding_window", "attention.sliding_window_pattern"],
    ignored: &[],
    factors: Factors::None,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let global = s.angles()?;
    // Layers with a window have the same base, and no scaling.
    let local = rope::unscaled(s.config, s.meta.positive("rope.freq_base", 10000.0)?);
    Ok(Design {
        neox: true,
        norms_before: false,
        norms_behind: true,
        head_norms: HeadNorms::Together,
        output: Output::Required,
        angles: vec![global.clone(), local],
        layers: s.layers(s.window(None)?, 4, [Some(1), Some(0)])?,
        ..Design::llama(s.config, global)
    })
}
