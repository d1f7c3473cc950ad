//! One line of the results.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::profile::Share;
use super::{Options, Subject, Test};
use crate::backend::{Backend, Counters};
use crate::numerics::Precision;

/// A test's result. Fields that llama-bench has too are named as there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// This program's version.
    pub version: String,
    /// `cpu`, or the GPU API's name.
    pub backend: String,
    /// The device's name.
    pub device: String,
    /// The model's file.
    pub model_filename: String,
    /// As `llama 1B Q4_0`.
    pub model_type: String,
    /// Bytes of its tensors.
    pub model_size: u64,
    /// Its weights.
    pub model_n_params: u64,
    /// CPU threads.
    pub n_threads: Option<usize>,
    /// Tokens of a prompt that run at once.
    pub n_ubatch: usize,
    /// `fast` or `precise`.
    pub precision: String,
    /// The steps of a single token that no fused kernel takes, on a backend that fuses steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfused: Option<String>,
    /// Rows of each pass, where all have as many: 1 where tokens are generated.
    pub rows_per_pass: Option<usize>,
    /// The kernels that a pass meets in a layer, on a backend that has kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The test's name.
    pub test: String,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens generated.
    pub n_gen: usize,
    /// Tokens in the cache before.
    pub n_depth: usize,
    /// Mean time of a run.
    pub avg_ns: u64,
    /// Its standard deviation.
    pub stddev_ns: u64,
    /// Mean of the tokens per second.
    pub avg_ts: f64,
    /// Their standard deviation.
    pub stddev_ts: f64,
    /// Their median.
    pub median_ts: f64,
    /// The time of each run.
    pub samples_ns: Vec<u64>,
    /// Tokens per second of each run.
    pub samples_ts: Vec<f64>,
    /// Bytes of weights and cache that passes read, in 1e9 per second, where they are of one size and known.
    pub gb_per_s: Option<f64>,
    /// What a plain loop reads there.
    pub read_gb_per_s: Option<f64>,
    /// The share of it.
    pub bandwidth_share: Option<f64>,
    /// Kernels launched per token.
    pub dispatches_per_token: Option<f64>,
    /// Kernels launched per pass.
    pub dispatches_per_pass: Option<f64>,
    /// Time the host encodes for a token, in microseconds.
    pub encode_us_per_token: Option<f64>,
    /// Seconds to open the backend: repacking or uploading the weights, compiling.
    pub load_s: f64,
    /// Seconds from the start of the process to the first token, this backend being the first.
    pub first_token_s: f64,
    /// The largest memory of the process for this backend, in bytes.
    pub peak_memory: Option<u64>,
    /// Hash of the tokens and of the last logits: equal for equal tests, or a backend is wrong.
    pub fingerprint: String,
    /// Whether another run or row of the same test has another fingerprint.
    pub differs: bool,
    /// Tokens per second against those of an earlier run.
    pub ratio: Option<f64>,
    /// The standard deviation of that.
    pub ratio_stddev: Option<f64>,
    /// Time per step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Share>,
}

impl Row {
    /// A row that names what is measured.
    pub(super) fn new(
        subject: &Subject,
        threads: Option<usize>,
        backend: &dyn Backend,
        test: Test,
        options: &Options,
    ) -> Self {
        let n_ubatch = options.chunk.min(backend.limits().batch);
        let rows_per_pass = test.rows_per_pass(n_ubatch);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: backend.name().to_owned(),
            device: backend.device(),
            model_filename: subject.file.clone(),
            model_type: subject.description(),
            model_size: subject.size(),
            model_n_params: subject.model.config.parameters,
            n_threads: threads,
            unfused: backend.unfused_because().map(str::to_owned),
            rows_per_pass,
            layer: rows_per_pass.and_then(|rows| backend.layer(rows)),
            n_ubatch,
            precision: match options.precision {
                Precision::Fast => "fast",
                Precision::Precise => "precise",
            }
            .to_owned(),
            test: test.name(),
            n_prompt: test.prompt,
            n_gen: test.generate,
            n_depth: test.depth,
            ..Self::default()
        }
    }

    /// The times of its runs.
    pub(super) fn set_times(&mut self, test: Test, times: &[Duration]) {
        let nanoseconds: Vec<f64> = times.iter().map(|t| t.as_nanos() as f64).collect();
        self.samples_ts = nanoseconds.iter().map(|t| test.tokens() as f64 * 1e9 / t).collect();
        let (time, rate) = (Statistics::of(&nanoseconds), Statistics::of(&self.samples_ts));
        (self.avg_ns, self.stddev_ns) = (time.mean as u64, time.deviation as u64);
        (self.avg_ts, self.stddev_ts, self.median_ts) = (rate.mean, rate.deviation, rate.median);
        self.samples_ns = nanoseconds.iter().map(|t| *t as u64).collect();
    }

    /// Bytes read per second, and how many a plain loop reads.
    pub(super) fn set_bandwidth(&mut self, bytes: f64, best: Option<f64>) {
        self.gb_per_s = Some(bytes / 1e9);
        self.read_gb_per_s = best.map(|b| b / 1e9);
        self.bandwidth_share = best.map(|b| bytes / b);
    }

    /// What the backend counted before and after the runs.
    pub(super) fn set_counters(&mut self, before: Counters, after: Counters) {
        let tokens = (after.tokens - before.tokens) as f64;
        if tokens > 0.0 {
            let per_token = (after.dispatches - before.dispatches) as f64 / tokens;
            self.dispatches_per_token = Some(per_token);
            self.dispatches_per_pass = self.rows_per_pass.map(|rows| per_token * rows as f64);
            self.encode_us_per_token = Some((after.encode - before.encode).as_secs_f64() * 1e6 / tokens);
        }
    }
}

