//! `samebits verify`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::error::{Failure, Interrupted, Usage};
use super::load::{BackendName, ModelArguments, PrecisionName, encode};
use super::terminal::{note, print, print_json, warning};
use super::values::not_empty;
use super::{Outcome, config, signals, text};
use crate::backend::gpu::{AdapterOptions, Device, adapters, api_name};
use crate::output::Target;
use crate::tensor::Space;
use crate::verify::{Options, Report, Rung, VerifyError, known_failure, known_fingerprint, report, tensors, verify};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What to verify: auto takes the best adapter, software adapters too, and the CPU; cpu the CPU alone
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME", value_parser = not_empty)]
    device: Option<String>,
    /// How finely activations are rounded
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", default_value = "Once upon a time there was a small")]
    prompt: String,
    /// Read the prompt from a file, without the line feed at its end; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Repetitions in one process [default: 10, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Fewer repetitions and cases
    #[arg(long)]
    quick: bool,
    /// CPU threads, no more than this process may use [default: the physical cores among those]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Folder for the tensors that differ
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Replace files there that exist; without it they stay, and the tensors are not written
    #[arg(long)]
    force: bool,
    /// Verify the ops of tensors instead of a model: each on the GPU and on the CPU, with shapes of up to four axes
    #[arg(long, conflicts_with_all = ["report", "prompt", "file", "runs"])]
    ops: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a block of text for an issue: the device, its driver and limits, and what held in which time
    #[arg(long, conflicts_with = "json")]
    report: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let gpu = adapter(a)?;
    if a.ops {
        return ops(a, gpu);
    }
    let text = a.file.as_deref().map_or_else(|| Ok(a.prompt.clone()), text::prompt)?;
    let model = a.model.open(false)?;
    let tokenizer = a.model.tokenizer(&model.gguf, false)?;
    let prompt = encode(&tokenizer, &text, false)?;
    if prompt.is_empty() {
        return Err(crate::engine::EngineError::EmptyPrompt.into());
    }
    let signal = signals::watch();
    let options = Options {
        gpu: gpu.clone(),
        precision: a.precision.into(),
        threads: super::load::threads(a.threads.map(usize::from), false),
        runs: usize::from(a.runs.unwrap_or(if a.quick { 3 } else { 10 })),
        rounds: if a.quick { 1 } else { 10 },
        // One more than a tile of attention has rows, or than one of a matrix product.
        many: if a.quick { 33 } else { 65 },
        prompt,
        interrupt: signal.interrupt(),
    };
    let mut adapter = "none".to_owned();
    let mut note = None;
    let mut about_adapter = Vec::new();
    if let Some(choice) = &gpu {
        let device = Device::open(choice)?;
        let (info, driver) = (&device.info, format!("{} {}", device.info.driver, device.info.driver_info));
        adapter = format!("{} ({}, {driver})", info.name, api_name(info));
        note = known_failure(&device);
        about_adapter = report::adapter(&device);
    }
    if !a.json && !a.report {
        print(&format!("model    {}", model.config.name))?;
        print(&format!("adapter  {adapter}"))?;
        if gpu.is_none() && a.backend == BackendName::Auto {
            print("no GPU adapter found: only the CPU is verified")?;
        }
    }
    let mut shown = Shown {
        silent: a.json,
        aside: a.report,
        rungs: Vec::new(),
        times: Vec::new(),
        last: Instant::now(),
        failed: None,
    };
    let decided = verify(&model, &options, &mut |rung| shown.add(rung) && !signal.asked()).and_then(
        |Report { fingerprint, .. }| {
            shown.add(&fresh_processes(a, &text, &gpu, if a.quick { 1 } else { options.runs })?);
            if signal.asked() { Err(VerifyError::Interrupted) } else { Ok(fingerprint) }
        },
    );
    if let Some(error) = shown.failed {
        return Err(error.into());
    }
    let fingerprint = match decided {
        Ok(fingerprint) => Some(fingerprint),
        Err(_) if signal.asked() => None,
        Err(error) => return Err(error.into()),
    };
    let known = fingerprint.as_ref().and_then(|_| known_fingerprint(&model, a.precision.into()));
    if let (Some(fingerprint), Some(known)) = (&fingerprint, &known) {
        let holds = known == fingerprint;
        let detail =
            if holds { "as on other machines".to_owned() } else { format!("{fingerprint}, elsewhere {known}") };
        shown.add(&Rung { name: "fingerprint", holds, detail, difference: None });
    }
    let files = write_differences(a, &shown.rungs);
    let interrupted = fingerprint.is_none();
    let holds = shown.rungs.iter().all(|r| r.holds);
    if a.json {
        print_json(&json!({
            "model": model.config.name,
            "adapter": adapter,
            "rungs": shown.rungs,
            "fingerprint": fingerprint,
            "known_fingerprint": known,
            "known_failure": note,
            "files": files,
            "interrupted": interrupted,
            // What was not looked at is not known to hold.
            "holds": if interrupted && holds { None } else { Some(holds) },
        }))?;
    } else if a.report {
        let cpu = format!("{} threads", options.threads);
        let holds = known.as_ref().zip(fingerprint.as_ref()).map(|(known, got)| known == got);
        let facts = report::Facts {
            adapter: about_adapter,
            model: (model.config.name.clone(), model.config.parameters),
            precision: a.precision.into(),
            cpu,
            known_failure: note,
            fingerprint: (fingerprint.clone().unwrap_or_else(|| "none: interrupted".to_owned()), holds),
        };
        let rungs: Vec<_> = shown.rungs.iter().cloned().zip(shown.times.iter().copied()).collect();
        print(report::text(&facts, &rungs).trim_end())?;
    } else {
        if let Some(note) = note {
            print(&format!("known failure of this driver: {note}"))?;
        }
        files.iter().try_for_each(|f| print(&format!("wrote {f}")))?;
        match &fingerprint {
            Some(fingerprint) => print(&format!("fingerprint {fingerprint}"))?,
            None => print("interrupted: not everything was verified")?,
        }
    }
    match (interrupted, holds) {
        (true, _) => Err(Interrupted.into()),
        (false, true) => Ok(()),
        (false, false) => Err(Failure::NoGuarantee.into()),
    }
}

