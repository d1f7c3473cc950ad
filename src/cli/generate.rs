//! `samebits generate`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::error::{Failure, Interrupted};
use super::load::{ModelArguments, RunArguments, encode};
use super::terminal;
use super::terminal::{generated, note, print_json, write_out};
use super::text::PromptArguments;
use super::values::{Limit, Seed, at_least_zero, penalty, share};
use crate::backend::Chooser;
use crate::engine::{Choice, EngineError, Generation, Session, StopReason};
use crate::sample::{Sampler, SamplerOptions};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    prompt: PromptArguments,
    /// Tokens to make at most; -1 for as many as the model wants and the context holds
    #[arg(short = 'n', long, value_name = "N", default_value = "128")]
    n_predict: Limit,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArguments,
}

/// How tokens are chosen.
#[derive(Args, Debug)]
pub(super) struct SamplingArguments {
    /// 0 always takes the likeliest token; higher is more varied
    #[arg(long, default_value_t = 0.0, value_parser = at_least_zero)]
    temp: f32,
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
    pub fn options(&self, quiet: bool) -> SamplerOptions {
        let (seed, drawn) = self.seed.unwrap_or(Seed::Given(0)).value();
        let given = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if self.temp <= 0.0 && !given.is_empty() && !quiet {
            note!("{} without effect: --temp 0 always takes the likeliest token", given.join(", "));
        }
        if drawn && !quiet {
            note!("seed: {seed}");
        }
        SamplerOptions {
            temperature: self.temp,
            top_k: self.top_k.unwrap_or(40),
            top_p: self.top_p.unwrap_or(0.95),
            min_p: self.min_p.unwrap_or(0.05),
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.0,
            seed,
        }
    }
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let start = Instant::now();
    let text = a.prompt.read()?;
    let model = a.model.open()?;
    let tokenizer = a.model.tokenizer(&model.gguf, a.run.quiet)?;
    let prompt = encode(&tokenizer, &text, a.run.quiet)?;
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt.into());
    }
    let (mut session, signal) = super::load::session(&model, &a.run, false)?;
    let load = start.elapsed();

    let options = a.sampling.options(a.run.quiet);
    let mut sampler = Sampler::new(options);
    let mut text = String::new();
    let mut stream = tokenizer.stream();
    let mut failed = None;
    let mut write = |piece: &str| {
        text.push_str(piece);
        if a.json { Ok(()) } else { write_out(&generated(piece)) }
    };
    let mut first = None;
    let (mut draw, mut sample);
    let choice = match sampler.draw_options() {
        _ if sampler.is_greedy() => Choice::Ahead(Chooser::Greedy),
        Some(options) => {
            draw = || sampler.next_draw();
            Choice::Ahead(Chooser::Draw(options, &mut draw))
        }
        None => {
            sample = |logits: &[f32], history: &[u32]| sampler.sample(logits, history);
            Choice::By(&mut sample)
        }
    };
    let generation = session.generate(
        &prompt,
        a.n_predict.0,
        choice,
        |token| tokenizer.is_end_of_generation(token),
        |token| {
            first.get_or_insert_with(|| start.elapsed());
            failed = write(&stream.push(token)).err();
            failed.is_none() && !signal.asked()
        },
    )?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    write(&stream.finish())?;
    if !a.json {
        terminal::write_out("\n")?;
    }
    report(a, &session, &prompt, &generation, &text, options.seed, load, first.unwrap_or_default())?;
    if generation.stop_reason == StopReason::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

fn report(
    a: &Arguments,
    session: &Session,
    prompt: &[u32],
    g: &Generation,
    text: &str,
    seed: u64,
    load: Duration,
    first: Duration,
) -> Result<(), Failure> {
    let (prefill, decode) = (g.timings.prefill.as_secs_f64(), g.timings.decode.as_secs_f64());
    let steps = g.tokens.len().saturating_sub(1);
    if a.json {
        print_json(&json!({
            "text": text,
            "prompt_tokens": prompt,
            "tokens": g.tokens,
            "seed": seed,
            "logits_hash": g.logits_hash,
            "stop_reason": g.stop_reason,
            "timings": {
                "load_seconds": load.as_secs_f64(),
                "first_token_seconds": first.as_secs_f64(),
                "prefill_seconds": prefill,
                "decode_seconds": decode,
            },
            "backend": session.backend().name(),
            "adapter": session.backend().device(),
        }))?;
    }
    if !a.run.quiet {
        let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let why = match g.stop_reason {
            StopReason::EndOfText => "end of text",
            StopReason::Length => "as many tokens as asked for (-n)",
            StopReason::ContextFull => "the context is full (--ctx)",
            StopReason::Interrupted => "interrupted",
        };
        note!(
            "{} prompt tokens at {:.1}/s, {} new at {:.1}/s, first after {:.2} s; stopped: {why}",
            prompt.len(),
            rate(prompt.len(), prefill),
            g.tokens.len(),
            rate(steps, decode),
            first.as_secs_f64(),
        );
        note!("logits hash: {}", g.logits_hash);
    }
    Ok(())
}
