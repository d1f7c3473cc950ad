//! Messages as a user types them.

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Behavior, Config, Editor};

use super::super::signals;
use super::super::terminal::warning;

/// What begins and ends a block.
const FENCE: &str = "\"\"\"";

/// The lines of a terminal, with the messages of earlier times for the arrow keys.
pub(super) struct Lines {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
}

impl Lines {
    /// Takes the terminal over, where standard output may be something else.
    ///
    /// # Errors
    /// What the system reports.
    pub fn open(history: bool, quiet: bool) -> Result<Self, ReadlineError> {
        signals::keep_terminal();
        let config =
            Config::builder().behavior(Behavior::PreferTerm).bracketed_paste(true).auto_add_history(false).build();
        let mut editor = Editor::with_config(config)?;
        let history = if history { history_file(quiet) } else { None };
        if let Some(path) = &history {
            // There is none at the first start.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// Keeps a message.
    pub fn keep(&mut self, message: &str) {
        let _ = self.editor.add_history_entry(message);
        // A disk that is full takes no message, and no chat.
        if let Some(path) = &self.history {
            let _ = self.editor.append_history(path);
        }
    }

    /// A message: one line, several with a backslash at their ends, or a block between three quotation marks. A block that is
    /// pasted is one message as it is.
    ///
    /// # Errors
    /// Ctrl-C, the end of the input, or what the system reports.
    pub fn message(&mut self) -> Result<String, ReadlineError> {
        let mut text = self.editor.readline("> ")?;
        // Nobody types a line feed: it was pasted, or comes from the history.
        if text.contains('\n') {
            return Ok(text);
        }
        if let Some(rest) = text.trim_start().strip_prefix(FENCE) {
            let mut block = rest.to_owned();
            while !block.trim_end().ends_with(FENCE) {
                block.push('\n');
                block.push_str(&self.editor.readline("  ")?);
            }
            let block = block.trim_end();
            return Ok(block.strip_suffix(FENCE).unwrap_or(block).trim_matches('\n').to_owned());
        }
        while text.ends_with('\\') {
            text.pop();
            text.push('\n');
            text.push_str(&self.editor.readline("  ")?);
        }
        Ok(text)
    }
}

/// Where messages are kept.
fn history_file(quiet: bool) -> Option<PathBuf> {
    let folder = dirs::data_dir()?.join("samebits");
    match std::fs::create_dir_all(&folder) {
        Ok(()) => Some(folder.join("history")),
        Err(error) => {
            if !quiet {
                warning!("messages are not kept for the next time: {}: {error}", folder.display());
            }
            None
        }
    }
}
