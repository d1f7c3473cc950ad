//! Proves on the user's own device what this program promises: the ladder of `samebits verify`.
//!
//! Each rung runs the program itself and compares bits. A rung that does not hold says where: the op, or the first step
//! of the model whose output differs, how many of its elements, and the worst pair.

pub(crate) mod ops;
pub mod report;
pub mod selftest;
pub mod tensors;

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::backend::cpu::Cpu;
use crate::backend::gpu::{AdapterOptions, Device, Gpu};
use crate::backend::{Backend, BackendError, Batch, Interrupt, Rows, Sizes};
use crate::engine::{EngineError, Session, hash_numbers};
use crate::model::{Model, ModelError};
use crate::numerics::{Precision, VERSION};
use crate::plan::WeightSource as _;
use crate::plan::{Step, Words};

/// Why verification itself could not run.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum VerifyError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("cannot run this program again: {0}")]
    Process(String),
    #[error("interrupted")]
    Interrupted,
    #[error("{tokens} tokens do not fit one batch of {batch} on this device; use a shorter prompt")]
    PromptTooLong { tokens: usize, batch: usize },
}

/// What to verify.
#[derive(Clone, Debug)]
pub struct Options {
    /// The adapter; `None` verifies the CPU alone.
    pub gpu: Option<AdapterOptions>,
    /// How activations are rounded.
    pub precision: Precision,
    /// CPU threads.
    pub threads: usize,
    /// Repetitions of the same prompt.
    pub runs: usize,
    /// Rounds of random cases per op.
    pub rounds: u64,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Tokens of a long prompt.
    pub many: usize,
    /// Ends the verification within a rung.
    pub interrupt: Interrupt,
}

/// The verdict on one rung.
#[derive(Clone, Debug, Serialize)]
pub struct Rung {
    /// `ops, GPU = CPU`, `L0 repeat, CPU`, …
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was compared, and on a failure what differs first.
    pub detail: String,
    /// The tensors that differ first.
    #[serde(skip)]
    pub difference: Option<Difference>,
}

/// Two results that should have the same bits.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What gave them, such as `step 'blk.3.attn_q' (matmul)`.
    pub place: String,
    /// The start of a file's name for them.
    pub file: String,
    /// Whether the words are floats.
    pub floats: bool,
    /// What was expected (the CPU's, or the first run's), and what came.
    pub words: [Vec<u32>; 2],
}

impl Difference {
    fn of_step(step: &Step, words: [Vec<u32>; 2]) -> Self {
        let floats = step.op.words() == Words::Floats;
        let place = format!("step '{}' ({})", step.name, step.op.name());
        Self { place, file: step.name.to_string(), floats, words }
    }

    fn of_logits(rung: &str, reference: &[f32], got: &[f32]) -> Self {
        let words = [reference, got].map(|x| x.iter().map(|x| x.to_bits()).collect());
        let file = format!("logits.{}", rung.replace(", ", ".").replace(' ', "."));
        Self { place: "logits".to_owned(), file, floats: true, words }
    }

    /// How many words differ, and the worst pair of numbers.
    pub fn describe(&self) -> String {
        let [expected, got] = &self.words;
        let pairs: Vec<_> = expected.iter().zip(got).enumerate().filter(|(_, (a, b))| a != b).collect();
        let distance = |a: u32, b: u32| if self.floats { float_distance(a, b) } else { a.abs_diff(b) as f32 };
        let worst = pairs.iter().max_by(|x, y| distance(*x.1.0, *x.1.1).total_cmp(&distance(*y.1.0, *y.1.1)));
        let Some((at, (a, b))) = worst else { return format!("{}: the lengths differ", self.place) };
        let value = |w: u32| if self.floats { format!("{:e}", f32::from_bits(w)) } else { format!("{w:#010x}") };
        let (place, wrong, all) = (&self.place, pairs.len(), expected.len());
        format!("{place}: {wrong} of {all} elements differ, worst at {at}: {} expected, {} got", value(**a), value(**b))
    }
}

