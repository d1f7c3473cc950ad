//! Architecture `phi3`: Phi 3, 3.5 and 4 (Abdin et al. 2024): one matrix for queries, keys and values, one for gate and up, LongRoPE.

use super::block::Design;
use super::rope::Factors;
use super::{Architecture, ModelError, Source};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "phi3",
    keys: &[],
    ignored: &[
        ("attention.sliding_window", "llama.cpp and the models' own long contexts ignore it"),
        ("attention.sliding_window_pattern", "there is no window"),
    ],
    factors: Factors::Long,
    design,
};

fn design(s: &Source<'_>) -> Result<Design, ModelError> {
    Ok(Design { neox: true, ..Design::llama(s.config, s.angles()?) })
}
