//! Options that say how tokens are chosen.

use clap::Args;

use super::terminal::note;
use super::values::{Limit, Seed, at_least_zero, penalty, share};
use crate::sample::{Order, SamplerOptions, Step};

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
    /// Which samplers are applied, in which order, with ; between them; the others are not. Without temperature tokens are drawn
    /// at temperature 1
    #[arg(long, value_name = "ORDER", default_value_t = Order::USUAL)]
    samplers: Order,
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
            ("--temp", self.temp.is_some(), Some(Step::Temperature)),
            ("--top-k", self.top_k.is_some(), Some(Step::TopK)),
            ("--top-p", self.top_p.is_some(), Some(Step::TopP)),
            ("--min-p", self.min_p.is_some(), Some(Step::MinP)),
            ("--repeat-penalty", self.repeat_penalty != 1.0, Some(Step::Penalties)),
            ("--seed", self.seed.is_some(), None),
        ];
        let given = given.into_iter().filter(|(_, given, _)| *given);
        let (left_out, applied): (Vec<_>, Vec<_>) =
            given.partition(|(_, _, step)| step.is_some_and(|step| !self.samplers.has(step)));
        let names = |list: &[(&str, bool, Option<Step>)]| list.iter().map(|g| g.0).collect::<Vec<_>>().join(", ");
        if !left_out.is_empty() && !quiet {
            note!("{} without effect: --samplers leaves that out", names(&left_out));
        }
        let cold = temperature <= 0.0 && self.samplers.has(Step::Temperature);
        let needless = |name: &str| ["--top-k", "--top-p", "--min-p", "--seed"].contains(&name);
        let needless: Vec<_> = applied.into_iter().filter(|(name, ..)| cold && needless(name)).collect();
        if !needless.is_empty() && !quiet {
            note!("{} without effect: --temp 0 always takes the likeliest token", names(&needless));
        }
        if drawn && !quiet {
            note!("seed: {seed}");
        }
        let usual = SamplerOptions::GREEDY;
        SamplerOptions {
            temperature,
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.0,
            seed,
            order: self.samplers,
        }
    }
}
