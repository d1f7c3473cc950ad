//! What goes to a terminal: results to standard output, everything else to standard error.
//!
//! An error of standard output ends a command; one of standard error is nobody's business, as there is nobody to tell. Text
//! that comes from a file cannot control the terminal: every line passes [`escape`].

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};

use super::error::Failure;
use super::hint::Hinted;

/// Says something that is no result, as `format!` makes it.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::terminal::say(None, &format!($($text)*)) };
}

/// Says what a user should know before they trust a result.
macro_rules! warning {
    ($($text:tt)*) => {
        $crate::cli::terminal::say(Some(("warning", $crate::cli::terminal::YELLOW)), &format!($($text)*))
    };
}

pub(super) use {note, warning};

/// Colour of warnings.
pub(super) const YELLOW: AnsiColor = AnsiColor::Yellow;

/// A line to standard error, with a coloured word before it.
pub(super) fn say(word: Option<(&str, AnsiColor)>, text: &str) {
    let head = word.map_or(String::new(), |(word, colour)| {
        let style = Style::new().bold().fg_color(Some(colour.into()));
        format!("{style}{word}{style:#}: ")
    });
    // It leaves the colours out where they are not wanted: no terminal, NO_COLOR, TERM=dumb, CLICOLOR=0.
    let _ = writeln!(anstream::stderr(), "{head}{}", escape(text));
}

/// Says why a command ended, and what helps.
pub(super) fn error(error: &(dyn Error + 'static)) {
    say(Some(("error", AnsiColor::Red)), &Hinted(error).to_string());
}

/// Prints a line to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    write_out(&format!("{}\n", escape(text)))
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    write_out(&format!("{}\n", escape_json(&format!("{value:#}"))))
}

/// Writes to standard output what cannot control a terminal.
pub(super) fn write_out(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes())
}

/// Writes bytes to standard output as they are.
pub(super) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Stdout)
}

/// Text that a model made, for standard output: as it is in a pipe or file, escaped on a terminal.
pub(super) fn generated(text: &str) -> String {
    if io::stdout().is_terminal() { escape(text) } else { text.to_owned() }
}

/// Whether a character can do something to a terminal besides being shown: control characters but line feed and tab, and
/// those that turn the direction of the text around them (Unicode's embeddings, overrides and isolates).
fn controls(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text with such characters written as `\u{1b}`.
pub(super) fn escape(text: &str) -> String {
    replaced(text, |c| c.escape_unicode().to_string())
}

/// JSON with such characters, which can only be in strings, written as `\u001b`.
pub(super) fn escape_json(text: &str) -> String {
    replaced(text, |c| format!("\\u{:04x}", u32::from(c)))
}

fn replaced(text: &str, with: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if controls(c) { out.push_str(&with(c)) } else { out.push(c) }
    }
    out
}

/// A bar of progress on standard error; hidden where `quiet`, and where there is no terminal that could draw it.
pub(super) fn bar(quiet: bool, length: Option<u64>, template: &str) -> ProgressBar {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if quiet || dumb {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_that_is_printed_controls_a_terminal() {
        let hostile = "\x1b]0;title\x07\x1b[2Jé\u{9b}31m\u{7f}\r\u{202e}abc\u{2066}\n\tend \u{200f}";
        let shown = escape(hostile);
        assert!(!shown.chars().any(controls));
        assert!(shown.starts_with("\\u{1b}]0;title\\u{7}\\u{1b}[2Jé\\u{9b}31m"), "{shown}");
        assert!(shown.contains("\n\tend \u{200f}"), "line feeds, tabs and marks of direction stay");
        let value = serde_json::json!({ hostile: [hostile] });
        let json = escape_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!json.chars().any(controls));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }
}
