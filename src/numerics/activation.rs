//! Activations as integers: blocks of 32 or 256 values with one f32 scale.

use super::{ACTIVATION_FLOOR, recip};

/// How finely activations are rounded before they meet integer weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// One plane of i8, what llama.cpp does on a CPU.
    #[default]
    Fast,
    /// Two planes of i8, 16 bits in all: the class of f16 activations.
    Precise,
}

impl Precision {
    /// The largest integer an activation is scaled to.
    pub fn steps(self) -> f32 {
        match self {
            Self::Fast => 127.0,
            Self::Precise => 32512.0,
        }
    }

    /// The scale of a block is its largest magnitude times this.
    pub fn inverse_steps(self) -> f32 {
        match self {
            Self::Fast => 1.0 / 127.0,
            Self::Precise => 1.0 / 32512.0,
        }
    }
}

/// One row of activations in the form a weight format multiplies with.
#[derive(Clone, Copy, Debug)]
pub enum ActivationRow<'a> {
    /// As they are.
    Float(&'a [f32]),
    /// Integers: value `i` is `scale[i / block] * (256 * hi[i] + lo[i])`, or `scale * hi` without the second plane.
    Quantized {
        /// One per block.
        scale: &'a [f32],
        /// The high plane, or the only one.
        hi: &'a [i8],
        /// The low plane of `Precision::Precise`.
        lo: Option<&'a [i8]>,
    },
}

/// Quantises one block; returns its scale. `lo` is written for `Precise` only.
///
/// A block whose largest magnitude is below 2^-60 becomes zeros with scale 0, one with NaN or infinity zeros with scale
/// NaN, so that it cannot pass for a number.
#[inline(always)]
pub fn quantize_block(x: &[f32], precision: Precision, hi: &mut [i8], lo: &mut [i8]) -> f32 {
    // As integers, magnitudes have the order of the numbers, and infinity and NaN are above all of them.
    let amax = f32::from_bits(x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff)));
    if amax < ACTIVATION_FLOOR || !amax.is_finite() {
        hi.fill(0);
        lo.fill(0);
        return if amax.is_finite() { 0.0 } else { f32::from_bits(0x7fc0_0000) };
    }
    let inverse = recip(amax) * precision.steps();
    for (i, &x) in x.iter().enumerate() {
        let q = (super::flush(x, super::RESULT_FLOOR) * inverse).round_ties_even() as i32;
        match precision {
            Precision::Fast => hi[i] = q as i8,
            Precision::Precise => {
                let high = (q + 128) >> 8;
                hi[i] = high as i8;
                lo[i] = (q - 256 * high) as i8;
            }
        }
    }
    amax * precision.inverse_steps()
}
