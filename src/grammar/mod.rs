//! Texts that keep to a form: a JSON schema, a grammar, a regular expression. [`Constraint`] tells a sampler which tokens go on
//! with such a text; the feature `structured` makes one of a [`Grammar`] (llguidance).

#[cfg(feature = "structured")]
mod gbnf;
#[cfg(feature = "structured")]
mod matcher;
#[cfg(feature = "structured")]
mod schema;

#[cfg(feature = "structured")]
use std::cell::OnceCell;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sample::Mask;
use crate::tokenizer::Tokenizer;

#[cfg(feature = "structured")]
pub use matcher::Grammars;

/// How a form is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A JSON schema; texts are compact JSON.
    JsonSchema,
    /// A grammar of llama.cpp.
    Gbnf,
    /// A grammar of Lark, as llguidance reads it.
    Lark,
    /// A regular expression for the whole text.
    Regex,
}

/// Whether a text may begin with what a model thinks, which is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// The form begins with the text.
    #[default]
    Never,
    /// A first token `<think>` is allowed, and then the form begins behind `</think>`.
    Allowed,
    /// The prompt has `<think>`, so the form begins behind `</think>`.
    Begun,
}

/// What begins and ends what a model thinks.
const THINK: [&str; 2] = ["<think>", "</think>"];

impl Thinking {
    /// What a model thought, without its marks, and the answer behind that. A thought that does not end has no answer.
    pub fn split(self, text: &str) -> (Option<&str>, &str) {
        let thought = match (self, text.trim_start().strip_prefix(THINK[0])) {
            (Self::Never, _) | (Self::Allowed, None) => return (None, text),
            (Self::Begun, _) => text,
            (Self::Allowed, Some(thought)) => thought,
        };
        let (thought, answer) = thought.split_once(THINK[1]).unwrap_or((thought, ""));
        (Some(thought.trim()), answer.trim_start())
    }
}

/// A form for texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grammar {
    /// How it is written.
    pub kind: Kind,
    /// What is written.
    pub source: String,
    /// What may come before it.
    #[serde(default)]
    pub thinking: Thinking,
}

impl Grammar {
    /// A form from the first token on.
    pub fn new(kind: Kind, source: impl Into<String>) -> Self {
        Self { kind, source: source.into(), thinking: Thinking::Never }
    }
}

/// Why a form cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum GrammarError {
    #[error("the JSON schema is no JSON: {0}")]
    NoJson(String),
    /// A keyword of JSON Schema that would be ignored, or one that is none.
    #[error("the JSON schema has {keyword} at {pointer}, which is not supported")]
    Keyword { keyword: String, pointer: String },
    #[error("the JSON schema cannot be kept at {pointer}: {reason}")]
    Schema { pointer: String, reason: String },
    #[error("the grammar is wrong in line {line}: {reason}")]
    Gbnf { line: usize, reason: String },
    #[error("the {what} is wrong: {reason}")]
    Source { what: &'static str, reason: String },
    #[error("the vocabulary has no token that ends a text, so a text that keeps to a form would not end")]
    NoEnd,
    #[error("the form cannot be followed any further: {0}")]
    Stuck(String),
    #[error("this program is built without the feature `structured`, which makes texts keep to a form")]
    NotBuilt,
}

/// Makes constraints of forms. What of the vocabulary they need is made once, when the first is asked for.
#[derive(Default)]
pub struct Constraints {
    #[cfg(feature = "structured")]
    grammars: OnceCell<Grammars>,
}

impl Constraints {
    /// What follows a text of this form, over this vocabulary, which must always be the same.
    ///
    /// # Errors
    /// Where the form is wrong, or something of it cannot be kept; [`GrammarError::NotBuilt`].
    #[cfg(feature = "structured")]
    pub fn of(
        &self,
        grammar: Option<&Grammar>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Box<dyn Constraint>>, GrammarError> {
        let Some(grammar) = grammar else { return Ok(None) };
        let grammars = match self.grammars.get() {
            Some(grammars) => grammars,
            None => {
                let grammars = Grammars::new(tokenizer)?;
                self.grammars.get_or_init(|| grammars)
            }
        };
        grammars.constraint(grammar).map(Some)
    }

    /// Nothing follows a form in this build.
    ///
    /// # Errors
    /// [`GrammarError::NotBuilt`] for any form.
    #[cfg(not(feature = "structured"))]
    pub fn of(&self, grammar: Option<&Grammar>, _: &Tokenizer) -> Result<Option<Box<dyn Constraint>>, GrammarError> {
        if grammar.is_some() { Err(GrammarError::NotBuilt) } else { Ok(None) }
    }
}

/// Follows a text token by token.
pub trait Constraint {
    /// The tokens that go on with the text or end it; `None` where all do.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`], where none does.
    fn allowed(&mut self) -> Result<Option<Mask>, GrammarError>;

    /// Goes on with a token that was allowed, and ends no text.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`], where it was not.
    fn accept(&mut self, token: u32) -> Result<(), GrammarError>;

    /// Whether the text has the form and nothing can follow.
    fn is_complete(&self) -> bool;
}
