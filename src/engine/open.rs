//! Which backend runs a model: what the user wants, what the machine has, and what is said on the way.

use std::path::PathBuf;

use crate::backend::cpu::{self, Cpu, Isa};
use crate::backend::gpu::{AdapterOptions, Api, Candidate, Device, Gpu, candidates, disk, is_software};
use crate::backend::{Backend, BackendError, Sizes};
use crate::model::Model;
use crate::numerics::Precision;
use crate::plan::Plan;
use crate::quant::Format;
use crate::verify::selftest;

use super::lookup::MOST;

/// Where a model shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// On the best GPU that opens, compiles its kernels and passes the self-test, else on the CPU.
    Auto,
    /// On the CPU.
    Cpu,
    /// On the best adapter of this API, and nowhere else.
    Gpu(Api),
}

/// Positions of the context where the model would allow more and nobody asks.
const USUAL_CONTEXT: usize = 4096;

/// How a model is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Where.
    pub backend: Wanted,
    /// An adapter, by its index in [`crate::backend::gpu::adapters`] or part of its name; without one, [`Wanted::Auto`]
    /// takes no adapter that computes on the CPU.
    pub device: Option<String>,
    /// How finely activations are rounded.
    pub precision: Precision,
    /// Positions that the context holds, 0 for as many as the model was trained for; without it as many, but at most 4096.
    pub context: Option<usize>,
    /// Tokens of a prompt that are computed at once, which changes no bit; without it what is usual for the backend.
    pub chunk: Option<usize>,
    /// Threads of the CPU backend, of which it takes no more than this process may use; without it one for each physical core.
    pub threads: Option<usize>,
    /// Tokens whose logits are given at once, from 1 to those of a chunk.
    pub logits_rows: usize,
    /// Whether texts are drafted ([`crate::engine::Session::looking_up`]).
    pub lookup: bool,
    /// A folder for what the next start can use again: results of the self-test, compiled kernels.
    pub cache: Option<PathBuf>,
}

impl Default for OpenOptions {
    /// What the command line does without options; the cache is in the user's own cache folder.
    fn default() -> Self {
        Self {
            backend: Wanted::Auto,
            device: None,
            precision: Precision::Fast,
            context: None,
            chunk: None,
            threads: None,
            logits_rows: 1,
            lookup: false,
            cache: disk::folder(),
        }
    }
}

impl OpenOptions {
    /// Positions that the context holds for a model.
    pub fn context_of(&self, model: &Model) -> usize {
        let trained = model.config.context_length;
        match self.context {
            None => trained.min(USUAL_CONTEXT),
            Some(0) => trained,
            Some(n) => n,
        }
    }

    /// Sizes of the buffers, on an adapter that computes on the CPU or on anything else.
    pub(crate) fn sizes(&self, model: &Model, software: bool) -> Sizes {
        let context = self.context_of(model);
        let batch = self.chunk.unwrap_or(Sizes::usual_batch(software)).min(context);
        let drafted = if self.lookup { MOST + 1 } else { 1 };
        Sizes { context, batch, logits_rows: self.logits_rows.max(drafted).min(batch) }
    }
}

/// Why an adapter is not used.
#[derive(Debug)]
pub enum Refusal {
    /// It does not open, does not compile a kernel, has too little memory, …
    Fails(BackendError),
    /// Its results are not those of other machines: what does not hold of the numerics contract.
    Deviates(Vec<String>),
}

/// What happens while a backend is opened.
#[derive(Debug)]
pub enum Fact<'a> {
    /// An adapter is not used; what is tried next, `the CPU` at the end.
    #[allow(missing_docs)]
    Refused { adapter: &'a str, why: &'a Refusal, next: &'a str },
    /// An adapter that was named is used although its results are not those of other machines.
    #[allow(missing_docs)]
    Deviates { adapter: &'a str, failures: &'a [String] },
    /// An adapter is used: whether it computes on the CPU, and what compiles its shaders where that is not the driver.
    #[allow(missing_docs)]
    Taken { adapter: &'a str, software: bool, compiler: Option<&'a str> },
    /// The CPU computes with fewer threads than asked for, as this process may use no more processors.
    #[allow(missing_docs)]
    FewerThreads { asked: usize, usable: usize },
    /// So many bytes of weights are going to be uploaded.
    Uploads(u64),
    /// So many more were.
    Uploaded(u64),
    /// All are; the backend is ready.
    Ready,
}