/// The ops of tensors, on the CPU and on an adapter.
fn ops(a: &Arguments, gpu: Option<AdapterOptions>) -> Outcome {
    let Some(gpu) = gpu else { return Err(Usage::OpsWithoutGpu.into()) };
    let signal = signals::watch();
    let space = Space::both(&gpu)?;
    let adapter = space.device().unwrap_or_default();
    if !a.json {
        print(&format!("adapter  {adapter}"))?;
    }
    let mut rounds = Vec::new();
    for seed in 0..if a.quick { 1 } else { 10 } {
        if signal.asked() {
            return Err(Interrupted.into());
        }
        rounds.push(tensors::verify(&space, seed)?);
        if rounds.iter().flatten().any(|verdict| verdict.differs.is_some()) {
            break;
        }
    }
    let mut ops: Vec<tensors::Verdict> = Vec::new();
    for verdict in rounds.into_iter().flatten() {
        match ops.iter_mut().find(|known| known.op == verdict.op) {
            None => ops.push(verdict),
            Some(known) => {
                known.runs += verdict.runs;
                known.elements += verdict.elements;
                known.differs = known.differs.take().or(verdict.differs);
            }
        }
    }
    let holds = ops.iter().all(|op| op.differs.is_none());
    if a.json {
        print_json(&json!({"adapter": adapter, "ops": ops, "holds": holds}))?;
    } else {
        for op in &ops {
            let tensors::Verdict { op, runs, elements, shapes, differs } = op;
            let (verdict, shapes) = (if differs.is_none() { "holds" } else { "FAILS" }, shapes.len());
            let same = || format!("{runs} times, {shapes} shapes, {elements} elements: the same bits");
            print(&format!("{verdict}  {op:<14} {}", differs.clone().unwrap_or_else(same)))?;
        }
    }
    if holds { Ok(()) } else { Err(Failure::NoGuarantee.into()) }
}

/// The rungs that are decided, printed as they come.
struct Shown {
    /// Prints nothing.
    silent: bool,
    /// Prints to standard error.
    aside: bool,
    rungs: Vec<Rung>,
    /// How long each took, and when the last was decided.
    times: Vec<Duration>,
    last: Instant,
    /// Standard output took no more.
    failed: Option<Failure>,
}

