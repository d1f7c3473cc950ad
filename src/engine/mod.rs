//! A session: prompt in, tokens out, with the cache in between.

mod open;
mod perplexity;
mod stops;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::backend::{Backend, BackendError, Batch, Chooser, Lane, Limits, Rows};
use crate::plan::{Step, Words};

pub use open::{Fact, OpenOptions, Refusal, Wanted, open};
pub use perplexity::{Perplexity, perplexity};
pub use stops::Stops;

/// Why a session stopped with an error.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Nothing to continue.
    #[error("the prompt is empty; give at least one token (`-p TEXT`, or a model that adds a BOS token)")]
    EmptyPrompt,
    /// More prompt than cache.
    #[error(
        "the prompt has {tokens} tokens but the context holds {context}; use --ctx N with a larger N or a shorter prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the cache.
        context: usize,
    },
    /// Less text than one window.
    #[error("the text has {tokens} tokens, fewer than one window of {context}; use a longer text or --ctx N from 4 on")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its answer.
    EndOfText,
    /// One of the strings that the caller wants to end at.
    StopString,
    /// As many tokens as were asked for.
    Length,
    /// The cache is full.
    ContextFull,
    /// The user.
    Interrupted,
}

/// How long things took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// The prompt.
    pub prefill: Duration,
    /// All tokens after the first.
    pub decode: Duration,
}

/// How tokens are chosen.
pub enum Choice<'a> {
    /// By the logits alone: a backend does it itself and works ahead.
    Ahead(Chooser<'a>),
    /// A function of the logits and of all tokens so far.
    By(&'a mut dyn FnMut(&[f32], &[u32]) -> u32),
}

/// What generation gave.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The new tokens; an end-of-text token is the last one where it was the reason to stop.
    pub tokens: Vec<u32>,
    /// SHA-256 over the little-endian f32 bits of the logits of every sampled position, as hex.
    pub logits_hash: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// How long it took.
    pub timings: Timings,
}

/// A sequence of tokens on a backend.
pub struct Session {
    backend: Box<dyn Backend>,
    limits: Limits,
    tokens: Vec<u32>,
    chunk: usize,
}

impl Session {
    /// An empty sequence. `chunk` is how many tokens of a prompt run at once, at most the backend's batch.
    pub fn new(backend: Box<dyn Backend>, chunk: usize) -> Self {
        let limits = backend.limits();
        let chunk = chunk.clamp(1, limits.batch.max(1));
        Self { backend, limits, tokens: Vec::new(), chunk }
    }

    /// The backend.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The backend, for instruments. Batches run on it overwrite the cache from their position on: the sequence must be
    /// truncated to there.
    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// Forgets the tokens from `n` on.
    pub fn truncate(&mut self, n: usize) {
        self.tokens.truncate(n);
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.tokens.clear();
    }

    /// Tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Appends tokens; returns the logits after the last, or of every one of them with `all`.
    ///
    /// # Errors
    /// When the cache cannot hold them, an id is unknown, or a value is not finite: then the step is named.
    pub fn feed(&mut self, ids: &[u32], all: bool) -> Result<Vec<f32>, EngineError> {
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.room(ids.len())?;
        let mut out = Vec::new();
        // A backend that gives the logits of few rows at once takes as few rows at once.
        let size = if all { self.chunk.min(self.limits.logits_rows).max(1) } else { self.chunk };
        let chunks = ids.len().div_ceil(size);
        for (i, chunk) in ids.chunks(size).enumerate() {
            let rows = match (all, i + 1 == chunks) {
                (true, _) => Rows::All,
                (false, true) => Rows::Last,
                (false, false) => Rows::None,
            };
            let batch = Batch::checked(chunk, self.tokens.len(), rows, &self.limits).map_err(BackendError::from)?;
            let logits = self.backend.forward(batch, None)?;
            if logits.iter().any(|x| !x.is_finite()) {
                return Err(self.name_non_finite(batch).into());
            }
            out.try_reserve(logits.len())
                .map_err(|_| BackendError::Memory { what: "the logits of all tokens".to_owned() })?;
            out.extend_from_slice(logits);
            self.tokens.extend_from_slice(chunk);
        }
        Ok(out)
    }

    /// Fails unless the cache has room for `new` more tokens.
    fn room(&self, new: usize) -> Result<(), EngineError> {
        let (tokens, context) = (self.tokens.len() + new, self.limits.context);
        if tokens > context { Err(EngineError::PromptTooLong { tokens, context }) } else { Ok(()) }
    }

    /// Runs a batch again step by step to find where it left the finite numbers.
    fn name_non_finite(&mut self, batch: Batch<'_>) -> BackendError {
        let mut first = None;
        let mut listen = |step: &Step, words: &[u32]| {
            if first.is_none() && !finite(step, words) {
                first = Some(step.name.to_string());
            }
        };
        if let Err(error) = self.backend.forward(batch, Some(&mut listen)) {
            return error;
        }
        BackendError::NonFinite { step: first.unwrap_or_else(|| "output".to_owned()) }
    }

