//! `samebits perplexity`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::json;

use super::load::{ModelArguments, RunArguments};
use super::{Outcome, print, print_json};
use crate::engine::perplexity;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// Window where the user asks for none, as in llama.cpp.
const DEFAULT_WINDOW: u32 = 512;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The text, UTF-8; it is cut into windows of --ctx tokens [default: 512], the second half of each is scored
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
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
    let model = a.model.open()?;
    let tokenizer = Tokenizer::from_gguf(&model.gguf)?;
    let text = std::fs::read_to_string(&a.file).map_err(|e| format!("cannot read {}: {e}", a.file.display()))?;
    let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false })?;
    let window = a.run.context.unwrap_or(DEFAULT_WINDOW.min(model.config.context_length as u32));
    let options = RunArguments { context: Some(window), ..a.run.clone() };
    let mut session = super::load::session(&model, &options, true)?;
    let window = window as usize;
    let limit = a.chunks.map_or(usize::MAX, |n| n as usize);
    let total = (ids.len() / window).min(limit);
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let mut running = Vec::new();
    let result = perplexity(&mut session, &ids, window, tokenizer.bos_to_add(), limit, |p| {
        running.push(p.value());
        if !a.run.quiet {
            eprintln!("window {} of {total}: {:.4} ± {:.4}", p.chunks, p.value(), p.error());
        }
        !interrupted.load(Ordering::Relaxed)
    })?;
    if a.json {
        return print_json(&json!({
            "perplexity": result.value(),
            "error": result.error(),
            "mean_nll": result.mean_nll(),
            "predictions": result.predictions,
            "windows": result.chunks,
            "context": window,
            "tokens": ids.len(),
            "running": running,
            "backend": session.backend().name(),
            "adapter": session.backend().device(),
        }));
    }
    let (value, error, n) = (result.value(), result.error(), result.chunks);
    Ok(print(&format!("perplexity: {value:.4} ± {error:.4} ({n} windows of {window} tokens)"))?)
}
