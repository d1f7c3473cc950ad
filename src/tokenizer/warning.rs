//! What is odd in a vocabulary or a text, but does not keep it from being used.

use thiserror::Error;

/// Something that a user should know.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Warning {
    #[error("the file does not name its pre-tokenizer ('tokenizer.ggml.pre'), so 'default' is taken")]
    NoPreTokenizer,
    #[error("'{key}' is {value}, outside the {tokens} tokens; {}", instead_of(*instead))]
    IdOutside { key: String, value: String, tokens: usize, instead: Option<u32> },
    #[error("the file asks for a token at the ends of a text but '{key}' does not name it; {}", instead_of(*instead))]
    NoId { key: String, instead: Option<u32> },
    #[error("token {first:?}{} is typed as ordinary text but taken as a control token, by its name", others(*count))]
    Retyped { count: usize, first: String },
    #[error("token {text:?} (id {id}){} is listed before with a lower id, which is taken", others(*count))]
    TokensTwice { count: usize, text: String, id: u32 },
    #[error("merge {example:?}{} makes no token of the vocabulary", others(*count))]
    MergesOutside { count: usize, example: String },
    #[error("the vocabulary has no scores ('tokenizer.ggml.scores'): all pairs count the same")]
    NoScores,
    #[error("'{key}' is not applied: {what}")]
    NotApplied { key: &'static str, what: &'static str },
    #[error("the text begins with BOS, and the model adds another; leave out one of them")]
    DoubledBos,
    #[error("the text ends with EOS, and the model adds another; leave out one of them")]
    DoubledEos,
}

fn instead_of(id: Option<u32>) -> String {
    id.map_or_else(|| "there is none".to_owned(), |id| format!("llama.cpp's default {id} is taken"))
}

fn others(count: usize) -> String {
    if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() }
}
