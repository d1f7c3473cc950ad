//! `samebits tokenize`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::error::{Failure, Usage};
use super::load::ModelArguments;
use super::terminal::{generated, print, print_json, warning, write_bytes, write_out};
use super::{Outcome, text};
use crate::tokenizer::EncodeOptions;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The text; - reads it from standard input as it is, and so does no text at all where that is no terminal
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Read the text from a file as it is; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Token ids to turn into text: 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["text", "file", "no_special"])]
    decode: Option<Vec<u32>>,
    /// Take the names of special tokens as ordinary text and add no BOS or EOS
    #[arg(long)]
    no_special: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let text = match (&a.text, &a.file) {
        _ if a.decode.is_some() => String::new(),
        (Some(text), _) if text != "-" => text.clone(),
        (Some(_), _) => text::read(Path::new("-"))?,
        (None, Some(file)) => text::read(file)?,
        (None, None) => text::piped(Usage::NoText)?,
    };
    let tokenizer = a.model.tokenizer(&*a.model.vocabulary()?, false)?;
    let piece = |id: u32| String::from_utf8_lossy(&tokenizer.decode(&[id])).into_owned();
    if let Some(ids) = &a.decode {
        if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
            return Err(Failure::TokenId { id: *id, vocabulary: tokenizer.vocab_size() }.into());
        }
        let bytes = tokenizer.decode(ids);
        if a.json {
            return Ok(print_json(&json!({"text": String::from_utf8_lossy(&bytes)}))?);
        }
        // Bytes that are no text leave as they are, but not to a terminal.
        match std::str::from_utf8(&bytes) {
            Err(_) if !std::io::stdout().is_terminal() => write_bytes(&bytes)?,
            _ => write_out(&generated(&String::from_utf8_lossy(&bytes)))?,
        }
        return Ok(write_out("\n")?);
    }
    let special = !a.no_special;
    let options = EncodeOptions { add_special: special, parse_special: special };
    let ids = tokenizer.encode(&text, options)?;
    if let Some(odd) = tokenizer.odd(&ids).filter(|_| special) {
        warning!("{odd}");
    }
    if a.json {
        let pieces: Vec<_> = ids.iter().map(|&id| piece(id)).collect();
        return Ok(print_json(&json!({"ids": ids, "pieces": pieces}))?);
    }
    for id in ids {
        print(&format!("{id:>8}  {:?}", piece(id)))?;
    }
    Ok(())
}
