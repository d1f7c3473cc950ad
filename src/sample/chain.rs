//! Samplers one after the other, in any order and under a mask. In the usual order and without a mask it chooses what
//! [`crate::ops::draw`] does.

use super::order::Step;
use super::{Mask, SamplerOptions};
use crate::numerics::{exp, s8};
use crate::ops::draw::Options;

/// The tokens that are left.
struct Candidates {
    /// Ids and logits; the likeliest first where `sorted`.
    list: Vec<(u32, f32)>,
    sorted: bool,
    /// What differences of logits are multiplied with, once the temperature was applied.
    scale: f32,
}

/// The likelier first, then the lower id.
fn best_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

impl Candidates {
    fn sort(&mut self) {
        if !self.sorted {
            self.list.sort_unstable_by(best_first);
            self.sorted = true;
        }
    }

    /// Keeps the `n` likeliest.
    fn keep(&mut self, n: usize) {
        if n < self.list.len() {
            if !self.sorted && n > 0 {
                self.list.select_nth_unstable_by(n - 1, best_first);
            }
            self.list.truncate(n);
        }
    }

    /// Shares of the likeliest's probability, the likeliest first.
    fn weights(&mut self) -> Vec<f32> {
        self.sort();
        let top = self.list.first().map_or(0.0, |(_, logit)| *logit);
        self.list.iter().map(|(_, logit)| exp((logit - top) * self.scale)).collect()
    }