/// Figures of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (of a sample: divided by `n - 1`); 0 for one value.
    pub deviation: f64,
    /// The median.
    pub median: f64,
}

impl Statistics {
    /// Of a sample that is not empty.
    pub fn of(samples: &[f64]) -> Self {
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = (sorted[sorted.len() / 2] + sorted[(sorted.len() - 1) / 2]) / 2.0;
        Self { mean, deviation: variance.sqrt(), median }
    }
}

/// Watches that equal tests have equal fingerprints.
#[derive(Debug, Default)]
pub struct Agreement {
    first: HashMap<[String; 3], String>,
    broken: bool,
}

impl Agreement {
    /// Marks a row that differs from the first one of its test.
    pub fn check(&mut self, row: &mut Row) {
        let key = [row.model_filename.clone(), row.precision.clone(), row.test.clone()];
        let first = self.first.entry(key).or_insert_with(|| row.fingerprint.clone());
        row.differs |= *first != row.fingerprint;
        self.broken |= row.differs;
    }

    /// Whether any row was marked.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_small_samples() {
        let s = Statistics::of(&[2.0, 4.0, 9.0]);
        assert_eq!((s.mean, s.deviation, s.median), (5.0, 13.0f64.sqrt(), 4.0));
        assert_eq!(Statistics::of(&[1.0, 3.0]).median, 2.0);
        assert_eq!(Statistics::of(&[7.0]), Statistics { mean: 7.0, deviation: 0.0, median: 7.0 });
    }

    #[test]
    fn rows_that_disagree_are_marked() {
        let row = |test: &str, fingerprint: &str| Row {
            test: test.to_owned(),
            fingerprint: fingerprint.to_owned(),
            ..Row::default()
        };
        let mut agreement = Agreement::default();
        let mut rows = [row("pp8", "a"), row("tg4", "b"), row("pp8", "a")];
        rows.iter_mut().for_each(|r| agreement.check(r));
        assert!(!agreement.is_broken());
        let mut other = row("tg4", "c");
        agreement.check(&mut other);
        assert!(other.differs && agreement.is_broken());
        // A row whose own runs differed.
        let mut agreement = Agreement::default();
        agreement.check(&mut Row { differs: true, ..row("pp8", "a") });
        assert!(agreement.is_broken());
    }

    #[test]
    fn counters_and_bandwidth_are_per_token() {
        let mut row = Row { rows_per_pass: Some(2), ..Row::default() };
        let after = Counters { dispatches: 340, encode: Duration::from_micros(50), tokens: 12 };
        row.set_counters(Counters { dispatches: 40, encode: Duration::from_micros(10), tokens: 2 }, after);
        assert_eq!((row.dispatches_per_token, row.encode_us_per_token), (Some(30.0), Some(4.0)));
        assert_eq!(row.dispatches_per_pass, Some(60.0));
        row.set_bandwidth(2e9, Some(8e9));
        assert_eq!((row.gb_per_s, row.bandwidth_share), (Some(2.0), Some(0.25)));
        let mut uncounted = Row::default();
        uncounted.set_counters(Counters::default(), Counters::default());
        assert_eq!((uncounted.dispatches_per_token, uncounted.dispatches_per_pass), (None, None));
    }
}
