//! `samebits tokenize`.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::load::ModelArguments;
use super::{Outcome, print, print_json};
use crate::tokenizer::{EncodeOptions, Tokenizer};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The text
    #[arg(value_name = "TEXT", required_unless_present = "decode")]
    text: Option<String>,
    /// Token ids to turn into text: 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "text")]
    decode: Option<Vec<u32>>,
    /// Take the names of special tokens as ordinary text and add no BOS or EOS
    #[arg(long)]
    no_special: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let tokenizer = Tokenizer::from_gguf(&a.model.open()?.gguf)?;
    let piece = |id: u32| String::from_utf8_lossy(&tokenizer.decode(&[id])).into_owned();
    if let Some(ids) = &a.decode {
        if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
            return Err(format!("token id {id} is outside the vocabulary of {}", tokenizer.vocab_size()).into());
        }
        let bytes = tokenizer.decode(ids);
        if a.json {
            return print_json(&json!({"text": String::from_utf8_lossy(&bytes)}));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&bytes)?;
        return Ok(out.write_all(b"\n")?);
    }
    let special = !a.no_special;
    let options = EncodeOptions { add_special: special, parse_special: special };
    let ids = tokenizer.encode(a.text.as_deref().unwrap_or_default(), options)?;
    if a.json {
        let pieces: Vec<_> = ids.iter().map(|&id| piece(id)).collect();
        return print_json(&json!({"ids": ids, "pieces": pieces}));
    }
    for id in ids {
        print(&format!("{id:>8}  {:?}", piece(id)))?;
    }
    Ok(())
}
