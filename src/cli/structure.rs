//! Options that say which form a text keeps to.

use std::error::Error;
use std::path::Path;

use clap::Args;

use super::error::Failure;
use super::text;
use super::values::not_empty;
use crate::grammar::{Grammar, Kind, Thinking};

#[derive(Args, Debug)]
#[group(multiple = false)]
pub(super) struct StructureArguments {
    /// Only JSON of this schema: a file, or the schema itself. What of the schema cannot be kept is an error
    #[arg(long, value_name = "FILE|JSON", value_parser = not_empty)]
    json_schema: Option<String>,
    /// Only text of this grammar, as llama.cpp (GBNF) or Lark writes them: a file, or the grammar itself
    #[arg(long, value_name = "FILE|TEXT", value_parser = not_empty)]
    grammar: Option<String>,
    /// Only text that this regular expression matches as a whole
    #[arg(long, value_name = "RE", value_parser = not_empty)]
    regex: Option<String>,
}

impl StructureArguments {
    /// The form that is asked for.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn grammar(&self, thinking: Thinking) -> Result<Option<Grammar>, Box<dyn Error>> {
        let (kind, source) = match (&self.json_schema, &self.grammar, &self.regex) {
            (Some(schema), ..) => (
                Kind::JsonSchema,
                given(
                    schema,
                    |s| s.starts_with(['{', '[']) || is_word(s),
                    "--json-schema",
                    "a schema, which begins with {",
                )?,
            ),
            (_, Some(grammar), _) => {
                let is_source = |s: &str| s.contains('\n') || s.contains("::=") || s.contains("start:");
                let source = given(grammar, is_source, "--grammar", "a grammar with ::= (GBNF) or start: (Lark)")?;
                (if source.contains("::=") { Kind::Gbnf } else { Kind::Lark }, source)
            }
            (.., Some(regex)) => (Kind::Regex, regex.clone()),
            _ => return Ok(None),
        };
        Ok(Some(Grammar { kind, source, thinking }))
    }
}

/// Whether this is a schema without braces.
fn is_word(text: &str) -> bool {
    ["true", "false"].contains(&text)
}

/// What stands on the command line, or the contents of the file of that name.
fn given(
    word: &str,
    is_source: impl Fn(&str) -> bool,
    option: &'static str,
    written: &'static str,
) -> Result<String, Box<dyn Error>> {
    if is_source(word.trim_start()) {
        return Ok(word.to_owned());
    }
    text::read(Path::new(word)).map_err(|error| match error {
        Failure::Read { name, reason } => Failure::ReadForm { name, reason, option, written }.into(),
        other => other.into(),
    })
}