fn float_distance(a: u32, b: u32) -> f32 {
    let distance = (f32::from_bits(a) - f32::from_bits(b)).abs();
    if distance.is_nan() { f32::INFINITY } else { distance }
}

/// What the ladder found.
#[derive(Clone, Debug)]
pub struct Report {
    /// A verdict per rung.
    pub rungs: Vec<Rung>,
    /// A hash over the numerics version, the model's name and size, and the logits of a fixed prompt: equal on all
    /// conforming machines.
    pub fingerprint: String,
}

/// Runs the ladder; `progress` hears each rung when it is decided, and says whether to go on.
///
/// # Errors
/// When a model or device cannot be used at all, or `progress` wants no more; a rung that does not hold is no error.
pub fn verify(
    model: &Model,
    options: &Options,
    progress: &mut dyn FnMut(&Rung) -> bool,
) -> Result<Report, VerifyError> {
    let mut rungs = Vec::new();
    let mut add = |rung: Rung| {
        let go_on = progress(&rung);
        rungs.push(rung);
        if go_on { Ok(()) } else { Err(VerifyError::Interrupted) }
    };
    if let Some(choice) = &options.gpu {
        let mut device = Device::open(choice)?;
        add(selftest::rung(&mut device)?)?;
        add(ops::verify(&mut device, options.rounds)?)?;
    }
    // The prompt again and again, for the kernels of many rows. Every prompt fits in one piece.
    let room = options.prompt.len().max(options.many).max(FINGERPRINT_TOKENS);
    let many: Vec<u32> = options.prompt.iter().copied().cycle().take(room).collect();
    let sizes = Sizes { context: room, batch: room, logits_rows: room };
    let mut cpu = Cpu::new(model, model.plan(options.precision)?, sizes, options.threads)?;
    cpu.stop_on(options.interrupt.clone());
    let reference = logits(&mut cpu, &options.prompt)?;
    add(repeat("L0 repeat, CPU", &mut cpu, options, &reference)?)?;
    add(cuts("L2 cuts, CPU", model, options, None, &reference)?)?;
    let Some(choice) = &options.gpu else {
        let fingerprint = fingerprint(model, options, &mut cpu)?;
        return Ok(Report { rungs, fingerprint });
    };
    let mut gpu = Gpu::new(Device::open(choice)?, model, model.plan(options.precision)?, sizes, &mut |_| {})?;
    gpu.stop_on(options.interrupt.clone());
    if gpu.limits().batch < room {
        return Err(VerifyError::PromptTooLong { tokens: room, batch: gpu.limits().batch });
    }
    add(repeat("L0 repeat, GPU", &mut gpu, options, &reference)?)?;
    add(cuts("L2 cuts, GPU", model, options, Some(choice), &reference)?)?;
    add(steps(&mut cpu, &mut gpu, &options.prompt, false)?)?;
    add(steps(&mut cpu, &mut gpu, &many, true)?)?;
    add(fused(&mut cpu, &mut gpu, options)?)?;
    add(few(&mut cpu, &mut gpu, &many)?)?;
    let fingerprint = fingerprint(model, options, &mut gpu)?;
    Ok(Report { rungs, fingerprint })
}

/// Tokens of which all logits are wanted, checked against the backend.
fn checked<'a>(ids: &'a [u32], position: usize, backend: &dyn Backend) -> Result<Batch<'a>, BackendError> {
    Ok(Batch::checked(ids, position, Rows::All, &backend.limits())?)
}

/// The logits of every token of a prompt that is run in one piece.
fn logits(backend: &mut dyn Backend, prompt: &[u32]) -> Result<Vec<f32>, BackendError> {
    let batch = checked(prompt, 0, backend)?;
    Ok(backend.forward(batch, None)?.to_vec())
}

/// Tokens of the fingerprint's prompt.
const FINGERPRINT_TOKENS: usize = 16;

fn fingerprint(model: &Model, options: &Options, backend: &mut dyn Backend) -> Result<String, VerifyError> {
    let id = |i: usize| ((i * 977 + 504) % model.config.vocabulary) as u32;
    let prompt: Vec<u32> = (0..FINGERPRINT_TOKENS).map(id).collect();
    let mut hash = Sha256::new();
    hash.update(format!("{VERSION}\n{}\n{}\n{:?}\n", model.config.name, model.config.parameters, options.precision));
    hash_numbers(&mut hash, &logits(backend, &prompt)?);
    Ok(hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect())
}

