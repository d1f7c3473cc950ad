//! `samebits chat`.

mod commands;
mod lines;
mod show;

use std::error::Error;
use std::io::IsTerminal;

use clap::Args;
use rustyline::error::ReadlineError;
use serde_json::json;

use super::error::{Failure, Interrupted, Usage};
use super::load::{DraftArguments, ModelArguments, RunArguments};
use super::make::{Keep, Made, make};
use super::sampling::SamplingArguments;
use super::signals::{self, Watch};
use super::structure::StructureArguments;
use super::templates::TemplateArguments;
use super::terminal::{self, note, print_json, warning, write_out};
use super::text::PromptArguments;
use super::values::{Limit, stop_string};
use super::{Outcome, load};
use crate::chat::{Message, Template};
use crate::engine::{Generator, Request, Session, StopReason};
use crate::grammar::Constraints;
use crate::model::Model;
use crate::record::{ModelFacts, Received, Recorded, Recorder};
use crate::sample::SamplerOptions;
use crate::tokenizer::Tokenizer;
use lines::Lines;
pub(super) use show::Answer;

/// Temperature of a chat where the user asks for none.
const TEMPERATURE: f32 = 0.7;

#[derive(Args, Debug)]
#[command(
    after_help = "With a message, or text on standard input, it answers once. Otherwise it reads messages from the \
terminal: /help lists the commands there, Ctrl-C stops an answer, Ctrl-D ends."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    message: PromptArguments,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateArguments,
    /// Tokens of an answer at most; -1 for as many as the model wants and the context holds
    #[arg(short = 'n', long, value_name = "N", default_value = "-1")]
    n_predict: Limit,
    /// Stop string: an answer ends before it; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = stop_string)]
    stop: Vec<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    structure: StructureArguments,
    /// Leave out what the model thinks before it answers (between <think> and </think>)
    #[arg(long)]
    hide_thinking: bool,
    /// Keep no messages for the next time's arrow keys
    #[arg(long)]
    no_history: bool,
    /// Print the one answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    drafts: DraftArguments,
    #[command(flatten)]
    run: RunArguments,
}

struct Chat<'a> {
    a: &'a Arguments,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    template: Template<'a>,
    session: Session,
    constraints: Constraints,
    sampling: SamplerOptions,
    system: Option<String>,
    /// The messages and what became of them.
    turns: Vec<Recorded>,
    thinking: bool,
    /// Whether there is one message only.
    once: bool,
    /// What records say of the model, once it was needed.
    facts: Option<ModelFacts>,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let once = a.message.is_given() || a.json || !std::io::stdin().is_terminal();
    let message = if once { Some(a.message.read(Usage::NoMessage)?) } else { None };
    let model = a.model.open(a.run.quiet)?;
    let tokenizer = a.model.tokenizer(&model.gguf, a.run.quiet)?;
    let template = a.template.open(&model.gguf, &tokenizer)?;
    let (session, signal) = load::session(&model, &a.run, a.drafts.purpose())?;
    let sampling = a.sampling.options(TEMPERATURE, a.run.quiet);
    let (system, thinking) = (a.system.clone(), !a.hide_thinking);
    let (model, tokenizer) = (&model, &tokenizer);
    let (turns, facts, constraints) = (Vec::new(), None, Constraints::default());
    let mut chat =
        Chat { a, model, tokenizer, template, session, constraints, sampling, system, turns, thinking, once, facts };
    match message {
        Some(message) => chat.once(&message, &signal),
        None => {
            // While a line is edited a signal ends the process: nothing is under way.
            drop(signal);
            chat.repeat()
        }
    }
}

/// How a chat goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Message,
    End,
}