    fn penalise(&mut self, recent: &[u32], penalty: f32) {
        let recent: std::collections::HashSet<_> = recent.iter().collect();
        for (id, logit) in &mut self.list {
            if recent.contains(id) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        self.sorted = false;
    }

    fn top_p(&mut self, share: f32) {
        let weights = self.weights();
        let total = s8::sum_of(&weights, |w| w);
        let (mut kept, mut sum) = (0, 0.0);
        while kept < weights.len() && (kept == 0 || sum < share * total) {
            sum += weights[kept];
            kept += 1;
        }
        self.list.truncate(kept);
    }

    fn min_p(&mut self, share: f32) {
        let weights = self.weights();
        let kept = weights.iter().take_while(|w| **w >= share).count();
        self.list.truncate(kept.max(1));
    }
}

/// Chooses from `logits` by `by_chance`, a number from 0 to below 1, among the ids of `allowed`. Ties go to the lower id.
pub(super) fn sample(
    logits: &[f32],
    history: &[u32],
    allowed: Option<&Mask>,
    o: &SamplerOptions,
    by_chance: f32,
) -> u32 {
    let all = logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit));
    let list: Vec<_> = all.filter(|(id, _)| allowed.is_none_or(|mask| mask.has(*id))).collect();
    let mut candidates = Candidates { list, sorted: false, scale: 1.0 };
    for step in o.order.steps() {
        match step {
            Step::Penalties if o.repeat_penalty != 1.0 => {
                candidates.penalise(&history[history.len().saturating_sub(o.repeat_last_n)..], o.repeat_penalty);
            }
            Step::TopK if o.top_k > 0 => candidates.keep(o.top_k),
            Step::TopP => candidates.top_p(o.top_p),
            Step::MinP => candidates.min_p(o.min_p),
            Step::Temperature if o.temperature <= 0.0 => candidates.keep(1),
            Step::Temperature => {
                candidates.scale = Options::new(o.temperature, 0, 1.0, 0.0).inverse_temperature;
            }
            Step::Penalties | Step::TopK => {}
        }
    }
    let weights = candidates.weights();
    let drawn = by_chance * weights.iter().sum::<f32>();
    let mut sum = 0.0;
    for ((id, _), weight) in candidates.list.iter().zip(&weights) {
        sum += weight;
        if drawn < sum {
            return *id;
        }
    }
    candidates.list.last().map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Order;
    use super::*;
    use crate::ops::{argmax, draw};

    fn options(order: &str) -> SamplerOptions {
        SamplerOptions {
            temperature: 0.8,
            order: order.parse().unwrap_or_else(|e| panic!("{e}")),
            ..SamplerOptions::GREEDY
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn in_the_usual_order_it_draws_what_the_device_does(
            logits in prop::collection::vec((-6i32..=6).prop_map(|x| x as f32), 1..200),
            top_k in prop::sample::select(vec![0usize, 1, 3, 40]),
            top_p in prop::sample::select(vec![0.0f32, 0.3, 0.95, 1.0]),
            min_p in prop::sample::select(vec![0.0f32, 0.05, 0.7, 1.0]),
            temperature in prop::sample::select(vec![0.1f32, 0.8, 1.0, 5.0]),
            chance in 0u32..1 << 24,
        ) {
            let chance = chance as f32 / 16_777_216.0;
            let o = SamplerOptions { temperature, top_k, top_p, min_p, ..SamplerOptions::GREEDY };
            let drawn = draw::cpu(&logits, &draw::Options::new(temperature, top_k, top_p, min_p), chance);
            prop_assert_eq!(sample(&logits, &[], None, &o, chance), drawn);
            let cold = SamplerOptions { temperature: 0.0, ..o };
            prop_assert_eq!(sample(&logits, &[], None, &cold, chance), argmax::cpu(&logits));
        }

        /// A mask is the same as a vocabulary without the other tokens.
        #[test]
        fn a_mask_comes_before_everything(
            logits in prop::collection::vec((-6i32..=6).prop_map(|x| x as f32), 1..100),
            words in prop::collection::vec(any::<u32>(), 4),
            history in prop::collection::vec(0u32..100, 0..10),
            temperature in prop::sample::select(vec![0.0f32, 0.8]),
            order in prop::sample::select(vec!["penalties;top_k;top_p;min_p;temperature", "temperature;min_p;top_p", ""]),
            chance in 0u32..1 << 24,
        ) {
            let chance = chance as f32 / 16_777_216.0;
            let mut mask = Mask::new(words);
            mask.insert(0);
            let o = SamplerOptions { temperature, top_k: 5, repeat_penalty: 1.5, ..options(order) };
            let ids: Vec<u32> = (0..logits.len() as u32).filter(|id| mask.has(*id)).collect();
            let fewer: Vec<f32> = ids.iter().map(|id| logits[*id as usize]).collect();
            let place = |id: &u32| ids.iter().position(|own| own == id);
            let recent: Vec<u32> = history.iter().map(|id| place(id).map_or(u32::MAX, |at| at as u32)).collect();
            let expected = ids[sample(&fewer, &recent, None, &o, chance) as usize];
            prop_assert_eq!(sample(&logits, &history, Some(&mask), &o, chance), expected);
        }
    }

    /// What is drawn with many numbers.
    fn drawn(logits: &[f32], history: &[u32], o: &SamplerOptions) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..512).map(|i| sample(logits, history, None, o, i as f32 / 512.0)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn the_order_matters_and_what_is_left_out_is_not_applied() {
        let logits = [0.0, 3.0, 2.0, 1.0];
        let hot = |order| SamplerOptions { temperature: 10.0, top_p: 0.6, min_p: 0.0, top_k: 0, ..options(order) };
        assert_eq!(drawn(&logits, &[], &hot("top_p;temperature")), [1]);
        assert_eq!(drawn(&logits, &[], &hot("temperature;top_p")), [1, 2, 3]);
        assert_eq!(drawn(&logits, &[], &hot("temperature")), [0, 1, 2, 3]);
        // Without a temperature the draw is by the model's own probabilities, at whatever --temp.
        let cold = |order| SamplerOptions { temperature: 0.0, top_k: 2, repeat_penalty: 9.0, ..options(order) };
        assert_eq!(drawn(&logits, &[], &cold("top_k")), [1, 2]);
        assert_eq!(drawn(&logits, &[], &cold("top_k;temperature")), [1]);
        // A penalty that comes first decides which are the largest; one that comes later only who of them wins.
        assert_eq!(drawn(&logits, &[1], &cold("penalties;top_k;temperature")), [2]);
        assert_eq!(drawn(&logits, &[1, 2], &cold("penalties;top_k;temperature")), [3]);
        assert_eq!(drawn(&logits, &[1, 2], &cold("top_k;penalties;temperature")), [1]);
        assert_eq!(drawn(&logits, &[1, 2], &SamplerOptions { order: Order::USUAL, ..cold("") }), [3]);
    }
}
