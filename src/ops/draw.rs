//! A token drawn from logits: the largest by top-k, top-p and min-p, then by chance at a temperature.

use bytemuck::{Pod, Zeroable};

use crate::numerics::{exp, recip, s8};
pub use crate::shaders::{DRAW as SHADER, params::Draw as Params};

/// The largest `top_k` that the shader takes.
pub const MOST: usize = 256;

/// How to draw.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Options {
    /// Keep so many of the largest; 0 keeps all.
    pub top_k: u32,
    /// Keep the largest that together have this probability (Holtzman et al. 2020).
    pub top_p: f32,
    /// Keep those with at least this share of the largest probability (Nguyen et al. 2024).
    pub min_p: f32,
    /// One over the temperature.
    pub inverse_temperature: f32,
}

impl Options {
    /// At this temperature, which is positive.
    pub fn new(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> Self {
        let top_k = u32::try_from(top_k).unwrap_or(0);
        Self { top_k, top_p, min_p, inverse_temperature: recip(temperature.clamp(1e-4, 1e4)) }
    }

    /// Whether the shader takes them.
    pub fn on_device(&self) -> bool {
        (1..=MOST as u32).contains(&self.top_k)
    }
}

/// Draws from `logits` (finite, not empty) by `draw`, a number from 0 to below 1. The order is llama.cpp's: top-k, top-p,
/// min-p, temperature. Ties go to the lower id.
pub fn cpu(logits: &[f32], o: &Options, draw: f32) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |id: u32| logits[id as usize];
    let best_first = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
    let top_k = o.top_k as usize;
    if top_k > 0 && top_k < order.len() {
        order.select_nth_unstable_by(top_k - 1, best_first);
        order.truncate(top_k);
    }
    order.sort_unstable_by(best_first);
    let top = logit(order[0]);
    let weights: Vec<f32> = order.iter().map(|id| exp(logit(*id) - top)).collect();
    let total = s8::sum_of(&weights, |w| w);
    let (mut kept, mut sum) = (0, 0.0);
    while kept < order.len() && (kept == 0 || (sum < o.top_p * total && weights[kept] >= o.min_p)) {
        sum += weights[kept];
        kept += 1;
    }
    let scaled: Vec<f32> = order[..kept].iter().map(|id| exp((logit(*id) - top) * o.inverse_temperature)).collect();
    let drawn = draw * scaled.iter().sum::<f32>();
    let mut sum = 0.0;
    for (id, weight) in order.iter().zip(&scaled) {
        sum += weight;
        if drawn < sum {
            return *id;
        }
    }
    order[kept - 1]
}

/// Workgroups for a row.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}
