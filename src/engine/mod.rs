//! A session: prompt in, tokens out, with the cache in between.

mod lookup;
mod open;
mod perplexity;
mod stops;
mod text;

use std::ops::ControlFlow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::backend::{Backend, BackendError, Batch, Lane, Limits, Rows, Sampling};
use crate::grammar::GrammarError;
use crate::host::Instant;
use crate::plan::{Step, Words};

use lookup::Lookup;

pub use lookup::Drafts;
pub use open::{Fact, OpenOptions, Refusal, Wanted, on_adapter, open, usable};
pub use perplexity::{Perplexity, perplexity};
pub use stops::Stops;
pub use text::{Generator, Request, Text, Token};

/// Why a session stopped with an error.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The form that a text is to keep to.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// More prompt than cache.
    #[error("the prompt has {tokens} tokens but the context holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the cache.
        context: usize,
    },
    /// Less text than one window.
    #[error("the text has {tokens} tokens, fewer than one window of {context}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its answer.
    EndOfText,
    /// One of the strings that the caller wants to end at.
    StopString,
    /// The text has the form that it was to keep to, and nothing can follow.
    Complete,
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

/// What samples the next token.
pub enum SampleOn<'a> {
    /// By the logits alone: a backend does it itself and works ahead.
    Backend(Sampling<'a>),
    /// A function of the logits and of all tokens so far.
    Host(&'a mut dyn FnMut(&[f32], &[u32]) -> u32),
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
    /// What was drafted, where the session looks drafts up.
    pub drafts: Option<Drafts>,
}

/// A generation under way.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    hash: Sha256,
    tokens: Vec<u32>,
    next: Pending,
    stopped: Option<StopReason>,
    timings: Timings,
    lookup: Option<Lookup>,
}

/// What the next token comes from.
#[derive(Clone, Debug)]
enum Pending {
    /// Logits that nothing was chosen from yet.
    Logits(Vec<f32>),
    /// A token that was chosen, and is not yet in the cache.
    Token(u32),
}

impl Default for Pending {
    fn default() -> Self {
        Self::Logits(Vec::new())
    }
}

impl Progress {
    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What became of it, for a reason that is the caller's where none was told before.
    pub fn finish(self, reason: StopReason) -> Generation {
        let logits_hash = hex(&self.hash.finalize());
        let stop_reason = self.stopped.unwrap_or(reason);
        let drafts = self.lookup.map(|lookup| lookup.counts);
        Generation { tokens: self.tokens, logits_hash, stop_reason, timings: self.timings, drafts }
    }
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Adds the little-endian bits of numbers to a hash: all at once, as a call for each number takes five times as long.
pub(crate) fn hash_numbers(hash: &mut Sha256, numbers: &[f32]) {
    if cfg!(target_endian = "little") {
        hash.update(bytemuck::cast_slice::<f32, u8>(numbers));
    } else {
        numbers.iter().for_each(|x| hash.update(x.to_bits().to_le_bytes()));
    }
}

/// Hears a token and the logits that it was chosen from; breaks with a reason where the text ends, and with none where it is enough for
/// now.
type Hear<'a> = &'a mut dyn FnMut(u32, &[f32]) -> ControlFlow<Option<StopReason>>;

/// A sequence of tokens on a backend.
pub struct Session {
    backend: Box<dyn Backend>,
    limits: Limits,
    tokens: Vec<u32>,
    chunk: usize,
    looks_up: bool,
}

impl Session {
    /// An empty sequence. `chunk` is how many tokens of a prompt run at once, at most the backend's batch.
    pub fn new(backend: Box<dyn Backend>, chunk: usize) -> Self {
        let limits = backend.limits();
        let chunk = chunk.clamp(1, limits.batch.max(1));
        Self { backend, limits, tokens: Vec::new(), chunk, looks_up: false }
    }

    /// Drafts the texts that begin from now on by looking up in them what followed their last tokens before. That changes no bit.
    /// It is faster where a text repeats itself, and slower where drafts do not hold. A draft has fewer tokens than the backend
    /// gives logits of at once. `false` is how a session begins.
    #[must_use]
    pub fn looking_up(mut self, looks_up: bool) -> Self {
        self.looks_up = looks_up;
        self
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

    /// Forgets the tokens from `n` on, or all where the caches of windows no longer have what the next token sees
    /// ([`Backend::resumes`]); returns how many are left.
    pub fn truncate(&mut self, n: usize) -> usize {
        let n = n.min(self.tokens.len());
        self.tokens.truncate(if self.backend.resumes(n) { n } else { 0 });
        self.tokens.len()
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

    /// Feeds the prompt, then samples up to `limit` tokens. `emit` is called with each and the logits that it was sampled from, and
    /// may end the text; `is_end` tells end-of-text tokens, for which `emit` is not called. An interrupt of the backend ends it
    /// with [`StopReason::Interrupted`], also within the prompt.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        limit: usize,
        sample_on: SampleOn<'_>,
        is_end: impl Fn(u32) -> bool,
        emit: impl FnMut(u32, &[f32]) -> ControlFlow<StopReason>,
    ) -> Result<Generation, EngineError> {
        let mut progress = self.begin(prompt)?;
        let reason = match limit {
            0 => progress.stopped,
            _ => self.advance(&mut progress, limit, sample_on, is_end, emit)?,
        };
        Ok(progress.finish(reason.unwrap_or(StopReason::Length)))
    }

    /// Feeds a prompt; [`Self::advance`] goes on from there. What is fed meanwhile by others belongs to the text.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn begin(&mut self, prompt: &[u32]) -> Result<Progress, EngineError> {
        let start = Instant::now();
        let logits = done(self.feed(prompt, false))?;
        let stopped = logits.is_none().then_some(StopReason::Interrupted);
        let timings = Timings { prefill: start.elapsed(), decode: Duration::ZERO };
        let next = Pending::Logits(logits.unwrap_or_default());
        let most = self.limits.batch.min(self.limits.logits_rows).saturating_sub(1).min(lookup::MOST);
        let lookup = self.looks_up.then(|| Lookup::new(&self.tokens, most));
        Ok(Progress { hash: Sha256::new(), tokens: Vec::new(), next, stopped, timings, lookup })
    }

