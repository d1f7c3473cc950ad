//! `samebits generate`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::chat::Answer;
use super::error::{Failure, Interrupted, Usage};
use super::load::{DraftArguments, ModelArguments, RunArguments, encode};
use super::make::{Keep, Made, Step, make};
use super::sampling::SamplingArguments;
use super::structure::StructureArguments;
use super::templates::TemplateArguments;
use super::terminal::{escape_json, generated, note, print_json, warning, write_out};
use super::text::PromptArguments;
use super::values::{Limit, stop_string};
use crate::chat::{self, Message, Template};
use crate::engine::{EngineError, Generator, Request, Session, StopReason};
use crate::grammar::{Constraints, Thinking};
use crate::output::Target;
use crate::record::Received;

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
    /// Stop string: the text ends before it; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = stop_string)]
    stop: Vec<String>,
    /// Go on behind tokens that end a text
    #[arg(long, conflicts_with_all = ["json_schema", "grammar", "regex"])]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    structure: StructureArguments,
    /// Write all that the text depends on, and what proves its bits, for `samebits replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Replace the file of --record if it exists
    #[arg(long, requires = "record")]
    force: bool,
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
    drafts: DraftArguments,
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let start = Instant::now();
    let inputs: Vec<_> = [a.model.file(a.run.quiet)?, a.prompt.input()].into_iter().flatten().collect();
    let record = a.record.as_deref().map(|path| Target::new(path, a.force, &inputs)).transpose()?;
    if record.as_ref().is_some_and(Target::is_stdout) {
        return Err(Usage::RecordOnStdout.into());
    }
    let text = a.prompt.read(Usage::NoPrompt)?;
    let model = a.model.open(a.run.quiet)?;
    let tokenizer = a.model.tokenizer(&model.gguf, a.run.quiet)?;
    let chat = a.chat || a.template.chat_template.is_some();
    let template = if chat { Some(a.template.open(&model.gguf, &tokenizer)?) } else { None };
    let (prompt, thinking) = match &template {
        Some(template) => {
            let prompt = template.prompt(&[Message::new("user", text.as_str())])?;
            (prompt.ids, template.thinking(&prompt.text))
        }
        None => (encode(&tokenizer, &text, a.run.quiet)?, Thinking::Never),
    };
    if !chat && !a.raw && !a.run.quiet && model.gguf.get(chat::KEY).is_some() {
        note!(
            "this model is made for conversations: `samebits chat` has them, --chat makes a message of the prompt, --raw is for neither"
        );
    }
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt.into());
    }
    let request = Request {
        prompt,
        max_tokens: a.n_predict.given(),
        ignore_eos: a.ignore_eos,
        stop: a.stop.clone(),
        sampling: a.sampling.options(0.0, a.run.quiet),
        grammar: a.structure.grammar(thinking)?,
    };
    let constraint = Constraints::default().of(request.grammar.as_ref(), &tokenizer)?;
    let (mut session, signal) = super::load::session(&model, &a.run, a.drafts.purpose())?;
    let load = start.elapsed();

    let keep = Keep { logprobs: a.logprobs.map(usize::from), record: record.is_some() };
    let mut index = 0;
    let generator = Generator::new(&tokenizer, request.clone(), constraint)?.thinking(thinking);
    let mut answer = (thinking != Thinking::Never).then(|| Answer::new(true, thinking, request.grammar.is_some()));
    let mut made = make(&mut session, &tokenizer, generator, keep, &signal, &mut |step| match (a.json, a.stream) {
        (false, _) => write_out(&answer.as_mut().map_or_else(|| generated(step.text), |a| a.piece(step.text))),
        (true, true) => line(&step, &mut index),
        (true, false) => Ok(()),
    })?;
    if !a.json {
        write_out(&answer.map_or_else(|| "\n".to_owned(), Answer::end))?;
    }
    report(a, &session, &request, &made, load)?;
    if let (Some(target), Some(recorder)) = (record, made.recorder.take()) {
        let received = Received { text, message: chat, pre: a.model.pre.clone() };
        let mut record = a.model.record(&model, &a.run, &session);
        record.template = template.as_ref().map(Template::facts);
        record.texts.push(recorder.finish(received, request, &made.text));
        target.write(&record.to_bytes()?)?;
        if !a.run.quiet {
            note!("record: {}", target.name());
        }
    }
    if made.text.stop_reason == StopReason::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
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

fn report(a: &Arguments, session: &Session, request: &Request, made: &Made, load: Duration) -> Result<(), Failure> {
    let (g, sampling) = (&made.text, &request.sampling);
    let first = made.first.map_or(load, |first| load + first);
    let (prefill, decode) = (g.timings.prefill.as_secs_f64(), g.timings.decode.as_secs_f64());
    let steps = g.tokens.len().saturating_sub(1);
    if a.json {
        let mut value = json!({
            "text": g.answer(),
            "prompt_tokens": request.prompt,
            "tokens": g.tokens,
            "seed": sampling.seed,
            "samplers": sampling.order,
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
        if let Some(thought) = g.thought() {
            value["thinking"] = thought.into();
        }
        if let Some(complete) = g.complete {
            value["complete"] = complete.into();
        }
        if let Some(drafts) = g.drafts {
            (value["drafted"], value["accepted"]) = (drafts.drafted.into(), drafts.accepted.into());
        }
        if a.logprobs.is_some() {
            value["logprobs"] = Value::Array(made.logprobs.clone());
        }
        if a.stream { write_out(&format!("{}\n", escape_json(&value.to_string())))? } else { print_json(&value)? }
    }
    if g.complete == Some(false) {
        warning!("the text is cut and does not have the form that was asked for");
    }
    if !a.run.quiet {
        let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let why = match g.stop_reason {
            StopReason::EndOfText => "end of text",
            StopReason::StopString => "a stop string (--stop)",
            StopReason::Complete => "it has the whole form",
            StopReason::Length => "as many tokens as asked for (-n)",
            StopReason::ContextFull => "the context is full (--ctx)",
            StopReason::Interrupted => "interrupted",
        };
        note!(
            "{} prompt tokens at {:.1}/s, {} new at {:.1}/s, first after {:.2} s; stopped: {why}",
            request.prompt.len(),
            rate(request.prompt.len(), prefill),
            g.tokens.len(),
            rate(steps, decode),
            first.as_secs_f64(),
        );
        if let Some(drafts) = g.drafts {
            note!("lookup: {} of {} drafted tokens held", drafts.accepted, drafts.drafted);
        }
        note!("logits hash: {}", g.logits_hash);
    }
    Ok(())
}
