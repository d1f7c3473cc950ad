//! Values of options, checked while the command line is read.

use std::str::FromStr;

/// A count, or `-1` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub usize);

impl Limit {
    /// The count; `None` without a limit.
    pub fn given(self) -> Option<usize> {
        Some(self.0).filter(|n| *n != usize::MAX)
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-1" => Ok(Self(usize::MAX)),
            _ => text
                .parse()
                .map(Self)
                .map_err(|_| "a whole number of at least 0 is needed, or -1 for no limit".to_owned()),
        }
    }
}

/// A seed; `-1` draws one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seed {
    Given(u64),
    Drawn,
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-1" => Ok(Self::Drawn),
            _ => text
                .parse()
                .map(Self::Given)
                .map_err(|_| format!("a whole number from 0 to {} is needed, or -1 to draw a seed", u64::MAX)),
        }
    }
}

impl Seed {
    /// The seed, and whether it was drawn just now.
    pub fn value(self) -> (u64, bool) {
        match self {
            Self::Given(seed) => (seed, false),
            // Each of these hashers has its own random keys, which the system gives. 32 bits are easily typed again.
            Self::Drawn => {
                use std::hash::{BuildHasher, RandomState};
                (RandomState::new().hash_one(std::process::id()) >> 32, true)
            }
        }
    }
}

/// A temperature.
pub(super) fn at_least_zero(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("a number of at least 0 is needed".to_owned()),
    }
}

/// A probability, or a share of one.
pub(super) fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("a number from 0 to 1 is needed".to_owned()),
    }
}

/// What logits are divided by: 0 and values near it or far from 1 leave nothing of them.
pub(super) fn penalty(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (0.01..=100.0).contains(&x) => Ok(x),
        _ => Err("a number from 0.01 to 100 is needed; 1 is off".to_owned()),
    }
}

/// A stop string.
pub(super) fn stop_string(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Text with something in it.
pub(super) fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_without_meaning_are_refused() {
        assert_eq!("-1".parse(), Ok(Limit(usize::MAX)));
        assert_eq!("0".parse(), Ok(Limit(0)));
        assert_eq!("7".parse(), Ok(Seed::Given(7)));
        assert_eq!("-1".parse(), Ok(Seed::Drawn));
        for wrong in ["-2", "", "x", "1.5", "99999999999999999999999"] {
            assert!(wrong.parse::<Limit>().is_err() && wrong.parse::<Seed>().is_err(), "{wrong}");
        }
        for wrong in ["-1", "nan", "inf", "-inf", "", "x", "1e999"] {
            assert!(at_least_zero(wrong).is_err() && share(wrong).is_err() && penalty(wrong).is_err(), "{wrong}");
        }
        assert!(
            penalty("0").is_err() && penalty("1e-30").is_err() && penalty("1e30").is_err() && penalty("1.1").is_ok()
        );
        assert!(share("1.01").is_err() && not_empty(" ").is_err());
    }
}
