//! Which samplers are applied, in which order: llama.cpp's `--samplers`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What can be done to the logits before a token is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Logits of recent tokens are divided by the penalty.
    Penalties,
    /// The `top_k` largest stay.
    TopK,
    /// The largest that together have a probability of `top_p` stay.
    TopP,
    /// Those with at least `min_p` of the largest probability stay.
    MinP,
    /// Logits are divided by the temperature.
    Temperature,
}

/// All of them by name, in the usual order.
const STEPS: [(&str, Step); 5] = [
    ("penalties", Step::Penalties),
    ("top_k", Step::TopK),
    ("top_p", Step::TopP),
    ("min_p", Step::MinP),
    ("temperature", Step::Temperature),
];

/// Why a text is no order.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum OrderError {
    #[error("sampler '{0}' is unknown; known are {list}", list = STEPS.map(|(name, _)| name).join(", "))]
    Unknown(String),
    #[error("sampler '{0}' stands there twice")]
    Twice(&'static str),
}

/// Samplers in the order in which they are applied; those left out are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Order([Option<Step>; STEPS.len()]);

impl Order {
    /// llama.cpp's order: penalties, top-k, top-p, min-p, temperature.
    pub const USUAL: Self =
        Self([Some(Step::Penalties), Some(Step::TopK), Some(Step::TopP), Some(Step::MinP), Some(Step::Temperature)]);

    /// The samplers, first to last.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        self.0.into_iter().flatten()
    }

    /// Whether a sampler is applied.
    pub fn has(&self, step: Step) -> bool {
        self.0.contains(&Some(step))
    }

    /// Whether all others are applied in the usual order.
    pub(super) fn is_usual_but_for_penalties(&self) -> bool {
        let others = |order: &Self| order.steps().filter(|s| *s != Step::Penalties).collect::<Vec<_>>();
        others(self) == others(&Self::USUAL)
    }
}

impl Default for Order {
    fn default() -> Self {
        Self::USUAL
    }
}

impl FromStr for Order {
    type Err = OrderError;

    /// Names with `;` between them, as in llama.cpp, or `,`.
    fn from_str(text: &str) -> Result<Self, OrderError> {
        let mut order = Self([None; STEPS.len()]);
        let names = text.split([';', ',']).map(str::trim).filter(|name| !name.is_empty());
        for (i, name) in names.enumerate() {
            let known = STEPS.iter().find(|(known, _)| *known == name);
            let (name, step) = *known.ok_or_else(|| OrderError::Unknown(name.to_owned()))?;
            if order.has(step) {
                return Err(OrderError::Twice(name));
            }
            order.0[i] = Some(step);
        }
        Ok(order)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |step| STEPS.iter().find(|(_, s)| *s == step).map_or("", |(name, _)| *name);
        f.write_str(&self.steps().map(name).collect::<Vec<_>>().join(";"))
    }
}

impl From<Order> for String {
    fn from(order: Order) -> Self {
        order.to_string()
    }
}

impl TryFrom<String> for Order {
    type Error = OrderError;

    fn try_from(text: String) -> Result<Self, OrderError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_its_text() {
        assert_eq!(Order::USUAL.to_string(), "penalties;top_k;top_p;min_p;temperature");
        for text in ["", "temperature", "temperature;top_p", "min_p;top_k;penalties", &Order::USUAL.to_string()] {
            assert_eq!(text.parse::<Order>().map(|o| o.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(" top_p, top_k ".parse::<Order>().map(|o| o.to_string()), Ok("top_p;top_k".to_owned()));
        assert_eq!("top_k;top_k".parse::<Order>(), Err(OrderError::Twice("top_k")));
        for unknown in ["dry", "xtc", "top_n_sigma", "typ_p", "top-k", "x"] {
            assert_eq!(unknown.parse::<Order>(), Err(OrderError::Unknown(unknown.to_owned())));
        }
    }
}
