//! Options that most commands share: the model, the backend, the sizes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::error::Usage;
use super::hint::Hinted;
use super::terminal::{self, note, warning};
use super::values::not_empty;
use super::{hub, signals};
use crate::backend::gpu::Api;
use crate::backend::{Backend, Sizes};
use crate::engine::{self, Fact, OpenOptions, Refusal, Session, Wanted};
use crate::gguf::Gguf;
use crate::model::{Model, ModelError};
use crate::numerics::{Precision, VERSION};
use crate::plan::Plan;
use crate::record::{MadeBy, ModelFacts, Record};
use crate::tokenizer::{EncodeOptions, Tokenizer, TokenizerError};

#[derive(Args, Debug)]
pub(super) struct ModelArguments {
    /// The model: a GGUF file, or hf:OWNER/REPO[:QUANT|FILE] of Hugging Face's hub [default: the story model that is built in]
    #[arg(short, long, value_name = "FILE|NAME", required = !cfg!(builtin_model))]
    pub model: Option<PathBuf>,
    /// The file of the model, once it is known.
    #[arg(skip)]
    file: OnceLock<PathBuf>,
    /// The pre-tokenizer, which splits text before BPE merges, instead of the one that the file names: llama-bpe, qwen2, gpt-2, …
    #[arg(long, value_name = "NAME", value_parser = not_empty)]
    pub pre: Option<String>,
}

impl ModelArguments {
    /// The file that is named; a model of the hub is fetched where it is missing.
    pub fn file(&self, quiet: bool) -> Result<Option<&Path>, Box<dyn Error>> {
        let Some(word) = &self.model else { return Ok(None) };
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let file = hub::resolve(word, quiet)?;
                self.file.get_or_init(|| file)
            }
        };
        Ok(Some(file))
    }

    /// Opens the model that is named, or the built-in one where none is.
    pub fn open(&self, quiet: bool) -> Result<Model, Box<dyn Error>> {
        Ok(open_model(self.file(quiet)?)?)
    }

    /// What records say of the opened file, all of which is read.
    pub fn facts(&self, model: &Model, quiet: bool) -> ModelFacts {
        let name = self.file.get().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let bar =
            terminal::bar(quiet, Some(model.gguf.file_size()), "hashing the model {bar:32} {bytes}/{total_bytes}");
        let facts = ModelFacts::of(model, name, &mut |n| bar.inc(n));
        bar.finish_and_clear();
        facts
    }

    /// A record of what a session with the opened file makes, without its texts.
    pub fn record(&self, model: &Model, a: &RunArguments, session: &Session) -> Record {
        let (facts, context) = (self.facts(model, a.quiet), session.backend().limits().context);
        Record::new(facts, a.precision.into(), context, MadeBy::here(session.backend()))
    }

    /// Opens the file for its vocabulary alone.
    pub fn vocabulary(&self) -> Result<Arc<Gguf>, Box<dyn Error>> {
        match self.file(false)? {
            Some(path) => Ok(Arc::new(Gguf::open(path)?)),
            None => Ok(self.open(false)?.gguf),
        }
    }

    /// The tokenizer of an opened file; what is odd about it is said.
    pub fn tokenizer(&self, gguf: &Gguf, quiet: bool) -> Result<Tokenizer, TokenizerError> {
        let tokenizer = Tokenizer::with_pre(gguf, self.pre.as_deref())?;
        if !quiet {
            tokenizer.warnings().iter().for_each(|w| warning!("{}", Hinted(w)));
        }
        Ok(tokenizer)
    }
}

/// The tokens of a prompt, with special tokens by their names; what is odd about them is said.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str, quiet: bool) -> Result<Vec<u32>, TokenizerError> {
    let ids = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true })?;
    if let Some(odd) = tokenizer.odd(&ids).filter(|_| !quiet) {
        warning!("{odd}");
    }
    Ok(ids)
}

/// Opens a file, or the built-in model without one.
pub(super) fn open_model(path: Option<&Path>) -> Result<Model, ModelError> {
    match path {
        Some(path) => Model::open(path),
        #[cfg(builtin_model)]
        None => Model::stories(),
        #[cfg(not(builtin_model))]
        None => unreachable!("clap requires --model in a build without a model"),
    }
}

