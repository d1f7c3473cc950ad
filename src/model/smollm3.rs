//! Architecture `smollm3`: SmolLM3 (Bakouch et al. 2025): Llama's block, with no RoPE in every fourth layer.

use super::block::Design;
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "smollm3", keys: &[], ignored: &[], factors: Factors::None, design };

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    let mut design = Design::llama(s.config, s.angles()?);
    design.layers.iter_mut().skip(3).step_by(4).for_each(|layer| layer.angles = None);
    Ok(design)
}