    /// Chooses up to `most` tokens more, at least one, as [`Self::generate`] does; says why the text ended, where it did.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn advance(
        &mut self,
        progress: &mut Progress,
        most: usize,
        sample_on: SampleOn<'_>,
        is_end: impl Fn(u32) -> bool,
        mut emit: impl FnMut(u32, &[f32]) -> ControlFlow<StopReason>,
    ) -> Result<Option<StopReason>, EngineError> {
        if progress.stopped.is_some() {
            return Ok(progress.stopped);
        }
        let start = Instant::now();
        let Progress { hash, tokens, next, stopped, timings, lookup } = progress;
        let enough = tokens.len().saturating_add(most.max(1));
        let mut hear = |token: u32, logits: &[f32]| {
            hash_numbers(hash, logits);
            tokens.push(token);
            if is_end(token) {
                return ControlFlow::Break(Some(StopReason::EndOfText));
            }
            match emit(token, logits) {
                ControlFlow::Break(reason) => ControlFlow::Break(Some(reason)),
                ControlFlow::Continue(()) if tokens.len() >= enough => ControlFlow::Break(None),
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
            }
        };
        *stopped = match (lookup, sample_on) {
            (Some(lookup), on) => self.advance_by_lookup(next, on, most.max(1), lookup, &mut hear)?,
            (None, SampleOn::Host(sample)) => self.advance_by(next, sample, &mut hear)?,
            (None, SampleOn::Backend(sampling)) => self.advance_ahead(next, sampling, most, &mut hear)?,
        };
        timings.decode += start.elapsed();
        Ok(*stopped)
    }

    fn advance_by(
        &mut self,
        next: &mut Pending,
        sample: &mut dyn FnMut(&[f32], &[u32]) -> u32,
        hear: Hear<'_>,
    ) -> Result<Option<StopReason>, EngineError> {
        loop {
            if let Pending::Token(token) = *next {
                if self.tokens.len() >= self.limits.context {
                    return Ok(Some(StopReason::ContextFull));
                }
                match done(self.feed(&[token], false))? {
                    Some(logits) => *next = Pending::Logits(logits),
                    None => return Ok(Some(StopReason::Interrupted)),
                }
            }
            if let Pending::Logits(logits) = &*next {
                let token = sample(logits, &self.tokens);
                let flow = hear(token, logits);
                *next = Pending::Token(token);
                if let ControlFlow::Break(reason) = flow {
                    return Ok(reason);
                }
            }
        }
    }

    fn advance_ahead(
        &mut self,
        next: &mut Pending,
        mut sampling: Sampling<'_>,
        mut most: usize,
        hear: Hear<'_>,
    ) -> Result<Option<StopReason>, EngineError> {
        let token = match &*next {
            Pending::Token(token) => *token,
            Pending::Logits(logits) => {
                let token = sampling.sample(logits);
                let flow = hear(token, logits);
                *next = Pending::Token(token);
                if let ControlFlow::Break(reason) = flow {
                    return Ok(reason);
                }
                most -= 1;
                token
            }
        };
        let room = (self.limits.context - self.tokens.len()).min(most);
        let mut flow = ControlFlow::Continue(());
        let run = self.run(token, room, sampling, true, &mut |token, logits| {
            flow = hear(token, logits);
            *next = Pending::Token(token);
            flow.is_continue()
        });
        match (done(run)?, flow) {
            (Some(()), ControlFlow::Continue(())) => Ok(Some(StopReason::ContextFull)),
            (None, ControlFlow::Continue(())) => Ok(Some(StopReason::Interrupted)),
            (_, ControlFlow::Break(reason)) => Ok(reason),
        }
    }

    /// Feeds `token`, then always the one that `sampling` takes, `limit` tokens in all at most. `emit` is called with each sampled
    /// token, and with its logits where `logits` asks for them, and returns whether to go on. A backend may work ahead.
    ///
    /// # Errors
    /// As [`Self::feed`]; without `logits` values that are not finite go unnoticed.
    pub fn run(
        &mut self,
        token: u32,
        limit: usize,
        sampling: Sampling<'_>,
        logits: bool,
        emit: &mut dyn FnMut(u32, &[f32]) -> bool,
    ) -> Result<(), EngineError> {
        self.room(limit)?;
        let lane = Lane::checked(token, self.tokens.len(), limit, &self.limits).map_err(BackendError::from)?;
        let (fed, mut next, mut finite) = (&mut self.tokens, token, true);
        self.backend.run(lane, sampling, logits, &mut |sampled| {
            fed.push(next);
            next = sampled.id;
            finite = sampled.logits.iter().all(|x| x.is_finite());
            finite && emit(sampled.id, sampled.logits)
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
