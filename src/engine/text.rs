//! Texts: tokens are chosen, decoded and looked through for strings that end the text.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::{Drafts, EngineError, Progress, SampleOn, Session, StopReason, Stops, Timings};
use crate::backend::Sampling;
use crate::grammar::{Constraint, Grammar, GrammarError, Thinking};
use crate::sample::{Sampler, SamplerOptions};
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// All that a text depends on, beside the model, its precision and its context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The tokens that it follows.
    pub prompt: Vec<u32>,
    /// Tokens to make at most; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Whether the text goes on behind tokens that end one.
    pub ignore_eos: bool,
    /// Strings that end it; it does not have them itself.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// The form that it keeps to.
    pub grammar: Option<Grammar>,
}

impl Request {
    /// The likeliest text behind these tokens.
    pub fn new(prompt: Vec<u32>) -> Self {
        let sampling = SamplerOptions::GREEDY;
        Self { prompt, max_tokens: None, ignore_eos: false, stop: Vec::new(), sampling, grammar: None }
    }
}

/// A token of a text.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Its id.
    pub id: u32,
    /// The text that is certain with it. Characters that are not whole and what may become a string that ends the text are
    /// held back; a token that ends the text has none.
    pub text: &'a str,
    /// What it was chosen from: `[vocabulary]`, without any mask.
    pub logits: &'a [f32],
    /// Whether it ends the text.
    pub is_end: bool,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Text {
    /// All of it.
    pub text: String,
    /// Its end, which was held back until it was known to be one.
    pub tail: String,
    /// The new tokens; one that ended the text is the last.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt that were computed; the others were in the cache.
    pub prompt_computed: usize,
    /// SHA-256 over the little-endian f32 bits of the logits of every sampled position, as hex.
    pub logits_hash: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Whether it has the whole form that it was to keep to; `None` without one.
    pub complete: Option<bool>,
    /// Whether it may begin with what the model thought.
    pub thinking: Thinking,
    /// How long it took.
    pub timings: Timings,
    /// What was drafted, where the session looks drafts up.
    pub drafts: Option<Drafts>,
}

impl Text {
    /// What the model thought before it answered, without the marks around it. Without a form, only a chat knows that there is such.
    pub fn thought(&self) -> Option<&str> {
        self.thinking.split(&self.text).0
    }

    /// The text behind what the model thought: what has the form that was asked for.
    pub fn answer(&self) -> &str {
        self.thinking.split(&self.text).1
    }
}

/// Makes a text.
pub struct Generator<'t> {
    tokenizer: &'t Tokenizer,
    request: Request,
    constraint: Option<Box<dyn Constraint>>,
    sampler: Sampler,
    stream: StreamDecoder<'t>,
    stops: Stops,
    thinking: Thinking,
    text: String,
    /// Tokens of the text that were given, not made.
    given: usize,
    prompt_computed: usize,
    progress: Option<Progress>,
    stopped: Option<StopReason>,
}

