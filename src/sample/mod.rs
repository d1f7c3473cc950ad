//! Chooses a token from logits, the same one on every machine.

mod chain;
mod order;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::ops::{argmax, draw};

pub use order::{Order, OrderError, Step};

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerOptions {
    /// 0 takes the largest logit.
    pub temperature: f32,
    /// Keep so many of the largest; 0 keeps all.
    pub top_k: usize,
    /// Keep the largest that together have this probability (Holtzman et al. 2020).
    pub top_p: f32,
    /// Keep those with at least this share of the largest probability (Nguyen et al. 2024).
    pub min_p: f32,
    /// Divide (or multiply, if negative) the logits of recent tokens (Keskar et al. 2019); 1 is off.
    pub repeat_penalty: f32,
    /// How many tokens are recent.
    pub repeat_last_n: usize,
    /// Seed of the ChaCha8 generator.
    pub seed: u64,
    /// Which of these are applied, and in which order.
    #[serde(rename = "samplers")]
    pub order: Order,
}

impl SamplerOptions {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        seed: 0,
        order: Order::USUAL,
    };

    /// Whether the penalty changes a logit.
    fn penalises(&self) -> bool {
        self.repeat_penalty != 1.0 && self.order.has(Step::Penalties)
    }

    /// Whether the largest logit is chosen, of those that are left.
    fn is_cold(&self) -> bool {
        self.temperature <= 0.0 && self.order.has(Step::Temperature)
    }
}

/// Some ids of a vocabulary, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask(Vec<u32>);

impl Mask {
    /// From words of 32 bits, the lowest ids in the first word, the lowest of these in its lowest bit.
    pub fn new(words: Vec<u32>) -> Self {
        Self(words)
    }

    /// Whether it has an id.
    pub fn has(&self, id: u32) -> bool {
        self.0.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Adds an id; nothing where that is beyond the last word.
    pub fn insert(&mut self, id: u32) {
        if let Some(word) = self.0.get_mut(id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }

    /// Takes an id out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.0.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Whether it has no id.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// A sampler with its generator.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    generator: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the start of its seed's sequence.
    pub fn new(options: SamplerOptions) -> Self {
        Self { options, generator: ChaCha8Rng::seed_from_u64(options.seed) }
    }

    /// Goes to where the sampler is after so many tokens.
    pub fn seek(&mut self, tokens: usize) {
        self.generator.set_word_pos(tokens as u128);
    }

    /// Whether the largest logit is always chosen.
    pub fn is_greedy(&self) -> bool {
        self.options.is_cold() && !self.options.penalises()
    }

    /// Chooses from `logits` (finite, one per token, not empty) after the tokens of `history`; only ids of `allowed`, where there is
    /// such a mask, which must have one. Ties go to the lower id. Every token takes one number of the generator.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], allowed: Option<&Mask>) -> u32 {
        let by_chance = self.next_draw();
        match self.draw_options() {
            None if self.is_greedy() && allowed.is_none() => argmax::cpu(logits),
            Some(options) if allowed.is_none() => draw::cpu(logits, &options, by_chance),
            _ => chain::sample(logits, history, allowed, &self.options, by_chance),
        }
    }

    /// How tokens are drawn, where that is by the logits and the generator alone, and in the order of [`draw::cpu`].
    pub fn draw_options(&self) -> Option<draw::Options> {
        let o = &self.options;
        let simple = !o.is_cold() && !o.penalises() && o.order.is_usual_but_for_penalties();
        simple.then(|| draw::Options::new(o.temperature, o.top_k, o.top_p, o.min_p))
    }

    /// The next number of the generator's sequence, from 0 to below 1.
    pub fn next_draw(&mut self) -> f32 {
        (self.generator.next_u32() >> 8) as f32 / 16_777_216.0
    }
}

/// The logarithms of the probabilities that softmax makes of finite logits, in f64: the same on every machine.
pub fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(*x) - f64::from(max))).sum();
    let log = libm::log(sum);
    logits.iter().map(|x| f64::from(*x) - f64::from(max) - log).collect()
}

#[cfg(test)]
mod tests {
    use super::{Sampler, SamplerOptions};

    /// Nothing is cut off.
    const GREEDY: SamplerOptions =
        SamplerOptions { top_k: 0, top_p: 1.0, min_p: 0.0, seed: 1, ..SamplerOptions::GREEDY };

    #[test]
    fn greedy_takes_the_lower_id_of_equals() {
        assert_eq!(Sampler::new(GREEDY).sample(&[1.0, 3.0, 3.0, 2.0], &[], None), 1);
    }

    #[test]
    fn the_penalty_moves_the_choice() {
        let options = SamplerOptions { repeat_penalty: 2.0, ..GREEDY };
        assert_eq!(Sampler::new(options).sample(&[1.0, 3.0, 2.0], &[1], None), 2);
        assert_eq!(Sampler::new(options).sample(&[-3.0, -2.0], &[1], None), 0);
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = [0.0, 5.0, 4.0, 3.0];
        let drawn = |options: SamplerOptions| {
            let mut sampler = Sampler::new(options);
            let mut seen: Vec<u32> = (0..400).map(|_| sampler.sample(&logits, &[], None)).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        let warm = SamplerOptions { temperature: 2.0, ..GREEDY };
        assert_eq!(drawn(warm), [0, 1, 2, 3]);
        assert_eq!(drawn(SamplerOptions { top_k: 2, ..warm }), [1, 2]);
        assert_eq!(drawn(SamplerOptions { top_p: 0.6, ..warm }), [1]);
        assert_eq!(drawn(SamplerOptions { min_p: 0.1, ..warm }), [1, 2, 3]);
    }

    #[test]
    fn a_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplerOptions { temperature: 1.0, seed, ..GREEDY });
            (0..32).map(|_| sampler.sample(&[0.0; 64], &[], None)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