/// The fingerprint that this model had on machines that passed, if it is one of the known ones (`fingerprints.json`).
pub fn known_fingerprint(model: &Model, precision: Precision) -> Option<String> {
    let list: serde_json::Value = serde_json::from_str(include_str!("fingerprints.json")).ok()?;
    let found = &list[&model.config.name];
    if found["parameters"] != model.config.parameters || found["weights"] != weights_hash(model)? {
        return None;
    }
    found[format!("{precision:?}").to_lowercase()].as_str().map(str::to_owned)
}

/// A hash over all weights: files of one name and size may hold other weights, or the same in another format.
fn weights_hash(model: &Model) -> Option<String> {
    let mut hash = Sha256::new();
    for weight in &model.plan(Precision::Fast).ok()?.weights {
        hash.update(format!("{} {}\n", weight.name, weight.format.name));
        hash.update(model.data(weight));
    }
    Some(hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect())
}

/// What is known not to hold on a device's driver (`known-failures.json`).
pub fn known_failure(device: &Device) -> Option<String> {
    let driver = format!("{} {}", device.info.driver, device.info.driver_info);
    known_failure_of(include_str!("known-failures.json"), &driver)
}

/// The entry of a list `[{"driver": part of its name, "what": …}, …]`.
fn known_failure_of(list: &str, driver: &str) -> Option<String> {
    let list: serde_json::Value = serde_json::from_str(list).ok()?;
    let matches = |entry: &&serde_json::Value| entry["driver"].as_str().is_some_and(|d| driver.contains(d));
    list.as_array()?.iter().find(matches)?["what"].as_str().map(str::to_owned)
}

fn backend(
    model: &Model,
    options: &Options,
    gpu: Option<&AdapterOptions>,
    context: usize,
    batch: usize,
    threads: usize,
) -> Result<Box<dyn Backend>, VerifyError> {
    let plan = model.plan(options.precision)?;
    let sizes = Sizes { context, batch, logits_rows: batch };
    let mut backend: Box<dyn Backend> = match gpu {
        Some(choice) => Box::new(Gpu::new(Device::open(choice)?, model, plan, sizes, &mut |_| {})?),
        None => Box::new(Cpu::new(model, plan, sizes, threads)?),
    };
    backend.stop_on(options.interrupt.clone());
    Ok(backend)
}