    /// Feeds the prompt, then chooses up to `limit` tokens. `emit` hears each with the logits that it was chosen from, and may
    /// end the text; `is_end` tells end-of-text tokens, which `emit` does not hear. An interrupt of the backend ends it with
    /// [`StopReason::Interrupted`], also within the prompt.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        limit: usize,
        choice: Choice<'_>,
        is_end: impl Fn(u32) -> bool,
        mut emit: impl FnMut(u32, &[f32]) -> ControlFlow<StopReason>,
    ) -> Result<Generation, EngineError> {
        let mut hash = Sha256::new();
        let mut new = Vec::new();
        let start = Instant::now();
        let mut stop_reason = if limit == 0 { Some(StopReason::Length) } else { None };
        let logits = done(self.feed(prompt, false))?.unwrap_or_else(|| {
            stop_reason = Some(StopReason::Interrupted);
            Vec::new()
        });
        let prefill = start.elapsed();
        let start = Instant::now();
        let mut hear = |token: u32, logits: &[f32]| {
            for x in logits {
                hash.update(x.to_bits().to_le_bytes());
            }
            new.push(token);
            if is_end(token) {
                return Some(StopReason::EndOfText);
            }
            match emit(token, logits) {
                ControlFlow::Break(reason) => Some(reason),
                ControlFlow::Continue(()) => (new.len() >= limit).then_some(StopReason::Length),
            }
        };
        match choice {
            Choice::By(sample) => {
                let mut logits = logits;
                while stop_reason.is_none() {
                    let token = sample(&logits, &self.tokens);
                    stop_reason = hear(token, &logits);
                    if stop_reason.is_none() && self.tokens.len() >= self.limits.context {
                        stop_reason = Some(StopReason::ContextFull);
                    }
                    if stop_reason.is_none() {
                        match done(self.feed(&[token], false))? {
                            Some(fed) => logits = fed,
                            None => stop_reason = Some(StopReason::Interrupted),
                        }
                    }
                }
            }
            Choice::Ahead(mut chooser) if stop_reason.is_none() => {
                let token = chooser.choose(&logits);
                stop_reason = hear(token, &logits);
                if stop_reason.is_none() {
                    let room = (self.limits.context - self.tokens.len()).min(limit - 1);
                    let run = self.run(token, room, chooser, true, &mut |token, logits| {
                        stop_reason = hear(token, logits);
                        stop_reason.is_none()
                    });
                    let end = done(run)?.map_or(StopReason::Interrupted, |()| StopReason::ContextFull);
                    stop_reason = stop_reason.or(Some(end));
                }
            }
            Choice::Ahead(_) => {}
        }
        let logits_hash = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let timings = Timings { prefill, decode: start.elapsed() };
        let stop_reason = stop_reason.unwrap_or(StopReason::Length);
        Ok(Generation { tokens: new, logits_hash, stop_reason, timings })
    }

    /// Feeds `token`, then always the one that `chooser` takes, `limit` tokens in all at most. `emit` hears each choice, with
    /// the logits it was made from where `logits` asks for them, and says whether to go on. A backend may work ahead.
    ///
    /// # Errors
    /// As [`Self::feed`]; without `logits` values that are not finite go unnoticed.
    pub fn run(
        &mut self,
        token: u32,
        limit: usize,
        chooser: Chooser<'_>,
        logits: bool,
        emit: &mut dyn FnMut(u32, &[f32]) -> bool,
    ) -> Result<(), EngineError> {
        self.room(limit)?;
        let lane = Lane::checked(token, self.tokens.len(), limit, &self.limits).map_err(BackendError::from)?;
        let (fed, mut next, mut finite) = (&mut self.tokens, token, true);
        self.backend.run(lane, chooser, logits, &mut |choice| {
            fed.push(next);
            next = choice.id;
            finite = choice.logits.iter().all(|x| x.is_finite());
            finite && emit(choice.id, choice.logits)
        })?;
        if !finite && let Some(last) = self.tokens.pop() {
            let ids = [last];
            let batch =
                Batch::checked(&ids, self.tokens.len(), Rows::Last, &self.limits).map_err(BackendError::from)?;
            return Err(self.name_non_finite(batch).into());
        }
        Ok(())
    }
}

/// What was computed; `None` where an interrupt stopped it.
fn done<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Err(EngineError::Backend(BackendError::Interrupted)) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether a step's output words hold finite numbers only.
fn finite(step: &Step, words: &[u32]) -> bool {
    match step.op.words() {
        Words::Halves => words.iter().all(|w| w & 0x7c00 != 0x7c00 && (w >> 16) & 0x7c00 != 0x7c00),
        Words::Quantized => true,
        Words::Floats => words.iter().all(|w| f32::from_bits(*w).is_finite()),
    }
}