impl Chat<'_> {
    /// Answers one message and prints nothing else.
    fn once(&mut self, message: &str, signal: &Watch) -> Outcome {
        let (made, _) = self.answer(message, self.sampling.seed, !self.a.json, signal)?;
        let text = &made.text;
        if self.a.json {
            let mut value = json!({
                "text": text.answer(),
                "tokens": text.tokens,
                "seed": self.sampling.seed,
                "temperature": self.sampling.temperature,
                "samplers": self.sampling.order,
                "logits_hash": text.logits_hash,
                "stop_reason": text.stop_reason,
                "backend": self.session.backend().name(),
                "adapter": self.session.backend().device(),
            });
            if let Some(thought) = text.thought() {
                value["thinking"] = thought.into();
            }
            if let Some(complete) = text.complete {
                value["complete"] = complete.into();
            }
            if let Some(drafts) = text.drafts {
                (value["drafted"], value["accepted"]) = (drafts.drafted.into(), drafts.accepted.into());
            }
            print_json(&value)?;
        }
        let cut = text.stop_reason == StopReason::Interrupted;
        if cut { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Reads messages from the terminal until the user has enough.
    fn repeat(&mut self) -> Outcome {
        let mut lines = Lines::open(!self.a.no_history, self.a.run.quiet)?;
        if !self.a.run.quiet {
            note!("template: {}; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends", self.template.name());
        }
        let mut idle = false;
        loop {
            let line = match lines.message() {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) if idle => return Err(Interrupted.into()),
                Err(ReadlineError::Interrupted) => {
                    idle = true;
                    note!("Ctrl-C once more, or Ctrl-D, ends");
                    continue;
                }
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            idle = false;
            if line.trim().is_empty() {
                continue;
            }
            lines.keep(&line);
            match self.obey(line) {
                Ok(Next::Message) => {}
                Ok(Next::End) => return Ok(()),
                // Nobody can read what comes, or everybody is asked to go.
                Err(error) if matches!(error.downcast_ref(), Some(Failure::Stdout(_))) => return Err(error),
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => terminal::error(&*error),
            }
        }
    }

    /// Does what a line says: a command, or a message to the model.
    fn obey(&mut self, line: String) -> Result<Next, Box<dyn Error>> {
        let message = match line.strip_prefix('/').filter(|_| !line.trim_end().contains('\n')) {
            // Two of them begin a message with one.
            Some(rest) if rest.starts_with('/') => rest.to_owned(),
            Some(rest) if commands::is_command(rest) => return self.command(rest),
            _ => line,
        };
        self.turn(message, self.sampling.seed)?;
        Ok(Next::Message)
    }

    /// Answers a message and keeps both.
    ///
    /// # Errors
    /// Also [`Interrupted`], where a signal other than Ctrl-C asks the process to end.
    fn turn(&mut self, message: String, seed: u64) -> Outcome {
        let signal = signals::watch();
        let (mut made, request) = self.answer(&message, seed, true, &signal)?;
        if !signal.over() {
            return Err(Interrupted.into());
        }
        let received = Received { text: message, message: true, pre: self.a.model.pre.clone() };
        let recorder = made.recorder.take().unwrap_or_else(|| Recorder::new(&request.prompt));
        self.turns.push(recorder.finish(received, request, &made.text));
        Ok(())
    }

    /// The conversation so far.
    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let turns = self
            .turns
            .iter()
            .flat_map(|t| [Message::new("user", t.received.text.as_str()), Message::new("assistant", t.text.as_str())]);
        system.chain(turns).collect()
    }

    /// Makes an answer to `message`, and shows it while it is made.
    fn answer(
        &mut self,
        message: &str,
        seed: u64,
        show: bool,
        signal: &Watch,
    ) -> Result<(Made, Request), Box<dyn Error>> {
        let mut messages = self.messages();
        messages.push(Message::new("user", message));
        let prompt = self.template.prompt(&messages)?;
        let (tokens, context) = (prompt.ids.len(), self.session.backend().limits().context);
        if tokens >= context {
            return Err(Failure::ChatFull { tokens, context }.into());
        }
        let thinking = self.template.thinking(&prompt.text);
        let request = Request {
            prompt: prompt.ids,
            max_tokens: self.a.n_predict.given(),
            ignore_eos: false,
            stop: self.a.stop.clone(),
            sampling: SamplerOptions { seed, ..self.sampling },
            grammar: self.a.structure.grammar(thinking)?,
        };
        let constraint = self.constraints.of(request.grammar.as_ref(), self.tokenizer)?;
        let generator = Generator::new(self.tokenizer, request.clone(), constraint)?.thinking(thinking);
        let mut answer = Answer::new(self.thinking, thinking, request.grammar.is_some());
        let keep = Keep { logprobs: None, record: !self.once };
        let made = make(&mut self.session, self.tokenizer, generator, keep, signal, &mut |step| {
            if show { write_out(&answer.piece(step.text)) } else { Ok(()) }
        })?;
        if show {
            write_out(&answer.end())?;
        }
        if made.text.complete == Some(false) {
            warning!("the answer is cut and does not have the form that was asked for");
        }
        if !self.a.run.quiet {
            self.report(&made, seed);
        }
        Ok((made, request))
    }

    /// The line below an answer.
    fn report(&self, made: &Made, seed: u64) {
        let (g, read) = (&made.text, made.text.prompt_computed);
        let why = match g.stop_reason {
            StopReason::Interrupted => "; stopped",
            StopReason::ContextFull => "; the context is full: /new, /drop N or a larger --ctx",
            StopReason::Length => "; as many tokens as asked for (-n)",
            StopReason::EndOfText | StopReason::StopString | StopReason::Complete => "",
        };
        let n = g.tokens.len();
        let rate = n.saturating_sub(1) as f64 / g.timings.decode.as_secs_f64().max(1e-9);
        let (used, context) = (self.session.tokens().len(), self.session.backend().limits().context);
        let hash = g.logits_hash.get(..16).unwrap_or_default();
        note!(
            "[{read} tokens read, {n} made at {rate:.1}/s, context {used} of {context}, seed {seed}, logits hash {hash}{why}]"
        );
    }
}