fn equal(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// L0: the same prompt several times in one process gives the same logits. L1, in fresh processes, is the caller's.
fn repeat(
    name: &'static str,
    backend: &mut dyn Backend,
    options: &Options,
    reference: &[f32],
) -> Result<Rung, VerifyError> {
    let runs = options.runs;
    let mut failed = None;
    for run in 1..=runs {
        let logits = logits(backend, &options.prompt)?;
        if failed.is_none() && !equal(&logits, reference) {
            let place = format!("run {run} of {runs} against the CPU's first");
            failed = Some((place, Difference::of_logits(name, reference, &logits)));
        }
    }
    Ok(rung(name, format!("{runs} runs of {} tokens: the same logits", options.prompt.len()), failed))
}

/// L2: one piece, chunks, token by token, other capacities and thread counts give the same logits.
fn cuts(
    name: &'static str,
    model: &Model,
    options: &Options,
    gpu: Option<&AdapterOptions>,
    reference: &[f32],
) -> Result<Rung, VerifyError> {
    let n = options.prompt.len();
    // One piece on the GPU is what the other rungs run.
    let all = [(n + 1, 1, 2), (128, 7, options.threads), (n, n, 1), (96, 5, 3)];
    let ways = if gpu.is_some() { &all[..2] } else { &all[..] };
    let mut failed = None;
    for &(context, chunk, threads) in ways {
        let context = context.max(n);
        let backend = backend(model, options, gpu, context, chunk, threads)?;
        let logits = Session::new(backend, chunk).feed(&options.prompt, true)?;
        if failed.is_none() && !equal(&logits, reference) {
            let cut = format!("chunks of {chunk}, context {context}, {threads} threads");
            failed = Some((cut, Difference::of_logits(name, reference, &logits)));
        }
    }
    Ok(rung(name, format!("{} ways to cut and place the prompt: the same logits", ways.len()), failed))
}

/// A rung that holds, or fails with where and what.
fn rung(name: &'static str, good: String, failed: Option<(String, Difference)>) -> Rung {
    match failed {
        None => Rung { name, holds: true, detail: good, difference: None },
        Some((place, difference)) => {
            let detail = format!("{place}: {}", difference.describe());
            Rung { name, holds: false, detail, difference: Some(difference) }
        }
    }
}

/// L3: every step of the model has the same output on GPU and CPU, and so have the logits when no step is listened to.
fn steps(cpu: &mut Cpu, gpu: &mut Gpu, prompt: &[u32], many: bool) -> Result<Rung, VerifyError> {
    let (name, file) = if many { ("L3 many rows, GPU = CPU", "many.") } else { ("L3 steps, GPU = CPU", "") };
    let n = prompt.len();
    let batch = checked(prompt, 0, cpu)?;
    let mut expected: Vec<Vec<u32>> = Vec::new();
    let mut listen = |_: &Step, words: &[u32]| expected.push(words.to_vec());
    cpu.forward(batch, Some(&mut listen))?;
    let (mut count, mut difference) = (0, None);
    let mut compare = |step: &Step, words: &[u32]| {
        if difference.is_none() && expected.get(count).map(Vec::as_slice) != Some(words) {
            let cpu = expected.get(count).cloned().unwrap_or_default();
            let found = Difference::of_step(step, [cpu, words.to_vec()]);
            difference = Some(Difference { file: format!("{file}{}", found.file), ..found });
        }
        count += 1;
    };
    gpu.forward(checked(prompt, 0, gpu)?, Some(&mut compare))?;
    if difference.is_none() {
        let (expected, got) = (logits(cpu, prompt)?, logits(gpu, prompt)?);
        difference = (!equal(&expected, &got)).then(|| Difference::of_logits(name, &expected, &got));
    }
    let detail = match &difference {
        None => format!("{count} steps of {n} tokens: the same bits"),
        Some(difference) => difference.describe(),
    };
    Ok(Rung { name, holds: difference.is_none(), detail, difference })
}

/// L3: what the kernels that fuse steps of a single token leave behind is what the CPU has at those steps.
fn fused(cpu: &mut Cpu, gpu: &mut Gpu, options: &Options) -> Result<Rung, VerifyError> {
    let name = "L3 fused, GPU = CPU";
    let n = options.prompt.len();
    let (mut count, mut difference) = (0, None);
    for (position, &id) in options.prompt.iter().enumerate() {
        let mut expected = std::collections::HashMap::new();
        let mut listen = |step: &Step, words: &[u32]| drop(expected.insert(step.name.clone(), words.to_vec()));
        cpu.forward(checked(&[id], position, cpu)?, Some(&mut listen))?;
        let mut compare = |step: &Step, words: &[u32]| {
            count += 1;
            let cpu = expected.remove(&step.name).unwrap_or_default();
            if difference.is_none() && cpu != words {
                let found = Difference::of_step(step, [cpu, words.to_vec()]);
                difference = Some(Difference { file: format!("fused.{}", found.file), ..found });
            }
        };
        if !gpu.listen_fused(checked(&[id], position, gpu)?, &mut compare)? {
            let detail = "fused kernels were not asked for".to_owned();
            return Ok(Rung { name, holds: true, detail, difference: None });
        }
        if difference.is_some() {
            break;
        }
    }
    let mut detail = match &difference {
        None => {
            format!(
                "{count} steps of {n} single tokens: the same bits; a layer: {}",
                gpu.layer(1).unwrap_or_else(|| "none".to_owned())
            )
        }
        Some(difference) => difference.describe(),
    };
    if let Some(steps) = gpu.unfused_because() {
        detail = format!("{detail}; runs unfused: {steps}");
    }
    Ok(Rung { name, holds: difference.is_none(), detail, difference })
}

/// Numbers of rows around those where other kernels begin.
const FEW: [usize; 15] = [2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65];

/// L3: what the kernels of each number of rows leave behind is what the CPU has at those steps; at the end so do the kernels for many.
fn few(cpu: &mut Cpu, gpu: &mut Gpu, many: &[u32]) -> Result<Rung, VerifyError> {
    let name = "L3 few rows, GPU = CPU";
    let sizes: Vec<usize> = FEW.into_iter().filter(|n| *n <= many.len()).collect();
    // A row is what it is beside any others.
    let mut expected = std::collections::HashMap::new();
    let mut listen = |step: &Step, words: &[u32]| drop(expected.insert(step.name.clone(), words.to_vec()));
    cpu.forward(checked(many, 0, cpu)?, Some(&mut listen))?;
    let (mut count, mut difference) = (0, None);
    for (n, by_many) in sizes.iter().map(|n| (*n, false)).chain([(many.len(), true)]) {
        let mut compare = |step: &Step, words: &[u32]| {
            count += 1;
            let all = expected.get(&step.name).map(Vec::as_slice).unwrap_or_default();
            // Keys and values of a cache lie behind each other.
            let parts = if step.op.appends_to().is_some() { 2 } else { 1 };
            let first = |part: &[u32]| part[..part.len() / many.len() * n].to_vec();
            let cpu: Vec<u32> = all.chunks((all.len() / parts).max(1)).flat_map(first).collect();
            if difference.is_none() && cpu != words {
                let found = Difference::of_step(step, [cpu, words.to_vec()]);
                let place = format!("{n} rows{}, {}", if by_many { " as many" } else { "" }, found.place);
                difference = Some(Difference { file: format!("rows{n}.{}", found.file), place, ..found });
            }
        };
        let batch = checked(&many[..n], 0, gpu)?;
        if by_many {
            gpu.listen_many(batch, &mut compare)?;
        } else {
            gpu.listen_fused(batch, &mut compare)?;
        }
        if difference.is_some() {
            break;
        }
    }
    let detail = match &difference {
        None => format!(
            "{count} steps of {} numbers of rows up to {}, and by the kernels for many: the same bits",
            sizes.len(),
            sizes.last().unwrap_or(&0)
        ),
        Some(difference) => difference.describe(),
    };
    Ok(Rung { name, holds: difference.is_none(), detail, difference })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_failures_are_found_by_driver() {
        let list = r#"[{"driver": "llvmpipe Mesa 9", "what": "old"}, {"driver": "radv", "what": "other"}]"#;
        assert_eq!(known_failure_of(list, "radv Mesa 25.1").as_deref(), Some("other"));
        assert_eq!(known_failure_of(list, "llvmpipe Mesa 22.3.6"), None);
    }

    #[test]
    fn the_shipped_tables_have_the_keys_that_are_read() {
        let json = |text| serde_json::from_str::<serde_json::Value>(text).unwrap_or_else(|e| panic!("{e}"));
        let failures = json(include_str!("known-failures.json"));
        let entries = failures.as_array().map_or(&[][..], Vec::as_slice);
        assert!(failures.is_array() && entries.iter().all(|e| e["driver"].is_string() && e["what"].is_string()));
        for (name, entry) in json(include_str!("fingerprints.json")).as_object().into_iter().flatten() {
            assert!(entry["parameters"].is_u64(), "{name}");
            assert!(
                ["weights", "fast", "precise"].iter().all(|k| entry[k].as_str().is_some_and(|s| s.len() == 32)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_difference_names_the_worst_pair() {
        let words = |x: [f32; 3]| x.map(f32::to_bits).to_vec();
        let d = Difference {
            place: "op add [1, 3]".to_owned(),
            file: "op.add".to_owned(),
            floats: true,
            words: [words([1.0, 2.0, 3.0]), words([1.5, 2.0, -3.0])],
        };
        assert_eq!(d.describe(), "op add [1, 3]: 2 of 3 elements differ, worst at 2: 3e0 expected, -3e0 got");
    }
}