/// Opens a backend for the plan of a model; `hear` is told what happens.
///
/// # Errors
/// If what was asked for by name does not work. [`Wanted::Auto`] goes on, from adapter to adapter and then to the CPU, and says
/// why; it fails only for what the user can set right, such as a name that no adapter has.
pub fn open(
    model: &Model,
    plan: &Plan,
    options: &OpenOptions,
    hear: &mut dyn FnMut(Fact<'_>),
) -> Result<Box<dyn Backend>, BackendError> {
    let mut formats: Vec<_> = plan.weights.iter().filter(|w| w.rows > 1).map(|w| w.format).collect();
    formats.sort_by_key(|f| f.name);
    formats.dedup_by_key(|f| f.name);
    let make = |device: Device, hear: &mut dyn FnMut(Fact<'_>)| {
        let sizes = options.sizes(model, is_software(&device.info));
        on_gpu(device, model, plan.clone(), sizes, hear)
    };
    if let Some(gpu) = on_adapter(options, &formats, make, hear)? {
        return Ok(Box::new(gpu));
    }
    let (sizes, isa, threads) = (options.sizes(model, false), Isa::from_environment()?, usable(options.threads));
    if let Some(asked) = options.threads.filter(|asked| *asked > threads) {
        hear(Fact::FewerThreads { asked, usable: threads });
    }
    Ok(Box::new(Cpu::with_isa(model, plan.clone(), sizes, threads, isa)?))
}

/// What `make` makes of the device of the adapter that is wanted, by the rules of [`open`]; `None` for the CPU. `formats` are those whose
/// weights it will read.
///
/// # Errors
/// As [`open`].
pub fn on_adapter<T>(
    options: &OpenOptions,
    formats: &[&'static Format],
    mut make: impl FnMut(Device, &mut dyn FnMut(Fact<'_>)) -> Result<T, BackendError>,
    hear: &mut dyn FnMut(Fact<'_>),
) -> Result<Option<T>, BackendError> {
    let auto = options.backend == Wanted::Auto;
    let api = match options.backend {
        Wanted::Auto => Api::Any,
        Wanted::Gpu(api) => api,
        Wanted::Cpu => return Ok(None),
    };
    let hardware_only = auto && options.device.is_none();
    let choice = AdapterOptions { api, device: options.device.clone(), hardware_only, cache: options.cache.clone() };
    let found = match candidates(&choice) {
        Err(BackendError::NoAdapter(_)) if hardware_only => return Ok(None),
        found => found?,
    };
    let mut take = |candidate: &Candidate, hear: &mut dyn FnMut(Fact<'_>)| {
        let mut device = candidate.open().map_err(Refusal::Fails)?;
        let adapter = described(&device);
        match failures(&mut device, formats) {
            failures if failures.is_empty() => {}
            failures if auto => return Err(Refusal::Deviates(failures)),
            failures => hear(Fact::Deviates { adapter: &adapter, failures: &failures }),
        }
        let (software, compiler) = (is_software(&device.info), device.compiler.clone());
        hear(Fact::Taken { adapter: &device.info.name, software, compiler: compiler.name() });
        make(device, hear).map_err(Refusal::Fails)
    };
    if auto {
        return first(&found, Candidate::name, take, hear);
    }
    match take(&found[0], hear) {
        Ok(made) => Ok(Some(made)),
        Err(Refusal::Fails(error)) => Err(error),
        Err(Refusal::Deviates(failures)) => unreachable!("only auto refuses for {failures:?}"),
    }
}

/// CPU threads: those asked for, but no more than this process may use at once, as others would only wait. Without a wish one for
/// each physical core.
pub fn usable(wish: Option<usize>) -> usize {
    wish.map_or_else(cpu::physical_cores, |wish| wish.clamp(1, cpu::usable_processors().max(1)))
}

/// The first of `candidates` that `take` takes; says why the others were not taken.
fn first<C, T>(
    candidates: &[C],
    name: impl Fn(&C) -> String,
    mut take: impl FnMut(&C, &mut dyn FnMut(Fact<'_>)) -> Result<T, Refusal>,
    hear: &mut dyn FnMut(Fact<'_>),
) -> Result<Option<T>, BackendError> {
    for (i, candidate) in candidates.iter().enumerate() {
        match take(candidate, hear) {
            Ok(taken) => return Ok(Some(taken)),
            // What is wrong with the environment is wrong on every adapter.
            Err(Refusal::Fails(error @ BackendError::Arithmetic { .. })) => return Err(error),
            Err(why) => {
                let next = candidates.get(i + 1).map_or_else(|| "the CPU".to_owned(), &name);
                hear(Fact::Refused { adapter: &name(candidate), why: &why, next: &next });
            }
        }
    }
    Ok(None)
}

/// An adapter with its driver.
fn described(device: &Device) -> String {
    format!("{} ({} {})", device.info.name, device.info.driver, device.info.driver_info)
}

/// What does not hold on a device. A self-test that cannot run does not hold.
fn failures(device: &mut Device, formats: &[&'static Format]) -> Vec<String> {
    selftest::cached_failures(device, formats).unwrap_or_else(|e| vec![format!("the self-test cannot run: {e}")])
}

fn on_gpu(
    device: Device,
    model: &Model,
    plan: Plan,
    sizes: Sizes,
    hear: &mut dyn FnMut(Fact<'_>),
) -> Result<Gpu, BackendError> {
    hear(Fact::Uploads(plan.weights.iter().map(|w| w.bytes() as u64).sum()));
    let gpu = Gpu::new(device, model, plan, sizes, &mut |n| hear(Fact::Uploaded(n)));
    hear(Fact::Ready);
    gpu
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backend::gpu::Compiler;

    /// Adapters that do what their names say.
    fn take(adapter: &&str) -> Result<String, Refusal> {
        let fails = |message: &str| {
            let (device, message) = ((*adapter).to_owned(), message.to_owned());
            Refusal::Fails(BackendError::Kernel { device, compiler: Compiler::Fxc, message })
        };
        match *adapter {
            "does not open" => {
                Err(Refusal::Fails(BackendError::Device { device: "x".to_owned(), message: "removed".to_owned() }))
            }
            "does not compile" => Err(fails("kernel rms_norm does not compile: X3511")),
            "computes wrongly" => Err(Refusal::Deviates(vec!["exp".to_owned()])),
            "wrong environment" => Err(Refusal::Fails(BackendError::Arithmetic { wanted: "exact".to_owned() })),
            good => Ok(good.to_owned()),
        }
    }

    /// What is taken, and what was said of the others.
    fn tried(adapters: &[&str]) -> (Result<Option<String>, BackendError>, Vec<[String; 2]>) {
        let mut said = Vec::new();
        let mut hear = |fact: Fact<'_>| {
            if let Fact::Refused { adapter, next, .. } = fact {
                said.push([adapter.to_owned(), next.to_owned()]);
            }
        };
        let taken = first(adapters, |a| (*a).to_owned(), |a, _| take(a), &mut hear);
        (taken, said)
    }

    #[test]
    fn auto_goes_on_to_the_next_adapter_and_says_of_each_why() {
        for bad in ["does not open", "does not compile", "computes wrongly"] {
            let (taken, said) = tried(&[bad, "good", "better"]);
            assert_eq!(taken.unwrap().as_deref(), Some("good"));
            assert_eq!(said, [[bad, "good"]]);
        }
    }

    #[test]
    fn auto_ends_on_the_cpu() {
        let (taken, said) = tried(&["does not open", "does not compile", "computes wrongly"]);
        assert_eq!(taken.unwrap(), None);
        let next = [
            ["does not open", "does not compile"],
            ["does not compile", "computes wrongly"],
            ["computes wrongly", "the CPU"],
        ];
        assert_eq!(said, next);
        assert_eq!(tried(&[]).0.unwrap(), None);
    }

    #[test]
    fn an_adapter_that_works_is_taken_in_silence() {
        let (taken, said) = tried(&["good", "does not open"]);
        assert_eq!((taken.unwrap().as_deref(), said.len()), (Some("good"), 0));
    }

    #[test]
    fn a_wrong_environment_is_an_error_at_once() {
        let (taken, said) = tried(&["wrong environment", "good"]);
        assert!(matches!(taken, Err(BackendError::Arithmetic { .. })));
        assert!(said.is_empty());
    }
}
