//! Backends run a plan. They differ in speed, never in bits.

mod batch;
pub mod cpu;
pub mod gpu;
mod kept;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ops::{argmax, draw};
use crate::plan::{Buffer, Plan, PlanError, Step, StepName};

pub use batch::{Batch, BatchError, Interrupt, Lane, Limits, Rows};

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
    pub steps: Vec<StepName>,
    /// Time.
    pub time: Duration,
    /// The kernels that were launched for them, where there are kernels.
    pub launches: Vec<Launch>,
}

/// A kernel that was launched, and how it was spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The kernel with its format and constants: `gate_up.Q4_K.THREADS=256…`.
    pub kernel: String,
    /// Workgroups.
    pub groups: [u32; 3],
}

/// What can run a plan.
///
/// Every call stops with [`BackendError::Interrupted`] between two steps once [`Backend::stop_on`]'s flag is set; what the
/// cache holds from the batch's position on is undefined then.
pub trait Backend {
    /// Runs a batch; returns the wanted rows of logits, `[rows, vocabulary]`.
    fn forward(&mut self, batch: Batch<'_>, listener: Option<Listener<'_>>) -> Result<&[f32], BackendError>;

    /// Feeds a lane's token, then always the token that `sampling` makes of the logits, until its steps are done or `emit`
    /// returns `false`. `emit` is called once per token, with the logits it was chosen from if `logits` is set. Cache
    /// contents past the last emitted token, and the number of random values consumed, are unspecified.
    fn run(
        &mut self,
        lane: Lane,
        sampling: Sampling<'_>,
        logits: bool,
        emit: &mut dyn FnMut(Sampled<'_>) -> bool,
    ) -> Result<(), BackendError>;

    /// Runs a batch as [`Backend::forward`] does and times its steps, in order.
    fn profile(&mut self, batch: Batch<'_>) -> Result<Vec<StepTime>, BackendError>;

    /// Work done since the backend was opened; zeros from a backend that does not count.
    fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The kernels that a pass of `rows` rows meets in a layer, on a backend that has kernels.
    fn layer(&self, rows: usize) -> Option<String> {
        let _ = rows;
        None
    }

    /// The steps of a single token that no fused kernel takes, on a backend that fuses steps: the same bits, slower.
    fn unfused_because(&self) -> Option<&str> {
        None
    }

    /// What batches and lanes are checked against.
    fn limits(&self) -> Limits;

    /// Whether a batch may begin at a position of what was computed. Layers with windows keep the newest positions only, so that going
    /// far back means to begin again at 0; elsewhere [`Backend::forward`] fails with [`BatchError::Replaced`].
    fn resumes(&self, position: usize) -> bool {
        let _ = position;
        true
    }

    /// Stops when this flag is set.
    fn stop_on(&mut self, interrupt: Interrupt);

    /// `cpu`, or the GPU API's name.
    fn name(&self) -> &'static str;

    /// The device's name.
    fn device(&self) -> String;

    /// The device's driver and its version, where it has one.
    fn driver(&self) -> Option<String> {
        None
    }
}

/// How a backend samples tokens.
pub enum Sampling<'a> {
    /// The largest logit; ties go to the lower id.
    Greedy,
    /// Drawn by these options and a sequence of numbers from 0 to below 1, one for each token.
    Draw(draw::Options, &'a mut dyn FnMut() -> f32),
}

impl Sampling<'_> {
    /// Whether a device can do it.
    fn on_device(&self) -> bool {
        match self {
            Self::Greedy => true,
            Self::Draw(options, _) => options.on_device(),
        }
    }

    /// Samples a token from logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        match self {
            Self::Greedy => argmax::cpu(logits),
            Self::Draw(options, next) => draw::cpu(logits, options, next()),
        }
    }
}

/// A token that a backend sampled itself.
#[derive(Clone, Copy, Debug)]
pub struct Sampled<'a> {
    /// Its id.
    pub id: u32,
    /// What it was chosen from; empty where the caller did not ask for that.
    pub logits: &'a [f32],
}

/// [`Backend::run`] made of [`Backend::forward`].
fn run_by_batches(
    backend: &mut dyn Backend,
    lane: Lane,
    mut sampling: Sampling<'_>,
    emit: &mut dyn FnMut(Sampled<'_>) -> bool,
) -> Result<(), BackendError> {
    let limits = backend.limits();
    lane.is_for(&limits)?;
    let mut token = lane.token();
    for i in 0..lane.steps() {
        let ids = [token];
        let logits = backend.forward(Batch::checked(&ids, lane.position() + i, Rows::Last, &limits)?, None)?;
        token = sampling.sample(logits);
        if !emit(Sampled { id: token, logits }) {
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

impl Sizes {
    /// Tokens of a prompt that are computed at once where nobody asks for another number: what is fast on every real backend.
    /// On a software adapter 512 would take seconds, and an interrupt waits for parts of them.
    pub fn usual_batch(software: bool) -> usize {
        if software { 32 } else { 512 }
    }

    /// Rows of a buffer.
    fn rows(&self, buffer: &Buffer) -> usize {
        if buffer.wanted { self.logits_rows } else { self.batch }
    }

    /// What a backend with these buffers for `plan` can hold.
    fn limits(&self, plan: &Plan) -> Limits {
        let Self { context, batch, logits_rows } = *self;
        Limits { context, batch, logits_rows, vocabulary: plan.token_ids() }
    }
}

/// Why a backend could not run.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum BackendError {
    #[error("no GPU adapter found{0}")]
    NoAdapter(String),
    #[error("{api} does not exist on {system}")]
    NoApi { api: &'static str, system: &'static str, instead: &'static str },
    #[error("no adapter matches '{wanted}'; there are: {found}")]
    NoSuchDevice { wanted: String, found: String },
    #[error("{device} lacks {what}")]
    Unsupported { device: String, what: String },
    #[error("out of memory on {device} while allocating {what}")]
    OutOfMemory { device: String, what: String },
    #[error("this machine's memory does not hold {what}")]
    Memory { what: String },
    #[error("{device} failed: {message}")]
    Device { device: String, message: String },
    #[error("{device} failed with {compiler}: {message}")]
    Kernel { device: String, compiler: gpu::Compiler, message: String },
    #[error("SAMEBITS_CPU={wanted} is not one of this processor's paths; choose {available} or leave it unset")]
    CpuPath { wanted: String, available: String },
    #[error("this processor lacks the instructions of the path {wanted}")]
    Instructions { wanted: &'static str },
    #[error("SAMEBITS_ARITHMETIC={wanted} is unknown; choose portable or native or leave it unset")]
    Arithmetic { wanted: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("interrupted")]
    Interrupted,
    #[error("step '{step}' produced NaN or infinity; the model file is damaged or its weights overflow f32")]
    NonFinite { step: String },
}