impl<'t> Generator<'t> {
    /// For a request. `constraint` is made of its grammar (`grammar::Grammars::constraint`).
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`]; [`GrammarError::NotBuilt`] for a grammar without its constraint.
    pub fn new(
        tokenizer: &'t Tokenizer,
        request: Request,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Self, EngineError> {
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if request.grammar.is_some() && constraint.is_none() {
            return Err(GrammarError::NotBuilt.into());
        }
        Ok(Self {
            tokenizer,
            constraint,
            sampler: Sampler::new(request.sampling),
            stream: tokenizer.stream(),
            stops: Stops::new(request.stop.clone()),
            thinking: request.grammar.as_ref().map_or(Thinking::Never, |grammar| grammar.thinking),
            request,
            text: String::new(),
            given: 0,
            prompt_computed: 0,
            progress: None,
            stopped: None,
        })
    }

    /// Tells whether the text may begin with what the model thinks, where no grammar says so.
    pub fn thinking(mut self, thinking: Thinking) -> Self {
        self.thinking = thinking;
        self
    }

    /// Goes on behind tokens that were made before, as if they had been made now. To be called first.
    ///
    /// # Errors
    /// Where the grammar does not allow them.
    pub fn resume(&mut self, tokens: &[u32]) -> Result<(), GrammarError> {
        for &token in tokens {
            if let Some(constraint) = &mut self.constraint {
                constraint.accept(token)?;
            }
            self.text.push_str(&self.stops.push(&self.stream.push(token)).0);
        }
        self.request.prompt.extend_from_slice(tokens);
        self.given += tokens.len();
        Ok(())
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Feeds the prompt, as far as the session does not hold it already: what it holds has the bits that it would get again.
    fn begin(&mut self, session: &mut Session) -> Result<Progress, EngineError> {
        let prompt = &self.request.prompt;
        let held = session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is computed in any case: its logits are wanted.
        let held = held.min(prompt.len() - 1);
        let held = session.truncate(held);
        let progress = session.begin(&prompt[held..])?;
        self.prompt_computed = session.tokens().len() - held;
        Ok(progress)
    }

    /// Makes up to `most` tokens more, at least one; `emit` hears each and may stop the text. Says whether the text has ended.
    ///
    /// # Errors
    /// As [`Session::feed`]; where no token keeps to the grammar.
    pub fn advance(
        &mut self,
        session: &mut Session,
        most: usize,
        emit: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<bool, EngineError> {
        let mut progress = match self.progress.take() {
            Some(progress) => progress,
            None => self.begin(session)?,
        };
        let Self { tokenizer, request, constraint, sampler, stream, stops, text, given, .. } = self;
        let first = *given + progress.tokens().len();
        let left = request.max_tokens.map_or(usize::MAX, |max| max.saturating_sub(first));
        if left == 0 {
            self.stopped = Some(StopReason::Length);
        }
        if self.stopped.is_some() {
            self.progress = Some(progress);
            return Ok(true);
        }
        sampler.seek(first);
        let failed = std::cell::RefCell::new(None);
        let constraint = std::cell::RefCell::new(constraint.as_mut());
        let (mut draw, mut sample);
        let is_free = constraint.borrow().is_none();
        let sample_on = match sampler.draw_options() {
            _ if is_free && sampler.is_greedy() => SampleOn::Backend(Sampling::Greedy),
            Some(options) if is_free => {
                draw = || sampler.next_draw();
                SampleOn::Backend(Sampling::Draw(options, &mut draw))
            }
            _ => {
                sample = |logits: &[f32], history: &[u32]| {
                    let mask = match constraint.borrow_mut().as_mut().map(|c| c.allowed()) {
                        Some(Ok(mask)) => mask,
                        Some(Err(error)) => {
                            *failed.borrow_mut() = Some(error);
                            None
                        }
                        None => None,
                    };
                    sampler.sample(logits, history, mask.as_ref())
                };
                SampleOn::Host(&mut sample)
            }
        };
        let emit = |id: u32, logits: &[f32]| {
            if failed.borrow().is_some() {
                return ControlFlow::Break(StopReason::Interrupted);
            }
            if !request.ignore_eos && tokenizer.is_end_of_generation(id) {
                let _ = emit(Token { id, text: "", logits, is_end: true });
                return ControlFlow::Break(StopReason::EndOfText);
            }
            if let Some(constraint) = constraint.borrow_mut().as_mut()
                && let Err(error) = constraint.accept(id)
            {
                *failed.borrow_mut() = Some(error);
                return ControlFlow::Break(StopReason::Interrupted);
            }
            let (certain, stop) = stops.push(&stream.push(id));
            text.push_str(&certain);
            let heard = emit(Token { id, text: &certain, logits, is_end: false });
            let complete = constraint.borrow().as_ref().is_some_and(|c| c.is_complete());
            match () {
                () if stop => ControlFlow::Break(StopReason::StopString),
                () if complete => ControlFlow::Break(StopReason::Complete),
                () if heard.is_break() => ControlFlow::Break(StopReason::Interrupted),
                () => ControlFlow::Continue(()),
            }
        };
        let stopped = session.advance(&mut progress, most.clamp(1, left), sample_on, |_| false, emit)?;
        if let Some(error) = failed.into_inner() {
            return Err(error.into());
        }
        let made = self.given + progress.tokens().len();
        self.stopped = stopped.or_else(|| (Some(made) == self.request.max_tokens).then_some(StopReason::Length));
        self.progress = Some(progress);
        Ok(self.stopped.is_some())
    }

    /// Makes the whole text, and says what became of it.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn run(
        mut self,
        session: &mut Session,
        emit: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Text, EngineError> {
        while !self.advance(session, usize::MAX, emit)? {}
        Ok(self.finish())
    }

    /// What was made so far.
    pub fn finish(mut self) -> Text {
        let made = self.progress.unwrap_or_default().finish(self.stopped.unwrap_or(StopReason::Interrupted));
        let mut tail = String::new();
        if made.stop_reason != StopReason::StopString {
            let (certain, stop) = self.stops.push(&self.stream.finish());
            tail = certain;
            if !stop {
                tail.push_str(&self.stops.finish());
            }
        }
        self.text.push_str(&tail);
        let ended = matches!(made.stop_reason, StopReason::EndOfText | StopReason::Complete);
        Text {
            text: self.text,
            tail,
            tokens: made.tokens,
            prompt_computed: self.prompt_computed,
            logits_hash: made.logits_hash,
            stop_reason: made.stop_reason,
            complete: self.constraint.map(|c| ended || c.is_complete()),
            thinking: self.thinking,
            timings: made.timings,
            drafts: made.drafts,
        }
    }
}
