//! Measures speed as llama.cpp's `llama-bench` does, and what proves that all rows computed the same.
//!
//! A [`Subject`] (a model) is opened on a [`Place`] (the CPU or an adapter) as a [`Bench`], which runs [`Test`]s to
//! [`Row`]s; `output` prints them, `compare` relates them to an earlier run, `plot` draws them.

pub mod compare;
pub mod output;
mod place;
#[cfg(feature = "pictures")]
pub mod plot;
mod profile;
mod row;
mod subject;
mod test;
pub mod tune;

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::backend::{BackendError, Interrupt, Sampling, Sizes};
use crate::engine::{EngineError, Session, hash_numbers};
use crate::model::ModelError;
use crate::numerics::Precision;
use crate::ops::argmax;
use crate::plan::Plan;

pub use place::Place;
pub use profile::Share;
pub use row::{Agreement, Row};
pub use subject::Subject;
pub use test::{Numbers, Pair, Test, tests};

/// How long a real GPU is kept busy before it is measured: they idle at a fraction of their clock.
const WARM_UP: Duration = Duration::from_secs(1);

/// Why nothing was measured.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum BenchError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Timed runs per test.
    pub repetitions: usize,
    /// Whether to run a test before it is timed.
    pub warm_up: bool,
    /// How activations are rounded.
    pub precision: Precision,
    /// Tokens of a prompt that run at once.
    pub chunk: usize,
    /// Whether to time the steps as well, in a run of their own.
    pub profile: bool,
}

/// A model on a place, ready to be measured.
pub struct Bench<'a> {
    subject: &'a Subject,
    place: &'a Place,
    options: Options,
    plan: Plan,
    session: Session,
    load: Duration,
    first_token: Duration,
    read_bandwidth: Option<f64>,
    /// The largest memory until the first token.
    load_memory: Option<u64>,
}

/// What one run of a test gave.
struct Run {
    time: Duration,
    fingerprint: String,
}

impl<'a> Bench<'a> {
    /// Opens a model for tests of at most `context` tokens, times that and the first token, and reads memory as fast as
    /// the place allows.
    ///
    /// # Errors
    /// When the place has no such device, or no room for the model.
    pub fn open(subject: &'a Subject, place: &'a Place, context: usize, options: Options) -> Result<Self, BenchError> {
        place::forget_peak_memory();
        let start = Instant::now();
        let sizes = Sizes { context, batch: options.chunk, logits_rows: 1 };
        let plan = subject.model.for_context(sizes.context).plan(options.precision)?;
        let backend = place.open(&subject.model, plan.clone(), sizes)?;
        let load = start.elapsed();
        let mut session = Session::new(backend, options.chunk);
        session.feed(&[id(0, subject)], false)?;
        let first_token = subject.opened_after + start.elapsed();
        let load_memory = place::peak_memory();
        let read_bandwidth = place.read_bandwidth();
        place::forget_peak_memory();
        Ok(Self { subject, place, options, plan, session, load, first_token, read_bandwidth, load_memory })
    }

    /// Stops a test when this flag is set.
    pub fn stop_on(&mut self, interrupt: Interrupt) {
        self.session.backend_mut().stop_on(interrupt);
    }

    /// Runs a test and gives its row.
    ///
    /// # Errors
    /// When the test needs more context than was opened, or the backend fails.
    pub fn run(&mut self, test: Test) -> Result<Row, BenchError> {
        if self.options.warm_up {
            let start = Instant::now();
            let enough = if self.place.is_real_gpu() { WARM_UP } else { Duration::ZERO };
            self.measure(test)?;
            while start.elapsed() < enough {
                self.measure(test)?;
            }
        }
        let before = self.session.backend().counters();
        let runs = (0..self.options.repetitions).map(|_| self.measure(test)).collect::<Result<Vec<_>, _>>()?;
        let after = self.session.backend().counters();
        let mut row = Row::new(self.subject, self.place.threads(), self.session.backend(), test, &self.options);
        row.set_times(test, &runs.iter().map(|r| r.time).collect::<Vec<_>>());
        if let Some(rows) = row.rows_per_pass
            && let Some(bytes) = self.subject.bytes_per_pass(&self.plan, rows, test.middle())
        {
            row.set_bandwidth(bytes as f64 * row.avg_ts / rows as f64, self.read_bandwidth);
        }
        row.set_counters(before, after);
        row.load_s = self.load.as_secs_f64();
        row.first_token_s = self.first_token.as_secs_f64();
        row.peak_memory = self.load_memory.max(place::peak_memory());
        row.differs = runs.windows(2).any(|w| w[0].fingerprint != w[1].fingerprint);
        row.fingerprint = runs.into_iter().next_back().map(|r| r.fingerprint).unwrap_or_default();
        if self.options.profile {
            row.profile = self.profile(test)?;
        }
        Ok(row)
    }

    /// Fills the cache as deep as a test wants it; generation begins behind one token at least.
    fn fill(&mut self, test: Test) -> Result<(), EngineError> {
        let depth = test.depth.max(usize::from(test.prompt == 0));
        let before: Vec<u32> = (0..depth).map(|i| id(i, self.subject)).collect();
        let held = self.session.tokens().len() >= depth && self.session.tokens()[..depth] == before[..];
        if held && self.session.truncate(depth) == depth {
            return Ok(());
        }
        self.session.clear();
        if depth > 0 {
            self.session.feed(&before, false)?;
        }
        Ok(())
    }

    /// Runs a test once.
    fn measure(&mut self, test: Test) -> Result<Run, EngineError> {
        self.fill(test)?;
        let first = self.session.tokens().len();
        let prompt: Vec<u32> = (first..first + test.prompt).map(|i| id(i, self.subject)).collect();
        let start = Instant::now();
        let mut logits = Vec::new();
        let mut tokens = vec![id(first, self.subject)];
        if test.prompt > 0 {
            logits = self.session.feed(&prompt, false)?;
        }
        if test.generate > 0 {
            if test.prompt > 0 {
                tokens = vec![argmax::cpu(&logits)];
            }
            logits = generate(&mut self.session, &mut tokens, test.generate)?;
        }
        let time = start.elapsed();
        let mut hash = Sha256::new();
        hash.update(bytemuck::cast_slice::<u32, u8>(&tokens));
        hash_numbers(&mut hash, &logits);
        let fingerprint = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok(Run { time, fingerprint })
    }
}

/// Generates `n` tokens (at least one), each the likeliest after the last of `tokens`, and appends them; gives the logits
/// of the last.
fn generate(session: &mut Session, tokens: &mut Vec<u32>, n: usize) -> Result<Vec<f32>, EngineError> {
    session.run(tokens[tokens.len() - 1], n - 1, Sampling::Greedy, false, &mut |token, _| {
        tokens.push(token);
        true
    })?;
    let logits = session.feed(&tokens[tokens.len() - 1..], false)?;
    tokens.push(argmax::cpu(&logits));
    Ok(logits)
}

/// The token at a position of every test.
fn id(position: usize, subject: &Subject) -> u32 {
    ((position * 977 + 504) % subject.model.config.vocabulary) as u32
}