impl Shown {
    /// Shows a rung; gives whether to go on.
    fn add(&mut self, rung: &Rung) -> bool {
        let verdict = if rung.holds { "holds" } else { "FAILS" };
        let line = format!("{verdict}  {:<23} {}", rung.name, rung.detail);
        if self.aside {
            note!("{line}");
        } else if !self.silent {
            self.failed = print(&line).err();
        }
        self.times.push(self.last.elapsed());
        self.last = Instant::now();
        self.rungs.push(rung.clone());
        self.failed.is_none()
    }
}

/// Writes both sides of every difference; gives the files. The verdict counts also where they cannot be written.
fn write_differences(a: &Arguments, rungs: &[Rung]) -> Vec<String> {
    let model = a.model.file(true).ok().flatten();
    let inputs: Vec<_> = [model, a.file.as_deref()].into_iter().flatten().collect();
    let mut files = Vec::new();
    for difference in rungs.iter().filter_map(|r| r.difference.as_ref()) {
        for (words, side) in difference.words.iter().zip(["expected", "got"]) {
            let path = a.out.join(format!("{}.{side}.npy", difference.file));
            let written = Target::new(&path, a.force, &inputs)
                .and_then(|target| super::logits::write_npy(&target, 1, words.len(), bytemuck::cast_slice(words)));
            match written {
                Ok(()) => files.push(path.display().to_string()),
                Err(error) => warning!("{error}"),
            }
        }
    }
    files
}

fn adapter(a: &Arguments) -> Result<Option<AdapterOptions>, Usage> {
    let Some(api) = a.backend.api(a.device.as_deref())? else { return Ok(None) };
    if a.backend == BackendName::Auto && a.device.is_none() && adapters(api).is_empty() {
        return Ok(None);
    }
    Ok(Some(AdapterOptions { api, device: a.device.clone(), ..AdapterOptions::default() }))
}

/// L1 in processes of their own, on the same adapter.
fn fresh_processes(a: &Arguments, text: &str, gpu: &Option<AdapterOptions>, runs: usize) -> Result<Rung, VerifyError> {
    let failed = |e: &dyn std::fmt::Display| VerifyError::Process(e.to_string());
    let program = std::env::current_exe().map_err(|e| failed(&e))?;
    let mut hashes = Vec::new();
    let named = if a.backend == BackendName::Auto { BackendName::Gpu } else { a.backend };
    let value = named.to_possible_value();
    let gpu_name = value.as_ref().map_or("gpu", clap::builder::PossibleValue::get_name);
    for backend in if gpu.is_some() { vec!["cpu", gpu_name] } else { vec!["cpu"] } {
        for _ in 0..runs {
            let mut command = Command::new(&program);
            command.args(["generate", "--json", "-q", "-n", "4", "--backend", backend]);
            // Neither the environment nor a configuration changes what is generated.
            for variable in config::variables() {
                command.env_remove(variable);
            }
            command.env("SAMEBITS_CONFIG", "");
            // An argument could not hold a long text, and everybody could read it.
            command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let precision: crate::numerics::Precision = a.precision.into();
            command.arg("--precision").arg(format!("{precision:?}").to_lowercase());
            if let (Some(device), true) = (&a.device, backend != "cpu") {
                command.args(["--device", device]);
            }
            if let Ok(Some(model)) = a.model.file(true) {
                command.arg("-m").arg(model);
            }
            if let Some(pre) = &a.model.pre {
                command.args(["--pre", pre]);
            }
            let mut child = command.spawn().map_err(|e| failed(&e))?;
            // A process that reads no text says itself what is wrong. Its end of text is one line feed.
            let _ = child.stdin.take().map(|mut pipe| writeln!(pipe, "{text}"));
            let output = child.wait_with_output().map_err(|e| failed(&e))?;
            if !output.status.success() {
                return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
            }
            let value: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))?;
            hashes.push(value["logits_hash"].as_str().unwrap_or_default().to_owned());
        }
    }
    let holds = hashes.iter().all(|h| *h == hashes[0]);
    let count = hashes.len();
    let detail = if holds {
        format!("{count} fresh processes, 4 tokens each: the same logits hash")
    } else {
        let short: Vec<_> = hashes.iter().map(|h| format!("{}…", h.get(..8).unwrap_or(h))).collect();
        format!("{count} fresh processes gave other logits hashes: {}", short.join(" "))
    };
    Ok(Rung { name: "L1 processes", holds, detail, difference: None })
}