#[derive(Args, Clone, Debug)]
pub(super) struct RunArguments {
    /// Where to compute: auto takes a real GPU if there is one, otherwise the CPU; gpu takes a software adapter too
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub backend: BackendName,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME", value_parser = not_empty)]
    pub device: Option<String>,
    /// How finely activations are rounded: fast (8 bits, as llama.cpp on a CPU) or precise (16 bits)
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    pub precision: PrecisionName,
    /// Positions the context holds; 0 for as many as the model was trained for [default: the same, but at most 4096]
    #[arg(short = 'c', long = "ctx", value_name = "N")]
    pub context: Option<u32>,
    /// CPU threads, no more than this process may use [default: the physical cores among those]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Tokens of the prompt that are computed at once; does not change a bit [default: 512, on a software adapter 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub chunk: Option<u16>,
    /// Say nothing but results and errors
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BackendName {
    Auto,
    Cpu,
    Gpu,
    Vulkan,
    Metal,
    Dx12,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PrecisionName {
    Fast,
    Precise,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::Fast => Self::Fast,
            PrecisionName::Precise => Self::Precise,
        }
    }
}

impl BackendName {
    /// The GPU API that is meant, or the CPU; `auto` means any GPU first.
    ///
    /// # Errors
    /// Where a GPU is chosen for the CPU.
    pub fn api(self, device: Option<&str>) -> Result<Option<Api>, Usage> {
        match self {
            Self::Cpu if device.is_some() => Err(Usage::DeviceOfCpu),
            Self::Cpu => Ok(None),
            Self::Auto | Self::Gpu => Ok(Some(Api::Any)),
            Self::Vulkan => Ok(Some(Api::Vulkan)),
            Self::Metal => Ok(Some(Api::Metal)),
            Self::Dx12 => Ok(Some(Api::Dx12)),
        }
    }

