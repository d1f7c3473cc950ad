//! An answer on its way to the reader.

use std::io::IsTerminal;

use super::super::terminal::{escape, generated};
use crate::engine::Stops;
use crate::grammar::Thinking;

/// Shows an answer piece by piece. On a terminal, what the model thinks is dimmed, or left out; in a pipe it is left out where the answer
/// has a form, for the program that reads it.
pub(in super::super) struct Answer {
    tags: Stops,
    /// Between `<think>` and `</think>`.
    inside: bool,
    show_thinking: bool,
    terminal: bool,
    colours: bool,
    /// Whether anything was shown that is no thinking.
    begun: bool,
}

impl Answer {
    /// `has_form`: somebody asked for a form.
    pub fn new(show_thinking: bool, thinking: Thinking, has_form: bool) -> Self {
        let stdout = std::io::stdout();
        let inside = thinking == Thinking::Begun;
        let show_thinking = show_thinking && (stdout.is_terminal() || thinking == Thinking::Never || !has_form);
        let colours = stdout.is_terminal() && anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        let tags = Stops::new(vec![tag(inside).to_owned()]);
        Self { tags, inside, show_thinking, terminal: stdout.is_terminal(), colours, begun: false }
    }

    /// What a piece of the answer adds to the screen.
    pub fn piece(&mut self, text: &str) -> String {
        if !self.terminal && self.show_thinking {
            return generated(text);
        }
        let mut out = String::new();
        let (mut certain, mut found) = self.tags.push(text);
        loop {
            out.push_str(&self.part(&certain));
            if !found {
                return out;
            }
            let switched = Stops::new(vec![tag(!self.inside).to_owned()]);
            let rest = std::mem::replace(&mut self.tags, switched).finish();
            self.inside = !self.inside;
            (certain, found) = self.tags.push(&rest);
        }
    }

    /// What is left, and the end of the line.
    pub fn end(mut self) -> String {
        let rest = std::mem::take(&mut self.tags).finish();
        self.part(&rest) + "\n"
    }

    fn part(&mut self, text: &str) -> String {
        let shown = if self.terminal { escape(text) } else { text.to_owned() };
        match (self.inside, self.show_thinking) {
            _ if shown.is_empty() => shown,
            (true, false) => String::new(),
            (true, true) if self.colours => format!("\u{1b}[2m{shown}\u{1b}[0m"),
            (true, true) => shown,
            // The empty lines behind thinking that is left out begin no answer.
            (false, false) if !self.begun && shown.trim().is_empty() => String::new(),
            (false, _) => {
                let first = !std::mem::replace(&mut self.begun, true);
                if first && !self.show_thinking { shown.trim_start().to_owned() } else { shown }
            }
        }
    }
}

/// What is looked for next.
fn tag(inside: bool) -> &'static str {
    if inside { "</think>" } else { "<think>" }
}
