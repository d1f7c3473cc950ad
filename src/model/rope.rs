//! Tables of RoPE angles from metadata: bases and the ways to stretch them.

use super::metadata::Metadata;
use super::{Config, ModelError, weight};
use crate::plan::Angles;

/// The tensor that divides frequencies: Llama 3's way to longer contexts.
const FREQUENCIES: &str = "rope_freqs.weight";
/// LongRoPE's factors, for contexts up to the original length and beyond.
const LONG: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// Which tensors divide the frequencies of an architecture.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Factors {
    /// Nowhere.
    None,
    /// [`FREQUENCIES`], and with the type `longrope` [`LONG`].
    Tensors,
    /// [`FREQUENCIES`] alone.
    Frequencies,
    /// [`LONG`], where the file has them, whatever the type says.
    Long,
}

/// The tensors that a file's frequencies are divided by, whatever the context.
pub(super) fn tensors(meta: Metadata<'_>, factors: Factors) -> Result<Vec<&'static str>, ModelError> {
    let long = if is_long(factors, kind(meta)?) { &LONG[..] } else { &[] };
    let one = matches!(factors, Factors::Tensors | Factors::Frequencies).then_some(FREQUENCIES);
    Ok(one.into_iter().chain(long.iter().copied()).collect())
}

/// The way to stretch the table that the file names.
fn kind(meta: Metadata<'_>) -> Result<&str, ModelError> {
    let name = "rope.scaling.type";
    if meta.has(name) { Ok(meta.gguf.get_str(&meta.key(name))?) } else { Ok("linear") }
}

fn is_long(factors: Factors, kind: &str) -> bool {
    factors == Factors::Long || (factors == Factors::Tensors && kind == "longrope")
}

/// The table of a base, scaled as the file says, for a context of so many positions.
pub(super) fn scaled(
    meta: Metadata<'_>,
    config: &Config,
    base: f64,
    factors: Factors,
    context: usize,
) -> Result<Angles, ModelError> {
    let mut angles = unscaled(config, base);
    scale(meta, &mut angles, base, factors, context)?;
    if matches!(factors, Factors::Tensors | Factors::Frequencies) {
        divide(meta, &mut angles.frequencies, FREQUENCIES)?;
    }
    if let Some(bad) = angles.frequencies.iter().chain([&angles.magnitude]).find(|f| !f.is_finite()) {
        let reason = "the frequencies of RoPE must be finite numbers; its factors are damaged";
        return Err(ModelError::Metadata { key: meta.key("rope"), value: bad.to_string(), reason });
    }
    Ok(angles)
}

/// The table of a base, without any scaling.
pub(super) fn unscaled(config: &Config, base: f64) -> Angles {
    Angles::of(base, config.rope_dimensions)
}

/// Stretches a table as `rope.scaling` says.
fn scale(
    meta: Metadata<'_>,
    angles: &mut Angles,
    base: f64,
    factors: Factors,
    context: usize,
) -> Result<(), ModelError> {
    angles.magnitude = meta.positive("rope.scaling.attn_factor", 1.0)?;
    let frequencies = &mut angles.frequencies;
    // As in llama.cpp: a factor without a type is linear, a factor of 0 is none, and `scale_linear` is the old name.
    let factor = |default: f64| -> Result<f64, ModelError> {
        let given = meta.optional_number("rope.scaling.factor")?;
        Ok(given.or(meta.optional_number("rope.scale_linear")?).unwrap_or(default))
    };
    let original = |default: f64| -> Result<f64, ModelError> {
        Ok(meta.optional_count("rope.scaling.original_context_length")?.map_or(default, |n| n as f64))
    };
    let trained = meta.count("context_length", None)? as f64;
    let kind = kind(meta)?;
    let long = is_long(factors, kind);
    if long {
        let name = LONG[usize::from(context as f64 > original(trained)?)];
        if kind == "longrope" && meta.gguf.tensor(name).is_none() {
            return Err(ModelError::MissingTensor(name.to_owned()));
        }
        divide(meta, frequencies, name)?;
    }
    match kind {
        "none" => {}
        "longrope" if long => {}
        "linear" => {
            let factor = factor(1.0)?;
            frequencies.iter_mut().for_each(|f| *f /= factor);
        }
        "yarn" => {
            let (factor, original) = (factor(1.0)?, original(trained)?);
            yarn(frequencies, base, factor, original);
            // Where the file says how, the scores carry the magnitude instead (`latent_scale`).
            if factor > 1.0 && meta.optional_number(MULTIPLIER)?.is_none() {
                angles.magnitude *= 0.1 * libm::log(factor) + 1.0;
            }
        }
        "llama3" => {
            let factor = factor(8.0)?;
            let low = meta.positive("rope.scaling.low_freq_factor", 1.0)?;
            let high = meta.positive("rope.scaling.high_freq_factor", 4.0)?;
            let original = original(8192.0)?;
            frequencies.iter_mut().for_each(|f| *f = llama3_scaled(*f, factor, low, high, original));
        }
        other => {
            let (key, value) = (meta.key("rope.scaling.type"), format!("{other:?}"));
            let reason = match factors {
                Factors::Tensors | Factors::Long => "supported: none, linear, yarn, longrope, llama3",
                Factors::None | Factors::Frequencies => "supported: none, linear, yarn, llama3",
            };
            return Err(ModelError::Metadata { key, value, reason });
        }
    }
    Ok(())
}

/// DeepSeek's factor of the magnitude of YaRN in the scores, which counts for latent attention alone.
pub(super) const MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";

/// What YaRN multiplies the scores of latent attention by.
pub(super) fn latent_scale(meta: Metadata<'_>) -> Result<f64, ModelError> {
    let factor = meta.optional_number("rope.scaling.factor")?.unwrap_or(1.0);
    if kind(meta)? != "yarn" || factor <= 1.0 {
        return Ok(1.0);
    }
    let magnitude = 1.0 + meta.optional_number(MULTIPLIER)?.unwrap_or(0.1) * libm::log(factor);
    Ok(magnitude * magnitude)
}

/// Divides frequencies by the numbers of a tensor, where the file has it.
fn divide(meta: Metadata<'_>, frequencies: &mut [f64], name: &str) -> Result<(), ModelError> {
    let Some(factors) = weight(meta.gguf, name, 1, frequencies.len())? else { return Ok(()) };
    let mut values = vec![0.0; frequencies.len()];
    if let Some(tensor) = meta.gguf.tensor(name) {
        factors.format.dequantize(meta.gguf.data(tensor), &mut values);
    }
    for (frequency, factor) in frequencies.iter_mut().zip(values) {
        *frequency /= f64::from(factor);
    }
    Ok(())
}

/// YaRN (Peng et al. 2023): long wavelengths slow down by `factor`, short ones stay, between 32 turns and 1 within the original context
/// they change over.
fn yarn(frequencies: &mut [f64], base: f64, factor: f64, original: f64) {
    let n = 2.0 * frequencies.len() as f64;
    let pair = |turns: f64| n * libm::log(original / (2.0 * std::f64::consts::PI * turns)) / (2.0 * libm::log(base));
    let low = libm::floor(pair(32.0)).max(0.0);
    let high = libm::ceil(pair(1.0)).min(n - 1.0);
    for (p, f) in frequencies.iter_mut().enumerate() {
        let keep = 1.0 - ((p as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        *f *= (1.0 - keep) / factor + keep;
    }
}

/// The Llama 3.1 scaling of one frequency: long wavelengths slow down by `factor`, short ones stay.
fn llama3_scaled(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / frequency;
    if wavelength < original / high {
        return frequency;
    }
    if wavelength > original / low {
        return frequency / factor;
    }
    let smooth = (original / wavelength - low) / (high - low);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}
