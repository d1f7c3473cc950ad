//! Text that a command works on: from the command line, a file or standard input.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::{Failure, Usage};

/// The most text that is read; more than any context holds.
const LIMIT: u64 = 256 << 20;

/// What standard input is called in messages.
pub(super) const STDIN: &str = "standard input";

/// A prompt, for commands that take it as their argument.
#[derive(Args, Debug)]
pub(super) struct PromptArguments {
    /// The prompt; `-` reads it from standard input, which is also read where no prompt is given and it is not a terminal
    #[arg(value_name = "PROMPT")]
    argument: Option<String>,
    /// The prompt as an option; it may begin with a dash
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", conflicts_with = "argument")]
    option: Option<String>,
    /// Read the prompt from a file, without the line feed at its end; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["argument", "option"])]
    file: Option<PathBuf>,
}

impl PromptArguments {
    /// The prompt.
    ///
    /// # Errors
    /// `nothing`, where nothing was given, or that it cannot be read.
    pub fn read(&self, nothing: Usage) -> Result<String, Box<dyn std::error::Error>> {
        if let Some(text) = &self.option {
            return Ok(text.clone());
        }
        match (&self.argument, &self.file) {
            (Some(text), _) if text != "-" => Ok(text.clone()),
            (None, Some(file)) => Ok(prompt(file)?),
            (Some(_), _) => Ok(prompt(Path::new("-"))?),
            (None, None) => match piped(nothing.clone())? {
                text if text.is_empty() => Err(nothing.into()),
                text => Ok(without_line_feed(text)),
            },
        }
    }

    /// Whether a text is named on the command line.
    pub fn is_given(&self) -> bool {
        self.argument.is_some() || self.option.is_some() || self.file.is_some()
    }

    /// The file that is read, where there is one.
    pub fn input(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// A prompt from a file. The line feed that ends every text file is no part of it, as in llama.cpp.
///
/// # Errors
/// When the file cannot be read or is no text.
pub(super) fn prompt(path: &Path) -> Result<String, Failure> {
    Ok(without_line_feed(read(path)?))
}

/// What is piped into this process.
///
/// # Errors
/// `nothing`, where standard input is a terminal: nobody expects to type there.
pub(super) fn piped(nothing: Usage) -> Result<String, Box<dyn std::error::Error>> {
    if std::io::stdin().is_terminal() { Err(nothing.into()) } else { Ok(read(Path::new("-"))?) }
}

/// All text of a file; `-` is standard input.
///
/// # Errors
/// When the file cannot be read or is no text.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let stdin = path == Path::new("-");
    let name = if stdin { STDIN.to_owned() } else { path.display().to_string() };
    let failed = |e: std::io::Error| Failure::Read { name: name.clone(), reason: e.to_string() };
    let source: Box<dyn Read> =
        if stdin { Box::new(std::io::stdin().lock()) } else { Box::new(File::open(path).map_err(failed)?) };
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::TooMuchText { name, limit: LIMIT });
    }
    String::from_utf8(bytes).map_err(|e| Failure::NoUtf8 { name, at: e.utf8_error().valid_up_to() })
}

fn without_line_feed(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
