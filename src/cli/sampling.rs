//! Options that say how tokens are chosen.

use clap::Args;

use super::terminal::note;
use super::values::{Limit, Seed, at_least_zero, penalty, share};
use crate::sample::SamplerOptions;

#[derive(Args, Debug)]
pub(super) struct SamplingArguments {
    /// 0 always takes the likeliest token; higher is more varied [default: 0, in a chat 0.7]
    #[arg(long, value_name = "T", value_parser = at_least_zero)]
    temp: Option<f32>,
    /// Sample from the N likeliest tokens only; 0 for all [default: 40]
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Sample from the likeliest tokens that together have this probability [default: 0.95]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    top_p: Option<f32>,
    /// Drop tokens less likely than this share of the likeliest [default: 0.05]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_p: Option<f32>,
    /// Divide the logits of recent tokens by this; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = penalty)]
    repeat_penalty: f32,
    /// How many tokens count as recent; -1 for all
    #[arg(long, value_name = "N", default_value = "64")]
    repeat_last_n: Limit,
    /// Seed of the sampler; -1 draws one and says which [default: 0]
    #[arg(short, long, value_name = "N")]
    seed: Option<Seed>,
}

impl SamplingArguments {
    /// The options, with a seed that is said where it was drawn. What has no effect is said, too.
    pub fn options(&self, temperature: f32, quiet: bool) -> SamplerOptions {
        let temperature = self.temp.unwrap_or(temperature);
        let (seed, drawn) = self.seed.unwrap_or(Seed::Given(0)).value();
        let given = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if temperature <= 0.0 && !given.is_empty() && !quiet {
            note!("{} without effect: --temp 0 always takes the likeliest token", given.join(", "));
        }
        if drawn && !quiet {
            note!("seed: {seed}");
        }
        SamplerOptions {
            temperature,
            top_k: self.top_k.unwrap_or(40),
            top_p: self.top_p.unwrap_or(0.95),
            min_p: self.min_p.unwrap_or(0.05),
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.0,
            seed,
        }
    }
}
