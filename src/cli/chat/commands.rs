//! What a user can ask for within a chat.

use std::error::Error;
use std::path::Path;

use super::super::error::Failure;
use super::super::terminal::{note, print, warning};
use super::super::text;
use super::super::values::{Seed, at_least_zero, penalty, share};
use super::{Chat, Next};
use crate::output::Target;
use crate::record::{MadeBy, Record};

const HELP: &str = "\
/system TEXT   tell the model something before the conversation; without TEXT show it, - for nothing
/regen         answer the last message again, with the next seed
/undo          forget the last message and its answer
/drop N        forget the N oldest messages and their answers
/new           begin anew
/seed N        the seed of the next answers; -1 draws one
/think on|off  show what the model thinks, or leave it out
/save FILE     write the conversation, as a record for `samebits replay`; --force before FILE replaces one
/load FILE     go on with one that was saved
/stats         what was used so far
/exit          end, as Ctrl-D
A message: \\ at the end of a line goes on in the next, \"\"\" begins and ends a block, a pasted block is one message,
// begins with one /, as does a path: /usr/bin is no command.";

/// Whether what stands behind a `/` is meant as a command: its first word has letters only, so it is no path.
pub(super) fn is_command(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    name == "?" || (line.starts_with(name) && name.chars().all(|c| c.is_ascii_alphabetic()))
}

impl Chat<'_> {
    /// Does what `command` says.
    pub(super) fn command(&mut self, command: &str) -> Result<Next, Box<dyn Error>> {
        let (name, rest) = command.trim().split_once(char::is_whitespace).unwrap_or((command.trim(), ""));
        let rest = rest.trim();
        match name {
            "exit" | "quit" | "bye" => return Ok(Next::End),
            "help" | "?" => print(HELP)?,
            "new" => {
                self.turns.clear();
                note!("a new conversation");
            }
            "system" => self.system(rest)?,
            "undo" => match self.turns.pop() {
                Some(_) => self.say_how_many(),
                None => return Err(Failure::NoMessage.into()),
            },
            "regen" => self.regenerate()?,
            "drop" => {
                let n = rest.parse::<usize>().map_err(|_| Failure::ChatCommand("/drop N"))?;
                self.turns.drain(..n.min(self.turns.len()));
                self.say_how_many();
            }
            "seed" => {
                let seed: Seed = rest.parse().map_err(|_| Failure::ChatCommand("/seed N"))?;
                self.sampling.seed = seed.value().0;
                note!("seed: {}", self.sampling.seed);
            }
            "think" => {
                self.thinking = match rest {
                    "on" => true,
                    "off" => false,
                    _ => return Err(Failure::ChatCommand("/think on|off").into()),
                };
            }
            "stats" => self.stats()?,
            "save" => self.save(rest)?,
            "load" => self.load(rest)?,
            _ => return Err(Failure::UnknownChatCommand(name.to_owned()).into()),
        }
        Ok(Next::Message)
    }

    fn say_how_many(&self) {
        let n = self.turns.len();
        note!("{n} message{} left", if n == 1 { " is" } else { "s are" });
    }

    fn regenerate(&mut self) -> Result<(), Box<dyn Error>> {
        let last = self.turns.pop().ok_or(Failure::NoMessage)?;
        let seed = last.request.sampling.seed.wrapping_add(1);
        let outcome = self.turn(last.received.text.clone(), seed);
        if outcome.is_err() {
            self.turns.push(last);
        }
        outcome
    }

    fn system(&mut self, text: &str) -> Result<(), Failure> {
        match text {
            "" => return print(self.system.as_deref().unwrap_or("(nothing)")),
            "-" => self.system = None,
            text => self.system = Some(text.to_owned()),
        }
        Ok(())
    }

    fn stats(&self) -> Result<(), Failure> {
        let (made, held) = (self.turns.iter().map(|t| t.tokens.len()).sum::<usize>(), self.session.tokens().len());
        let backend = self.session.backend();
        print(&format!("model     {}", self.model.config.name))?;
        print(&format!("backend   {} ({})", backend.name(), backend.device()))?;
        print(&format!("messages  {}, answers of {made} tokens", self.turns.len()))?;
        print(&format!("context   {held} of {} positions in use", backend.limits().context))?;
        let s = &self.sampling;
        print(&format!(
            "sampling  temperature {}, top-k {}, top-p {}, min-p {}, repeat penalty {}, seed {}, samplers {}",
            s.temperature, s.top_k, s.top_p, s.min_p, s.repeat_penalty, s.seed, s.order
        ))
    }

    /// A record of this chat without its answers.
    fn record(&mut self) -> Record {
        let facts = match self.facts.take() {
            Some(facts) => facts,
            None => self.a.model.facts(self.model, self.a.run.quiet),
        };
        self.facts = Some(facts.clone());
        let backend = self.session.backend();
        let (precision, context) = (self.a.run.precision.into(), backend.limits().context);
        let mut record = Record::new(facts, precision, context, MadeBy::here(backend));
        record.template = Some(self.template.facts());
        record.system = self.system.clone();
        record.sampling = Some(self.sampling);
        record
    }

    fn save(&mut self, words: &str) -> Result<(), Box<dyn Error>> {
        let (force, path) = match words.strip_prefix("--force") {
            Some(path) if !path.starts_with(|c: char| !c.is_whitespace()) => (true, path.trim()),
            _ => (false, words),
        };
        if path.is_empty() {
            return Err(Failure::ChatCommand("/save FILE").into());
        }
        if self.turns.is_empty() {
            return Err(Failure::NoMessage.into());
        }
        let record = Record { texts: self.turns.clone(), ..self.record() };
        let inputs: Vec<_> = self.a.model.file(true)?.into_iter().collect();
        Target::new(Path::new(path), force, &inputs)?.write(&record.to_bytes()?)?;
        note!("saved: {path}");
        Ok(())
    }

    fn load(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        if path.is_empty() {
            return Err(Failure::ChatCommand("/load FILE").into());
        }
        let wrong = |reason: String| Failure::NoChat { name: path.to_owned(), reason };
        let bytes = text::read(Path::new(path))?;
        let saved = Record::from_bytes(bytes.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let sampling = saved.sampling.ok_or_else(|| wrong("it is the record of a text".to_owned()))?;
        if saved.texts.iter().any(|text| !text.received.message) {
            return Err(wrong("there are texts in it that answer no message".to_owned()).into());
        }
        let s = &sampling;
        at_least_zero(&s.temperature.to_string()).map_err(|e| wrong(format!("temperature: {e}")))?;
        share(&s.top_p.to_string()).map_err(|e| wrong(format!("top_p: {e}")))?;
        share(&s.min_p.to_string()).map_err(|e| wrong(format!("min_p: {e}")))?;
        penalty(&s.repeat_penalty.to_string()).map_err(|e| wrong(format!("repeat_penalty: {e}")))?;
        let own = self.record();
        if (&saved.fingerprint, &saved.template) != (&own.fingerprint, &own.template) {
            warning!(
                "{path} was saved with another model, template, precision or numerics version: answers may differ"
            );
        }
        note!("loaded: {} messages, temperature {}, seed {}", saved.texts.len(), sampling.temperature, sampling.seed);
        (self.system, self.turns, self.sampling) = (saved.system, saved.texts, sampling);
        Ok(())
    }
}
