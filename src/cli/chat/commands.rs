//! What a user can ask for within a chat.

use std::error::Error;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::error::Failure;
use super::super::terminal::{note, print, warning};
use super::super::text;
use super::super::values::{Seed, at_least_zero, penalty, share};
use super::{Chat, Next, Turn};
use crate::chat::Message;
use crate::numerics::VERSION;
use crate::output::Target;
use crate::sample::SamplerOptions;

const HELP: &str = "\
/system TEXT   tell the model something before the conversation; without TEXT show it, - for nothing
/regen         answer the last message again, with the next seed
/undo          forget the last message and its answer
/drop N        forget the N oldest messages and their answers
/new           begin anew
/seed N        the seed of the next answers; -1 draws one
/think on|off  show what the model thinks, or leave it out
/save FILE     write the conversation; --force before FILE replaces one
/load FILE     go on with one that was saved
/stats         what was used so far
/exit          end, as Ctrl-D
A message: \\ at the end of a line goes on in the next, \"\"\" begins and ends a block, a pasted block is one message,
// begins with one /.";

/// A conversation in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    samebits: String,
    setting: Setting,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    repeat_last_n: usize,
    seed: u64,
    messages: Vec<Message>,
    answers: Vec<SavedAnswer>,
}

/// What must be equal for an answer to come out the same.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    numerics: String,
    precision: String,
    model: String,
    /// SHA-256 of the template.
    template: String,
}

/// What proves an answer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedAnswer {
    seed: u64,
    tokens: usize,
    logits_hash: String,
    cut: bool,
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
        let outcome = self.turn(last.message.clone(), last.seed.wrapping_add(1));
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
        let (made, held) = (self.turns.iter().map(|t| t.tokens).sum::<usize>(), self.session.tokens().len());
        let backend = self.session.backend();
        print(&format!("model     {}", self.model.config.name))?;
        print(&format!("backend   {} ({})", backend.name(), backend.device()))?;
        print(&format!("messages  {}, answers of {made} tokens", self.turns.len()))?;
        print(&format!("context   {held} of {} positions in use", backend.limits().context))?;
        let s = &self.sampling;
        print(&format!(
            "sampling  temperature {}, top-k {}, top-p {}, min-p {}, repeat penalty {}, seed {}",
            s.temperature, s.top_k, s.top_p, s.min_p, s.repeat_penalty, s.seed
        ))
    }

    /// What the answers of this chat depend on beside the messages and the sampling.
    fn setting(&self) -> Setting {
        Setting {
            numerics: VERSION.to_owned(),
            precision: format!("{:?}", self.a.run.precision).to_lowercase(),
            model: self.model.config.name.clone(),
            template: Sha256::digest(self.template.source()).iter().map(|b| format!("{b:02x}")).collect(),
        }
    }

    fn save(&self, words: &str) -> Result<(), Box<dyn Error>> {
        let (force, path) = match words.strip_prefix("--force") {
            Some(path) if !path.starts_with(|c: char| !c.is_whitespace()) => (true, path.trim()),
            _ => (false, words),
        };
        if path.is_empty() {
            return Err(Failure::ChatCommand("/save FILE").into());
        }
        let s = &self.sampling;
        let answer =
            |t: &Turn| SavedAnswer { seed: t.seed, tokens: t.tokens, logits_hash: t.logits_hash.clone(), cut: t.cut };
        let saved = Saved {
            samebits: env!("CARGO_PKG_VERSION").to_owned(),
            setting: self.setting(),
            temperature: s.temperature,
            top_k: s.top_k,
            top_p: s.top_p,
            min_p: s.min_p,
            repeat_penalty: s.repeat_penalty,
            repeat_last_n: s.repeat_last_n,
            seed: s.seed,
            messages: self.messages(),
            answers: self.turns.iter().map(answer).collect(),
        };
        let inputs: Vec<_> = self.a.model.file(true)?.into_iter().collect();
        Target::new(Path::new(path), force, &inputs)?.write(&serde_json::to_vec_pretty(&saved)?)?;
        note!("saved: {path}");
        Ok(())
    }

    fn load(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        if path.is_empty() {
            return Err(Failure::ChatCommand("/load FILE").into());
        }
        let wrong = |reason: String| Failure::NoChat { name: path.to_owned(), reason };
        let saved: Saved = serde_json::from_str(&text::read(Path::new(path))?).map_err(|e| wrong(e.to_string()))?;
        let mut messages = saved.messages.into_iter().peekable();
        let system = messages.next_if(|m| m.role == "system").map(|m| m.content);
        let mut turns = Vec::new();
        for answer in saved.answers {
            match (messages.next(), messages.next()) {
                (Some(user), Some(model)) if user.role == "user" && model.role == "assistant" => turns.push(Turn {
                    message: user.content,
                    answer: model.content,
                    cut: answer.cut,
                    seed: answer.seed,
                    tokens: answer.tokens,
                    logits_hash: answer.logits_hash,
                }),
                _ => return Err(wrong("messages and answers do not alternate".to_owned()).into()),
            }
        }
        if messages.next().is_some() {
            return Err(wrong("there are more messages than answers".to_owned()).into());
        }
        let sampling = SamplerOptions {
            temperature: saved.temperature,
            top_k: saved.top_k,
            top_p: saved.top_p,
            min_p: saved.min_p,
            repeat_penalty: saved.repeat_penalty,
            repeat_last_n: saved.repeat_last_n,
            seed: saved.seed,
        };
        let s = &sampling;
        at_least_zero(&s.temperature.to_string()).map_err(|e| wrong(format!("temperature: {e}")))?;
        share(&s.top_p.to_string()).map_err(|e| wrong(format!("top_p: {e}")))?;
        share(&s.min_p.to_string()).map_err(|e| wrong(format!("min_p: {e}")))?;
        penalty(&s.repeat_penalty.to_string()).map_err(|e| wrong(format!("repeat_penalty: {e}")))?;
        if saved.setting != self.setting() {
            warning!(
                "{path} was saved with another model, template, precision or numerics version: answers may differ"
            );
        }
        note!("loaded: {} messages, temperature {}, seed {}", turns.len(), sampling.temperature, sampling.seed);
        (self.system, self.turns, self.sampling) = (system, turns, sampling);
        Ok(())
    }
}
