//! Backends run a plan. They differ in speed, never in bits.

pub mod cpu;
pub mod gpu;

use std::time::Duration;

use thiserror::Error;

use crate::ops::{argmax, draw};
use crate::plan::Step;

/// A batch of consecutive tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, at most the backend's batch size.
    pub ids: &'a [u32],
    /// Position of the first; everything before it is in the cache.
    pub position: usize,
    /// Which rows' logits are wanted.
    pub logits: Rows,
}

/// Rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// None: the head is not run.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

impl Rows {
    /// First row and number of rows in a batch of `n`.
    pub fn range(self, n: usize) -> (usize, usize) {
        match self {
            Self::None => (0, 0),
            Self::Last => (n - 1, 1),
            Self::All => (0, n),
        }
    }
}

/// Hears the output of each step as 32-bit words: the bits of f32, or the words of quantised activations
/// (per row: high plane, low plane, scales, padded to four words), or the pairs of f16 a step appended to the cache.
pub type Listener<'a> = &'a mut dyn FnMut(&Step, &[u32]);

/// What a backend has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kernels launched.
    pub dispatches: u64,
    /// Time the host took to encode and submit them.
    pub encode: Duration,
    /// Tokens they computed.
    pub tokens: u64,
}

impl Counters {
    /// Counts a submission.
    fn add(&mut self, dispatches: usize, encode: Duration, tokens: usize) {
        self.dispatches += dispatches as u64;
        self.encode += encode;
        self.tokens += tokens as u64;
    }
}

/// How long a step took, or several steps that the backend runs as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// The op of the steps, or the kernel that runs them.
    pub op: String,
    /// Their names; of a fused kernel those whose outputs it leaves.
    pub steps: Vec<String>,
    /// Time.
    pub time: Duration,
}

/// What can run a plan.
pub trait Backend {
    /// Runs a batch; returns the wanted rows of logits, one after the other.
    fn forward(&mut self, batch: Batch<'_>, listener: Option<Listener<'_>>) -> Result<&[f32], BackendError>;

    /// Feeds `token` at `position`, then always the token that `chooser` makes of the logits, until `limit` tokens are fed or
    /// `emit` returns `false`. `emit` hears each choice, and with `logits` what it was made from. The cache must hold
    /// `position + limit` positions; those behind the last token heard are undefined, and so is how many numbers were drawn.
    fn run(
        &mut self,
        token: u32,
        position: usize,
        limit: usize,
        chooser: Chooser<'_>,
        logits: bool,
        emit: &mut dyn FnMut(Chosen<'_>) -> bool,
    ) -> Result<(), BackendError>;

    /// Runs a batch as [`Backend::forward`] does and times its steps, in order.
    fn profile(&mut self, batch: Batch<'_>) -> Result<Vec<StepTime>, BackendError>;

    /// What was done since the backend was opened; zeros from a backend that does not count.
    fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The largest batch.
    fn batch_size(&self) -> usize;

    /// Positions the cache holds.
    fn context(&self) -> usize;

    /// `cpu`, or the GPU API's name.
    fn name(&self) -> &'static str;

    /// The device's name.
    fn device(&self) -> String;
}

/// How a backend chooses tokens.
pub enum Chooser<'a> {
    /// The largest logit; ties go to the lower id.
    Greedy,
    /// Drawn by these options and a sequence of numbers from 0 to below 1, one for each token.
    Draw(draw::Options, &'a mut dyn FnMut() -> f32),
}

impl Chooser<'_> {
    /// Whether a device can do it.
    fn on_device(&self) -> bool {
        match self {
            Self::Greedy => true,
            Self::Draw(options, _) => options.on_device(),
        }
    }

    /// Chooses from logits.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        match self {
            Self::Greedy => argmax::cpu(logits),
            Self::Draw(options, next) => draw::cpu(logits, options, next()),
        }
    }
}

/// A token that a backend chose itself.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Its id.
    pub id: u32,
    /// What it was chosen from; empty where the caller did not ask for that.
    pub logits: &'a [f32],
}

/// [`Backend::run`] made of [`Backend::forward`].
fn run_by_batches(
    backend: &mut dyn Backend,
    mut token: u32,
    position: usize,
    limit: usize,
    mut chooser: Chooser<'_>,
    emit: &mut dyn FnMut(Chosen<'_>) -> bool,
) -> Result<(), BackendError> {
    for i in 0..limit {
        let batch = Batch { ids: &[token], position: position + i, logits: Rows::Last };
        let logits = backend.forward(batch, None)?;
        token = chooser.choose(logits);
        if !emit(Chosen { id: token, logits }) {
            break;
        }
    }
    Ok(())
}

/// Sizes of a backend's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Positions in the cache.
    pub context: usize,
    /// The largest batch.
    pub batch: usize,
    /// The most rows of logits a batch may ask for.
    pub logits_rows: usize,
}

/// Why a backend could not run.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum BackendError {
    #[error("no GPU adapter found{0}; install a Vulkan driver (Linux: mesa-vulkan-drivers) or use --backend cpu")]
    NoAdapter(String),
    #[error("no adapter matches --device {wanted}; `samebits devices` lists: {found}")]
    NoSuchDevice { wanted: String, found: String },
    #[error("{device} lacks {what}; use --backend cpu or another --device")]
    Unsupported { device: String, what: String },
    #[error("out of memory on {device} while allocating {what}; use a smaller --ctx, a smaller model or --backend cpu")]
    OutOfMemory { device: String, what: String },
    #[error("{device} failed: {message}; update its driver or use --backend cpu")]
    Device { device: String, message: String },
    #[error("SAMEBITS_CPU={wanted} is not one of this processor's paths; choose {available} or leave it unset")]
    CpuPath { wanted: String, available: String },
    #[error("SAMEBITS_ARITHMETIC={wanted} is unknown; choose portable or native or leave it unset")]
    Arithmetic { wanted: String },
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    TokenId { id: u32, vocabulary: usize },
    #[error("step '{step}' produced NaN or infinity; the model file is damaged or its weights overflow f32")]
    NonFinite { step: String },
}

/// Fails on an id outside the vocabulary.
fn check_ids(ids: &[u32], vocabulary: usize) -> Result<(), BackendError> {
    match ids.iter().find(|id| **id as usize >= vocabulary) {
        Some(&id) => Err(BackendError::TokenId { id, vocabulary }),
        None => Ok(()),
    }
}
