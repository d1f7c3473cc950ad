//! `samebits verify`.

use std::path::PathBuf;
use std::process::Command;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::load::{BackendName, ModelArguments, PrecisionName};
use super::{Outcome, print, print_json};
use crate::backend::gpu::{Api, Choice, Device, adapters, api_name};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::verify::{Options, Report, Rung, VerifyError, known_failure, known_fingerprint, verify};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What to verify: auto takes the best adapter, software adapters too, and the CPU; cpu the CPU alone
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// How finely activations are rounded
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", default_value = "Once upon a time there was a small")]
    prompt: String,
    /// Repetitions in one process
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Fewer repetitions and cases
    #[arg(long)]
    quick: bool,
    /// CPU threads, no more than this process may use [default: the physical cores among those]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Folder for the tensors that differ
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let model = a.model.open()?;
    let tokenizer = Tokenizer::from_gguf(&model.gguf)?;
    let prompt = tokenizer.encode(&a.prompt, EncodeOptions { add_special: true, parse_special: true })?;
    if prompt.is_empty() {
        return Err(crate::engine::EngineError::EmptyPrompt.into());
    }
    let gpu = choice(a);
    let options = Options {
        gpu: gpu.clone(),
        precision: a.precision.into(),
        threads: super::load::threads(a.threads.map(usize::from), false),
        runs: if a.quick { 3 } else { usize::from(a.runs) },
        rounds: if a.quick { 1 } else { 10 },
        // One more than a tile of attention has rows, or than one of a matrix product.
        many: if a.quick { 33 } else { 65 },
        prompt,
    };
    let mut adapter = "none".to_owned();
    let mut note = None;
    if let Some(choice) = &gpu {
        let device = Device::open(choice)?;
        let (info, driver) = (&device.info, format!("{} {}", device.info.driver, device.info.driver_info));
        adapter = format!("{} ({}, {driver})", info.name, api_name(info));
        note = known_failure(&device);
    }
    if !a.json {
        print(&format!("model    {}", model.config.name))?;
        print(&format!("adapter  {adapter}"))?;
        if gpu.is_none() && a.backend == BackendName::Auto {
            print("no GPU adapter found: only the CPU is verified")?;
        }
    }
    let show = |rung: &Rung| {
        if !a.json {
            let verdict = if rung.holds { "holds" } else { "FAILS" };
            let _ = print(&format!("{verdict}  {:<23} {}", rung.name, rung.detail));
        }
    };
    let Report { mut rungs, fingerprint } = verify(&model, &options, &mut |rung| show(rung))?;
    let processes = fresh_processes(a, &gpu, if a.quick { 1 } else { options.runs })?;
    show(&processes);
    rungs.push(processes);
    let known = known_fingerprint(&model, a.precision.into());
    if let Some(known) = &known {
        let holds = *known == fingerprint;
        let detail =
            if holds { "as on other machines".to_owned() } else { format!("{fingerprint}, elsewhere {known}") };
        let rung = Rung { name: "fingerprint", holds, detail, difference: None };
        show(&rung);
        rungs.push(rung);
    }
    let mut files = Vec::new();
    for difference in rungs.iter().filter_map(|r| r.difference.as_ref()) {
        for (words, side) in difference.words.iter().zip(["expected", "got"]) {
            let path = a.out.join(format!("{}.{side}.npy", difference.file));
            super::logits::write_npy(&path, 1, words.len(), bytemuck::cast_slice(words))?;
            files.push(path.display().to_string());
        }
    }
    let holds = rungs.iter().all(|r| r.holds);
    if a.json {
        print_json(&json!({
            "model": model.config.name,
            "adapter": adapter,
            "rungs": rungs,
            "fingerprint": fingerprint,
            "known_fingerprint": known,
            "known_failure": note,
            "files": files,
            "holds": holds,
        }))?;
    } else {
        if let Some(note) = note {
            print(&format!("known failure of this driver: {note}"))?;
        }
        files.iter().try_for_each(|f| print(&format!("wrote {f}")))?;
        print(&format!("fingerprint {fingerprint}"))?;
    }
    if holds { Ok(()) } else { Err("a guarantee does not hold on this device; see above".into()) }
}

fn choice(a: &Arguments) -> Option<Choice> {
    let api = match a.backend {
        BackendName::Cpu => return None,
        BackendName::Auto | BackendName::Gpu => Api::Any,
        BackendName::Vulkan => Api::Vulkan,
        BackendName::Metal => Api::Metal,
        BackendName::Dx12 => Api::Dx12,
    };
    if a.backend == BackendName::Auto && a.device.is_none() && adapters(api).is_empty() {
        return None;
    }
    Some(Choice { api, device: a.device.clone(), ..Choice::default() })
}

/// L1 in processes of their own, on the same adapter.
fn fresh_processes(a: &Arguments, gpu: &Option<Choice>, runs: usize) -> Result<Rung, VerifyError> {
    let failed = |e: &dyn std::fmt::Display| VerifyError::Process(e.to_string());
    let program = std::env::current_exe().map_err(|e| failed(&e))?;
    let mut hashes = Vec::new();
    let named = if a.backend == BackendName::Auto { BackendName::Gpu } else { a.backend };
    let value = named.to_possible_value();
    let gpu_name = value.as_ref().map_or("gpu", clap::builder::PossibleValue::get_name);
    for backend in if gpu.is_some() { vec!["cpu", gpu_name] } else { vec!["cpu"] } {
        for _ in 0..runs {
            let mut command = Command::new(&program);
            command.args(["generate", "--json", "-q", "-n", "4", "--backend", backend, "-p", &a.prompt]);
            let precision: crate::numerics::Precision = a.precision.into();
            command.arg("--precision").arg(format!("{precision:?}").to_lowercase());
            if let (Some(device), true) = (&a.device, backend != "cpu") {
                command.args(["--device", device]);
            }
            if let Some(model) = &a.model.model {
                command.arg("-m").arg(model);
            }
            let output = command.output().map_err(|e| failed(&e))?;
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
