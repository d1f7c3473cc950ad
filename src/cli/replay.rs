//! `samebits replay`.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::error::{Failure, Interrupted, Unfit};
use super::hint::Hinted;
use super::load::{BackendName, ModelArguments, PrecisionName, Purpose, RunArguments};
use super::terminal::{note, print, print_json};
use super::text;
use super::trace::beside_the_cpu;
use super::values::not_empty;
use crate::grammar::Constraints;
use crate::numerics::Precision;
use crate::record::{Record, ReplayError, replay};

#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 equal, 1 something differs, 2 nothing could be compared: the record was changed, it is of another model or \
numerics version, or an error came before."
)]
pub(super) struct Arguments {
    /// The record, from `generate --record` or `/save` of a chat; - is standard input
    #[arg(value_name = "FILE")]
    record: PathBuf,
    #[command(flatten)]
    model: ModelArguments,
    /// Where to compute: auto takes a real GPU if there is one, otherwise the CPU; gpu takes a software adapter too
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME", value_parser = not_empty)]
    device: Option<String>,
    /// CPU threads, no more than this process may use [default: the physical cores among those]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Tokens of the prompt that are computed at once; does not change a bit [default: 512, on a software adapter 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    chunk: Option<u16>,
    /// Feed the first N tokens of each text as they were recorded, and make the others; texts of fewer are made whole
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: usize,
    /// Where something differs, compare the steps that lead there with those of the CPU, and name the first that is not the same
    #[arg(long)]
    trace: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    match compare(a) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Replay.into()),
        Err(error) if error.is::<Interrupted>() || matches!(error.downcast_ref(), Some(Failure::Stdout(_))) => {
            Err(error)
        }
        Err(error) => Err(Unfit(error).into()),
    }
}

/// Whether all is as recorded; what is not has been said.
fn compare(a: &Arguments) -> Result<bool, Box<dyn Error>> {
    let name = a.record.display().to_string();
    let unfit = |error: &dyn std::fmt::Display| Failure::Record { name: name.clone(), reason: error.to_string() };
    let record = Record::from_bytes(text::read(&a.record)?.as_bytes()).map_err(|e| unfit(&e))?;
    if record.texts.is_empty() {
        return Err(unfit(&"it has no texts").into());
    }
    let longest = record.texts.iter().map(|t| t.tokens.len()).max().unwrap_or(0);
    if a.from > 0 && a.from >= longest {
        return Err(unfit(&format!("--from {} is behind its longest text, of {longest} tokens", a.from)).into());
    }
    let model = a.model.open(a.quiet)?;
    record.check(&a.model.facts(&model, a.quiet)).map_err(|e| unfit(&Hinted(&e)))?;
    let tokenizer = a.model.tokenizer(&model.gguf, a.quiet)?;
    let run = RunArguments {
        backend: a.backend,
        device: a.device.clone(),
        precision: match record.precision {
            Precision::Fast => PrecisionName::Fast,
            Precision::Precise => PrecisionName::Precise,
        },
        context: Some(u32::try_from(record.context).map_err(|e| unfit(&e))?),
        threads: a.threads,
        chunk: a.chunk,
        quiet: a.quiet,
    };
    let (mut session, signal) = super::load::session(&model, &run, Purpose::Texts)?;
    let (mut made, mut found, constraints) = (0, None, Constraints::default());
    for (index, text) in record.texts.iter().enumerate() {
        let constraint = constraints.of(text.request.grammar.as_ref(), &tokenizer)?;
        let from = if a.from < text.tokens.len() { a.from } else { 0 };
        made += text.tokens.len() - from;
        let mut hear = |_| if signal.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        match replay(text, from, &mut session, &tokenizer, constraint, &mut hear) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                found = Some((index, difference));
                break;
            }
            Err(ReplayError::Interrupted) => return Err(Interrupted.into()),
            Err(error) => return Err(unfit(&error).into()),
        }
    }
    let (backend, adapter) = (session.backend().name(), session.backend().device());
    drop(session);
    let mut traced = Vec::new();
    if let Some((index, difference)) = found.as_ref().filter(|_| a.trace && backend != "cpu") {
        let text = &record.texts[*index];
        let made = text.tokens.iter().take(difference.token);
        let tokens: Vec<_> = text.request.prompt.iter().chain(made).copied().collect();
        let plan = model.for_context(record.context).plan(record.precision)?;
        traced = beside_the_cpu(&model, &plan, &tokens, &run, &signal)?;
    }
    if a.json {
        let difference = found.as_ref().map(
            |(text, d)| json!({"text": text, "token": d.token, "what": d.what, "recorded": d.recorded, "now": d.now}),
        );
        print_json(&json!({
            "equal": found.is_none(),
            "difference": difference,
            "fingerprint": record.fingerprint,
            "texts": record.texts.len(),
            "backend": backend,
            "adapter": adapter,
            "trace": traced.iter().map(|v| json!({"equal": v.equal, "text": v.text})).collect::<Vec<_>>(),
        }))?;
    }
    match &found {
        None if a.json => {}
        None => {
            let (s, t) = (if record.texts.len() == 1 { "" } else { "s" }, if made == 1 { "" } else { "s" });
            print(&format!("equal: {} text{s}, {made} token{t} and all their logits", record.texts.len()))?;
        }
        Some((text, difference)) => {
            let of = if record.texts.len() == 1 { String::new() } else { format!("text {text}: ") };
            if !a.json {
                print(&format!("different: {of}{difference}"))?;
                traced.iter().try_for_each(|v| print(&format!("{backend} {}", v.text)))?;
            }
            if !a.quiet {
                let by = &record.made_by;
                let driver = by.driver.as_deref().map_or(String::new(), |driver| format!(", {driver}"));
                note!("recorded on {} ({}{driver}) by {}", by.backend, by.adapter, by.program);
                match () {
                    () if a.trace && backend == "cpu" => {
                        note!(
                            "--trace compares with the CPU, which computed this: `samebits trace --against` compares machines"
                        )
                    }
                    () if a.trace && traced.iter().all(|v| v.equal) => {
                        note!(
                            "the CPU of this machine computes the same: the machine that recorded this computes otherwise"
                        )
                    }
                    () => note!("`samebits verify` shows which of this machine's computations are not those of others"),
                }
            }
        }
    }
    Ok(found.is_none())
}
