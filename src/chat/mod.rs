//! Conversations: messages become a prompt by a model's template.

mod jinja;
mod json;

use minijinja::Value;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::engine::hex;
use crate::gguf::Gguf;
use crate::grammar::Thinking;
use crate::record::TemplateFacts;
use crate::tokenizer::{EncodeOptions, Tokenizer, TokenizerError};

pub use jinja::{Given, Jinja, Unrendered};

/// Where a file has the template of its model; others may follow behind a dot.
pub const KEY: &str = "tokenizer.chat_template";

/// The templates that are part of this program, by name.
const OWN: [(&str, &str); 7] = [
    ("chatml", include_str!("templates/chatml.jinja")),
    ("llama2", include_str!("templates/llama2.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("mistral", include_str!("templates/mistral.jinja")),
    ("gemma", include_str!("templates/gemma.jinja")),
    ("zephyr", include_str!("templates/zephyr.jinja")),
    ("vicuna", include_str!("templates/vicuna.jinja")),
];

/// The names of the templates that are part of this program.
pub fn names() -> impl Iterator<Item = &'static str> {
    OWN.iter().map(|(name, _)| *name)
}

/// Why a conversation does not become a prompt.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ChatError {
    #[error("the model has no chat template, so it is probably not made for conversations")]
    NoTemplate,
    #[error("chat template '{name}' is unknown; there are {}", names().collect::<Vec<_>>().join(", "))]
    Unknown { name: String },
    #[error("chat template {name} is broken: {reason}")]
    Broken { name: String, reason: String },
    #[error("the chat template does not allow this: {0}")]
    Refused(String),
    #[error("the chat template fails: {reason}")]
    Failed { reason: String },
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; templates may know others.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }
}

/// What a template makes of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its text.
    pub text: String,
    /// Its tokens. BOS stands at their start where the model wants one, once: templates write it or leave it to the tokenizer.
    pub ids: Vec<u32>,
}

/// A template for the messages to a model.
#[derive(Debug)]
pub struct Template<'t> {
    name: String,
    source: String,
    jinja: Jinja,
    tokenizer: &'t Tokenizer,
}

impl<'t> Template<'t> {
    /// The model's own template.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`], [`ChatError::Broken`].
    pub fn of_model(gguf: &Gguf, tokenizer: &'t Tokenizer) -> Result<Self, ChatError> {
        let source = gguf.get_str(KEY).map_err(|_| ChatError::NoTemplate)?;
        Self::new("of the model", source, tokenizer)
    }

    /// One of [`names`], or another that the model has by this name.
    ///
    /// # Errors
    /// [`ChatError::Unknown`], [`ChatError::Broken`].
    pub fn named(name: &str, gguf: &Gguf, tokenizer: &'t Tokenizer) -> Result<Self, ChatError> {
        let own = OWN.iter().find(|(own, _)| *own == name).map(|(_, source)| *source);
        let of_model = || gguf.get_str(&format!("{KEY}.{name}")).ok();
        let source = own.or_else(of_model).ok_or_else(|| ChatError::Unknown { name: name.to_owned() })?;
        Self::new(name, source, tokenizer)
    }

    /// A template from its text; `name` is for messages.
    ///
    /// # Errors
    /// [`ChatError::Broken`] where that is no Jinja.
    pub fn new(name: &str, source: &str, tokenizer: &'t Tokenizer) -> Result<Self, ChatError> {
        let jinja = Jinja::new(source).map_err(|reason| ChatError::Broken { name: name.to_owned(), reason })?;
        Ok(Self { name: name.to_owned(), source: source.to_owned(), jinja, tokenizer })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What records say of it.
    pub fn facts(&self) -> TemplateFacts {
        TemplateFacts { name: self.name.clone(), sha256: hex(&Sha256::digest(&self.source)) }
    }

    /// Whether an answer to this prompt may begin with what the model thinks.
    pub fn thinking(&self, prompt: &str) -> Thinking {
        match prompt.trim_end() {
            prompt if prompt.ends_with("<think>") => Thinking::Begun,
            // The template has put an empty thought there, or a whole one.
            prompt if prompt.ends_with("</think>") => Thinking::Never,
            _ if self.source.contains("</think>") => Thinking::Allowed,
            _ => Thinking::Never,
        }
    }

    /// The prompt for an answer to the last of the messages.
    ///
    /// The names of control tokens in a message are text, unless the model wrote it: who types `<|im_end|>` does not end a
    /// message with it.
    ///
    /// # Errors
    /// [`ChatError::Refused`] with the template's own words, as for a system message that it does not know.
    pub fn prompt(&self, messages: &[Message]) -> Result<Prompt, ChatError> {
        let mark = unused(messages.iter().map(|m| m.content.as_str()).chain([self.source.as_str()]));
        let marked: Vec<_> = messages.iter().map(|m| self.marked(m, mark)).collect();
        let text_of = |id: Option<u32>| {
            id.map_or(String::new(), |id| String::from_utf8_lossy(&self.tokenizer.decode(&[id])).into_owned())
        };
        let (bos, eos) = (text_of(self.tokenizer.bos()), text_of(self.tokenizer.eos()));
        let given = Given { tools: Value::UNDEFINED, bos, eos, answer: true };
        let rendered = self.jinja.render(&Value::from(Serde(marked)), &given).map_err(|e| match e {
            Unrendered::Refused(words) => ChatError::Refused(words),
            Unrendered::Failed(reason) => ChatError::Failed { reason },
        })?;
        let (mut text, mut spelt) = (String::with_capacity(rendered.len()), Vec::new());
        for (i, part) in rendered.split(mark).enumerate() {
            if i > 0 {
                spelt.push(text.len());
            }
            text.push_str(part);
        }
        let options = EncodeOptions { add_special: false, parse_special: true };
        let mut ids = self.tokenizer.encode_spelt(&text, options, &spelt)?;
        if let Some(bos) = self.tokenizer.bos_to_add()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(Prompt { text, ids })
    }

    /// A message with `mark` before every control token that a person has spelt out.
    fn marked(&self, message: &Message, mark: char) -> Message {
        let mut out = message.clone();
        if message.role != "assistant" {
            for at in self.tokenizer.control_tokens(&message.content).into_iter().rev() {
                out.content.insert(at, mark);
            }
        }
        out
    }
}

/// A character for private use that none of the texts has.
fn unused<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> char {
    let free = |c: &char| !texts.clone().any(|text| text.contains(*c));
    ('\u{100000}'..='\u{10fffd}').find(free).unwrap_or('\u{100000}')
}
