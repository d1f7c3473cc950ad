//! `samebits perplexity`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::error::{Interrupted, Usage};
use super::load::{ModelArguments, Purpose, RunArguments};
use super::terminal::{note, print, print_json};
use super::{Outcome, text};
use crate::engine::perplexity;
use crate::tokenizer::EncodeOptions;

/// Window where the user asks for none, as in llama.cpp.
const DEFAULT_WINDOW: u32 = 512;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The text, UTF-8; - is standard input, which is read without -f, too. It is cut into windows of --ctx tokens [default: 512], the second half of each is
    /// scored
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Windows to score at most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let model = a.model.open(a.run.quiet)?;
    let tokenizer = a.model.tokenizer(&model.gguf, a.run.quiet)?;
    let text = match &a.file {
        Some(file) => text::read(file)?,
        None => text::piped(Usage::NoText)?,
    };
    let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false })?;
    let asked = a.run.context.or(Some(DEFAULT_WINDOW.min(u32::try_from(model.config.context_length)?)));
    let options = RunArguments { context: asked, ..a.run.clone() };
    let (mut session, signal) = super::load::session(&model, &options, Purpose::Logits)?;
    let window = options.context(&model);
    let limit = a.chunks.map_or(usize::MAX, |n| n as usize);
    let total = (ids.len() / window).min(limit);
    let mut running = Vec::new();
    let result = perplexity(&mut session, &ids, window, tokenizer.bos_to_add(), limit, |p| {
        running.push(p.value());
        if !a.run.quiet {
            note!("window {} of {total}: {:.4} ± {:.4}", p.chunks, p.value(), p.error());
        }
        !signal.asked()
    })?;
    let interrupted = result.chunks < total;
    // Of no window nothing is known.
    let known = |value: f64| Some(value).filter(|_| result.chunks > 0);
    if a.json {
        print_json(&json!({
            "perplexity": known(result.value()),
            "error": known(result.error()),
            "mean_nll": known(result.mean_nll()),
            "predictions": result.predictions,
            "windows": result.chunks,
            "windows_in_text": total,
            "interrupted": interrupted,
            "context": window,
            "tokens": ids.len(),
            "running": running,
            "backend": session.backend().name(),
            "adapter": session.backend().device(),
        }))?;
    } else if result.chunks == 0 {
        print(&format!("interrupted: none of {total} windows was scored"))?;
    } else {
        let (value, error, n) = (result.value(), result.error(), result.chunks);
        let n = if interrupted { format!("interrupted after {n} of {total}") } else { n.to_string() };
        print(&format!("perplexity: {value:.4} ± {error:.4} ({n} windows of {window} tokens)"))?;
    }
    if interrupted { Err(Interrupted.into()) } else { Ok(()) }
}
