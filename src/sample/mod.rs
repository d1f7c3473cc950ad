//! Chooses a token from logits, the same one on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::ops::{argmax, draw};

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

impl SamplerOptions {
    fn draw(&self) -> draw::Options {
        draw::Options::new(self.temperature, self.top_k, self.top_p, self.min_p)
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

    /// Whether the largest logit is always chosen.
    pub fn is_greedy(&self) -> bool {
        self.options.temperature <= 0.0 && self.options.repeat_penalty == 1.0
    }

    /// Chooses from `logits` (finite, one per token, not empty) after the tokens of `history`. The order is llama.cpp's:
    /// penalty, top-k, top-p, min-p, temperature. Ties go to the lower id.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let o = self.options;
        let penalised: Vec<f32>;
        let mut logits = logits;
        if o.repeat_penalty != 1.0 {
            penalised = penalise(logits, &history[history.len().saturating_sub(o.repeat_last_n)..], o.repeat_penalty);
            logits = &penalised;
        }
        if o.temperature <= 0.0 {
            return argmax::cpu(logits);
        }
        draw::cpu(logits, &o.draw(), self.next_draw())
    }

    /// How tokens are drawn, where that is by the logits and the generator alone.
    pub fn draw_options(&self) -> Option<draw::Options> {
        let o = &self.options;
        (o.temperature > 0.0 && o.repeat_penalty == 1.0).then(|| o.draw())
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

fn penalise(logits: &[f32], recent: &[u32], penalty: f32) -> Vec<f32> {
    let mut out = logits.to_vec();
    for id in recent {
        if let Some(x) = out.get_mut(*id as usize) {
            let original = logits[*id as usize];
            *x = if original > 0.0 { original / penalty } else { original * penalty };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Sampler, SamplerOptions};

    const GREEDY: SamplerOptions = SamplerOptions {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        seed: 1,
    };

    #[test]
    fn greedy_takes_the_lower_id_of_equals() {
        assert_eq!(Sampler::new(GREEDY).sample(&[1.0, 3.0, 3.0, 2.0], &[]), 1);
    }

    #[test]
    fn the_penalty_moves_the_choice() {
        let options = SamplerOptions { repeat_penalty: 2.0, ..GREEDY };
        assert_eq!(Sampler::new(options).sample(&[1.0, 3.0, 2.0], &[1]), 2);
        assert_eq!(Sampler::new(options).sample(&[-3.0, -2.0], &[1]), 0);
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = [0.0, 5.0, 4.0, 3.0];
        let drawn = |options: SamplerOptions| {
            let mut sampler = Sampler::new(options);
            let mut seen: Vec<u32> = (0..400).map(|_| sampler.sample(&logits, &[])).collect();
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
            (0..32).map(|_| sampler.sample(&[0.0; 64], &[])).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
