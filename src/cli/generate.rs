//! `samebits generate`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::load::{ModelArguments, RunArguments};
use super::{Outcome, print_json};
use crate::backend::Chooser;
use crate::engine::{Choice, EngineError, Generation, Session, StopReason};
use crate::sample::{Sampler, SamplerOptions};
use crate::tokenizer::{EncodeOptions, Tokenizer};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The text to continue
    #[arg(value_name = "PROMPT", required_unless_present = "prompt_flag")]
    prompt: Option<String>,
    /// The text to continue, as an option
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", conflicts_with = "prompt")]
    prompt_flag: Option<String>,
    /// Tokens to make at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    n_predict: usize,
    /// 0 always takes the likeliest token; higher is more varied
    #[arg(long, default_value_t = 0.0, value_parser = at_least_zero)]
    temp: f32,
    /// Sample from the N likeliest tokens only; 0 for all
    #[arg(long, value_name = "N", default_value_t = 40)]
    top_k: usize,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    top_p: f32,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    min_p: f32,
    /// Divide the logits of recent tokens by this; 1 is off
    #[arg(long, default_value_t = 1.0, value_parser = at_least_zero)]
    repeat_penalty: f32,
    /// How many tokens count as recent
    #[arg(long, value_name = "N", default_value_t = 64)]
    repeat_last_n: usize,
    /// Seed of the sampler
    #[arg(short, long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArguments,
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("a number of at least 0 is needed".to_owned()),
    }
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("a number from 0 to 1 is needed".to_owned()),
    }
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let start = Instant::now();
    let model = a.model.open()?;
    let tokenizer = Tokenizer::from_gguf(&model.gguf)?;
    let text = a.prompt.as_deref().or(a.prompt_flag.as_deref()).unwrap_or_default();
    let prompt = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true })?;
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt.into());
    }
    let mut session = super::load::session(&model, &a.run, false)?;
    let load = start.elapsed();

    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        // A second Ctrl-C does not wait for the token in progress.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;

    let mut sampler = Sampler::new(SamplerOptions {
        temperature: a.temp,
        top_k: a.top_k,
        top_p: a.top_p,
        min_p: a.min_p,
        repeat_penalty: a.repeat_penalty,
        repeat_last_n: a.repeat_last_n,
        seed: a.seed,
    });
    let mut out = std::io::stdout().lock();
    let mut text = String::new();
    let mut stream = tokenizer.stream();
    let mut failed = None;
    let mut write = |piece: &str, out: &mut dyn Write| {
        text.push_str(piece);
        if a.json { Ok(()) } else { out.write_all(piece.as_bytes()).and_then(|()| out.flush()) }
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
        a.n_predict,
        choice,
        |token| tokenizer.is_end_of_generation(token),
        |token| {
            first.get_or_insert_with(|| start.elapsed());
            if let Err(error) = write(&stream.push(token), &mut out) {
                failed = Some(error);
            }
            failed.is_none() && !interrupted.load(Ordering::Relaxed)
        },
    )?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    write(&stream.finish(), &mut out)?;
    if !a.json {
        writeln!(out)?;
    }
    drop(out);
    report(a, &session, &prompt, &generation, &text, load, first.unwrap_or_default())
}

fn report(
    a: &Arguments,
    session: &Session,
    prompt: &[u32],
    g: &Generation,
    text: &str,
    load: Duration,
    first: Duration,
) -> Outcome {
    let (prefill, decode) = (g.timings.prefill.as_secs_f64(), g.timings.decode.as_secs_f64());
    let steps = g.tokens.len().saturating_sub(1);
    if a.json {
        print_json(&json!({
            "text": text,
            "prompt_tokens": prompt,
            "tokens": g.tokens,
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
        eprintln!(
            "{} prompt tokens at {:.1}/s, {} new at {:.1}/s, first after {:.2} s; stopped: {why}",
            prompt.len(),
            rate(prompt.len(), prefill),
            g.tokens.len(),
            rate(steps, decode),
            first.as_secs_f64(),
        );
        eprintln!("logits hash: {}", g.logits_hash);
    }
    Ok(())
}
