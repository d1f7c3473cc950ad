//! Options that say how messages become a prompt.

use std::error::Error;
use std::path::Path;

use clap::Args;

use super::text;
use super::values::not_empty;
use crate::chat::{ChatError, Template};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;

#[derive(Args, Debug)]
pub(super) struct TemplateArguments {
    /// The template that makes a prompt of messages: a file with Jinja, or one of chatml, llama2, llama3, mistral, gemma,
    /// zephyr, vicuna [default: the model's own; with `generate`, it says --chat, too]
    #[arg(long, value_name = "NAME|FILE", value_parser = not_empty)]
    pub chat_template: Option<String>,
}

impl TemplateArguments {
    /// The template that is asked for: a file, a name, or the model's own.
    ///
    /// # Errors
    /// Where there is none, or it is broken.
    pub fn open<'t>(&self, gguf: &Gguf, tokenizer: &'t Tokenizer) -> Result<Template<'t>, Box<dyn Error>> {
        let Some(name) = &self.chat_template else { return Ok(Template::of_model(gguf, tokenizer)?) };
        let template = Template::named(name, gguf, tokenizer);
        if matches!(template, Err(ChatError::Unknown { .. })) && Path::new(name).exists() {
            return Ok(Template::new(name, &text::read(Path::new(name))?, tokenizer)?);
        }
        Ok(template?)
    }
}
