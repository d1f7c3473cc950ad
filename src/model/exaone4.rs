//! Architecture `exaone4`: EXAONE 4 (LG AI Research 2025): norms behind the branches only, norms of heads; the 32B model has a window in
//! three layers of four, and no RoPE in the others.

use super::block::{Design, HeadNorms};
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "exaone4",
    keys: &["attention.sliding_window", "attention.sliding_window_pattern"],
    ignored: &[],
    factors: Factors::Frequencies,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let angles = s.angles()?;
    let usual = Design::llama(s.config, angles);
    // Told by its layers alone.
    let layers = match s.config.block_count {
        64 => s.layers(s.window(Some(4096))?, 4, [Some(0), None])?,
        _ => usual.layers.clone(),
    };
    Ok(Design { neox: true, norms_before: false, norms_behind: true, head_norms: HeadNorms::Each, layers, ..usual })
}
