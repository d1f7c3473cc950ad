//! `samebits generate`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::error::{Failure, Interrupted};
use super::load::{ModelArguments, RunArguments, encode};
use super::make::{Made, Step, Wanted, make};
use super::sampling::SamplingArguments;
use super::templates::TemplateArguments;
use super::terminal::{escape_json, generated, note, print_json, write_out};
use super::text::PromptArguments;
use super::values::{Limit, stop_string};
use crate::chat::{self, Message};
use crate::engine::{EngineError, Session, StopReason};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    prompt: PromptArguments,
    /// Take the text as a message to the model, as `samebits chat` does: its chat template makes the prompt
    #[arg(long)]
    chat: bool,
    /// Continue the text as it is, without a word of the model's chat template
    #[arg(long, conflicts_with_all = ["chat", "chat_template"])]
    raw: bool,
    #[command(flatten)]
    template: TemplateArguments,
    /// Tokens to make at most; -1 for as many as the model wants and the context holds
    #[arg(short = 'n', long, value_name = "N", default_value = "128")]
    n_predict: Limit,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = stop_string)]
    stop: Vec<String>,
    /// Go on behind tokens that end a text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
    /// With --json: a line of JSON for each token, then one for the whole
    #[arg(long, requires = "json")]
    stream: bool,
    /// With --json: the log-probability of every token, and of the N likeliest in its place
    #[arg(long, value_name = "N", requires = "json", value_parser = clap::value_parser!(u8).range(0..=100))]
    logprobs: Option<u8>,
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let start = Instant::now();
    let text = a.prompt.read()?;
    let model = a.model.open(a.run.quiet)?;
    let tokenizer = a.model.tokenizer(&model.gguf, a.run.quiet)?;
    let chat = a.chat || a.template.chat_template.is_some();
    let prompt = if chat {
        a.template.open(&model.gguf, &tokenizer)?.prompt(&[Message::new("user", text)])?.ids
    } else {
        encode(&tokenizer, &text, a.run.quiet)?
    };
    if !chat && !a.raw && !a.run.quiet && model.gguf.get(chat::KEY).is_some() {
        note!(
            "this model is made for conversations: `samebits chat` has them, --chat makes a message of the prompt, --raw is for neither"
        );
    }
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt.into());
    }
    let (mut session, signal) = super::load::session(&model, &a.run, false)?;
    let load = start.elapsed();

    let wanted = Wanted {
        limit: a.n_predict.0,
        sampling: a.sampling.options(0.0, a.run.quiet),
        stops: &a.stop,
        ignore_end: a.ignore_eos,
        logprobs: a.logprobs.map(usize::from),
    };
    let mut index = 0;
    let made = make(&mut session, &tokenizer, &prompt, &wanted, &signal, &mut |step| match (a.json, a.stream) {
        (false, _) => write_out(&generated(step.text)),
        (true, true) => line(&step, &mut index),
        (true, false) => Ok(()),
    })?;
    if !a.json {
        write_out("\n")?;
    }
    report(a, &session, &prompt, &made, wanted.sampling.seed, load)?;
    if made.generation.stop_reason == StopReason::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

/// A token as a line of JSON.
fn line(step: &Step<'_>, index: &mut usize) -> Result<(), Failure> {
    if step.token.is_none() && step.text.is_empty() {
        return Ok(());
    }
    let mut value = json!({"index": *index, "token": step.token, "text": step.text});
    if let Some(logprobs) = step.logprobs {
        value["logprobs"] = logprobs.clone();
    }
    *index += usize::from(step.token.is_some());
    write_out(&format!("{}\n", escape_json(&value.to_string())))
}

fn report(
    a: &Arguments,
    session: &Session,
    prompt: &[u32],
    made: &Made,
    seed: u64,
    load: Duration,
) -> Result<(), Failure> {
    let g = &made.generation;
    let first = made.first.map_or(load, |first| load + first);
    let (prefill, decode) = (g.timings.prefill.as_secs_f64(), g.timings.decode.as_secs_f64());
    let steps = g.tokens.len().saturating_sub(1);
    if a.json {
        let mut value = json!({
            "text": made.text,
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
        });
        if a.logprobs.is_some() {
            value["logprobs"] = Value::Array(made.logprobs.clone());
        }
        if a.stream { write_out(&format!("{}\n", escape_json(&value.to_string())))? } else { print_json(&value)? }
    }
    if !a.run.quiet {
        let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let why = match g.stop_reason {
            StopReason::EndOfText => "end of text",
            StopReason::StopString => "a text to end at (--stop)",
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
