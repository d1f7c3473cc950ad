//! `samebits logits`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::error::Usage;
use super::load::{ModelArguments, Purpose, RunArguments, encode};
use super::terminal::{print, print_json};
use super::text::PromptArguments;
use crate::output::{OutputError, Target};
use crate::tensor::npy;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    prompt: PromptArguments,
    /// The prompt as token ids instead: 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["argument", "option", "file"])]
    tokens: Option<Vec<u32>>,
    /// Logits after every token, not only the last
    #[arg(long)]
    all: bool,
    /// How many of the likeliest tokens to print
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Save the logits as a NumPy array of f32: [tokens, vocabulary]; - is standard output, where nothing else is printed then
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Replace the file of --npy if it exists
    #[arg(long, requires = "npy")]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let inputs: Vec<_> = [a.model.file(a.run.quiet)?, a.prompt.input()].into_iter().flatten().collect();
    let npy = a.npy.as_deref().map(|path| Target::new(path, a.force, &inputs)?.binary()).transpose()?;
    if let Some(npy) = npy.as_ref().filter(|npy| a.json && npy.is_stdout()) {
        return Err(Usage::TwoOnStdout(npy.name().to_owned()).into());
    }
    let text = if a.tokens.is_some() { String::new() } else { a.prompt.read(Usage::NoPrompt)? };
    let model = a.model.open(a.run.quiet)?;
    // Ids need no vocabulary; without one they have no text.
    let tokenizer = match a.model.tokenizer(&model.gguf, a.run.quiet) {
        Err(_) if a.tokens.is_some() => None,
        found => Some(found?),
    };
    let ids = match (&a.tokens, &tokenizer) {
        (None, Some(tokenizer)) => encode(tokenizer, &text, a.run.quiet)?,
        (ids, _) => ids.clone().unwrap_or_default(),
    };
    // While the watch lives, a signal stops between two steps.
    let (mut session, _signal) =
        super::load::session(&model, &a.run, if a.all { Purpose::Logits } else { Purpose::Texts })?;
    let logits = session.feed(&ids, a.all)?;
    let vocabulary = model.config.vocabulary;
    if let Some(npy) = &npy {
        write_npy(npy, logits.len() / vocabulary, vocabulary, &logits)?;
        if npy.is_stdout() {
            return Ok(());
        }
    }
    let first = ids.len() - logits.len() / vocabulary;
    let mut positions = Vec::new();
    for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&x, &y| logits[y].total_cmp(&logits[x]).then(x.cmp(&y)));
        order.truncate(a.top);
        let piece =
            |id: usize| tokenizer.as_ref().map(|t| String::from_utf8_lossy(&t.decode(&[id as u32])).into_owned());
        if a.json {
            let top: Vec<_> =
                order.iter().map(|&id| json!({"id": id, "logit": logits[id], "text": piece(id)})).collect();
            positions.push(json!({"position": first + row, "token": ids[first + row], "top": top}));
        } else {
            print(&format!("position {} (token {})", first + row, ids[first + row]))?;
            for id in order {
                let text = piece(id).map_or(String::new(), |text| format!("  {text:?}"));
                print(&format!("{id:>8}  {:>12.6}{text}", logits[id]))?;
            }
        }
    }
    if a.json {
        print_json(&json!({"tokens": ids, "positions": positions}))?;
    }
    Ok(())
}

/// Writes `[rows, cols]` numbers as a NumPy file.
pub(super) fn write_npy(target: &Target, rows: usize, cols: usize, values: &[f32]) -> Result<(), OutputError> {
    let mut output = target.create()?;
    let mut write = |bytes: &[u8]| output.write_all(bytes).map_err(|e| target.failed(&e));
    write(&npy::header("<f4", &[rows, cols]))?;
    write(bytemuck::cast_slice(values))?;
    output.finish()
}