    /// The same for the library.
    ///
    /// # Errors
    /// Where a GPU is chosen for the CPU.
    pub fn wanted(self, device: Option<&str>) -> Result<Wanted, Usage> {
        Ok(match self.api(device)? {
            _ if self == Self::Auto => Wanted::Auto,
            Some(api) => Wanted::Gpu(api),
            None => Wanted::Cpu,
        })
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Texts.
    Texts,
    /// Texts that are drafted.
    Drafts,
    /// The logits of all tokens.
    Logits,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct DraftArguments {
    /// Compute drafts of the next tokens at once, looked up in the text so far; does not change a bit, faster for a text that
    /// repeats itself, slower for others
    #[arg(long)]
    lookup: bool,
}

impl DraftArguments {
    /// What a session is for.
    pub fn purpose(self) -> Purpose {
        if self.lookup { Purpose::Drafts } else { Purpose::Texts }
    }
}

impl RunArguments {
    /// The same for the library.
    ///
    /// # Errors
    /// Where a GPU is chosen for the CPU.
    pub fn options(&self, purpose: Purpose) -> Result<OpenOptions, Usage> {
        Ok(OpenOptions {
            backend: self.backend.wanted(self.device.as_deref())?,
            device: self.device.clone(),
            precision: self.precision.into(),
            context: self.context.map(|n| n as usize),
            chunk: self.chunk.map(usize::from),
            threads: self.threads.map(usize::from),
            logits_rows: if purpose == Purpose::Logits { usize::MAX } else { 1 },
            lookup: purpose == Purpose::Drafts,
            ..OpenOptions::default()
        })
    }

    /// Positions that the context shall hold.
    pub fn context(&self, model: &Model) -> usize {
        usual_context(model, self.context)
    }
}

/// Positions of the context that `--ctx` asks for: 0 as many as the model was trained for, nothing as many of them as are usual.
pub(super) fn usual_context(model: &Model, asked: Option<u32>) -> usize {
    usual_sizes(model, asked).context
}

/// Sizes of the buffers for so many positions of the context, where nothing else is asked for.
pub(super) fn usual_sizes(model: &Model, asked: Option<u32>) -> Sizes {
    OpenOptions { context: asked.map(|n| n as usize), ..OpenOptions::default() }.sizes(model, false)
}

/// Opens a session on the backend asked for, which a signal stops from then on, before anything is said.
pub(super) fn session(
    model: &Model,
    a: &RunArguments,
    purpose: Purpose,
) -> Result<(Session, signals::Watch), Box<dyn Error>> {
    let trained = model.config.context_length;
    let context = a.context(model);
    if context > trained && !a.quiet {
        warning!("--ctx {context} is more than the {trained} positions the model was trained for");
    }
    let mut backend = open(model, model.for_context(context).plan(a.precision.into())?, a, purpose)?;
    let signal = signals::watch();
    backend.stop_on(signal.interrupt());
    if !a.quiet {
        note!("model: {}", if model.config.name.is_empty() { "unnamed" } else { &model.config.name });
        note!("backend: {} ({})", backend.name(), backend.device());
        if let Some(reason) = backend.unfused_because() {
            note!("runs unfused: {reason}");
        }
    }
    let chunk = backend.limits().batch;
    Ok((Session::new(backend, chunk).looking_up(purpose == Purpose::Drafts), signal))
}

/// The backend asked for, with a plan of the model.
pub(super) fn open(
    model: &Model,
    plan: Plan,
    a: &RunArguments,
    purpose: Purpose,
) -> Result<Box<dyn Backend>, Box<dyn Error>> {
    let options = a.options(purpose)?;
    let mut bar = ProgressBar::hidden();
    Ok(engine::open(model, &plan, &options, &mut |fact| say(&fact, &mut bar, a.quiet, a.threads.is_some()))?)
}

/// Prints what happens while a backend is opened; `threads`: whether a number of them was asked for. A failed check of a device is
/// reported also with `quiet`: a device that computes something else is never used silently.
pub(super) fn say(fact: &Fact<'_>, bar: &mut ProgressBar, quiet: bool, threads: bool) {
    let deviates = |adapter: &str, failures: &[String]| {
        for failure in failures {
            warning!("{adapter} does not keep {VERSION}: {failure}");
        }
    };
    match *fact {
        Fact::Refused { adapter, why: Refusal::Fails(error), next } => {
            warning!("{adapter} is not used: {}", Hinted(error));
            warning!("{next} is used instead");
        }
        Fact::Refused { adapter, why: Refusal::Deviates(failures), next } => {
            deviates(adapter, failures);
            warning!("{next} is used instead; `samebits verify` shows more");
        }
        Fact::Deviates { adapter, failures } => {
            deviates(adapter, failures);
            warning!("its results are not those of other machines; `samebits verify` shows more");
        }
        Fact::Taken { adapter, software, compiler } if !quiet => {
            if threads {
                warning!("-t has no effect: {adapter} computes, not the CPU");
            }
            if software {
                warning!("{adapter} computes on the CPU; --backend cpu is faster");
            }
            if let Some(compiler) = compiler {
                note!("shaders: compiled by {compiler} at every start, as Direct3D 12 keeps none");
            }
        }
        Fact::FewerThreads { asked, usable } if !quiet => fewer_threads(asked, usable),
        Fact::Uploads(bytes) => {
            *bar = terminal::bar(quiet, Some(bytes), "uploading {bar:32} {bytes}/{total_bytes} {bytes_per_sec}");
        }
        Fact::Uploaded(bytes) => bar.inc(bytes),
        Fact::Ready => bar.finish_and_clear(),
        Fact::Taken { .. } | Fact::FewerThreads { .. } => {}
    }
}

/// The CPU threads that were asked for, but no more than this process may use at once, which is said.
pub(super) fn threads(wish: Option<usize>, quiet: bool) -> usize {
    let threads = engine::usable(wish);
    if let Some(asked) = wish.filter(|asked| *asked > threads && !quiet) {
        fewer_threads(asked, threads);
    }
    threads
}

fn fewer_threads(asked: usize, usable: usize) {
    let s = if usable == 1 { "" } else { "s" };
    warning!("this process may use {usable} processor{s}: {usable} thread{s} instead of {asked}");
}
