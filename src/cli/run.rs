//! `samebits run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Outcome;
use super::error::{Failure, Interrupted, Usage};
use super::hint::Hinted;
use super::load::PrecisionName;
use super::signals;
use super::terminal::{note, print, print_json, warning};
use super::text::{STDIN, read};
use super::values::not_empty;
use crate::backend::BackendError;
use crate::backend::gpu::{AdapterOptions, Api, disk};
use crate::script::{Options, Script, ScriptError};
use crate::tensor::{Place, Space, Step, TensorError};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The script; - reads standard input
    #[arg(value_name = "FILE")]
    script: PathBuf,
    /// What the script finds in `args`
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
    /// Where ops run: auto takes a real GPU if there is one, otherwise the CPU; both runs every op on the CPU and on a GPU, and ends
    /// at the first whose bits differ
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME", value_parser = not_empty)]
    device: Option<String>,
    /// How finely `linear` rounds activations
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// What results of f32 are kept as: f16 rounds each of them to a half
    #[arg(long, value_enum, default_value_t = DtypeName::F32)]
    dtype: DtypeName,
    /// Run so often, and end at the first op whose bits are not those of the first run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Compute every op in double precision, too, and print how far its result is from that
    #[arg(long, value_enum, value_name = "TYPE")]
    reference: Option<ReferenceName>,
    /// Operations of the language after which the script is ended
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    limit: u64,
    /// Print every op with its place, shape and hash as JSON; what the script prints goes to standard error
    #[arg(long)]
    json: bool,
    /// Say nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    Auto,
    Cpu,
    Gpu,
    Vulkan,
    Metal,
    Dx12,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DtypeName {
    F32,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReferenceName {
    F64,
}

/// The space that is asked for.
fn space(a: &Arguments) -> Result<Space, Box<dyn std::error::Error>> {
    if a.backend == BackendName::Cpu && a.device.is_some() {
        return Err(Usage::DeviceOfCpu.into());
    }
    let api = match a.backend {
        BackendName::Vulkan => Api::Vulkan,
        BackendName::Metal => Api::Metal,
        BackendName::Dx12 => Api::Dx12,
        _ => Api::Any,
    };
    let hardware_only = a.backend == BackendName::Auto && a.device.is_none();
    let options = AdapterOptions { api, device: a.device.clone(), hardware_only, cache: disk::folder() };
    let space = match a.backend {
        BackendName::Cpu => Space::cpu()?,
        BackendName::Both => Space::both(&options)?,
        BackendName::Auto if a.device.is_none() => match Space::gpu(&options) {
            Ok(space) => space,
            Err(TensorError::Backend(BackendError::NoAdapter(_))) => Space::cpu()?,
            Err(error) => {
                warning!("no GPU is used: {}; the CPU is used instead", Hinted(&error));
                Space::cpu()?
            }
        },
        _ => Space::gpu(&options)?,
    };
    Ok(if a.reference.is_some() { space.with_reference()? } else { space })
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let text = read(&a.script)?;
    let name = if a.script.as_os_str() == "-" { STDIN.to_owned() } else { a.script.display().to_string() };
    let space = space(a)?;
    if !a.quiet {
        let device = space.device().unwrap_or_else(|| "the CPU".to_owned());
        let and = if a.backend == BackendName::Both { "the CPU and " } else { "" };
        note!("ops run on {and}{device}");
        if a.reference.is_some() && a.runs > 1 {
            warning!("--reference prints the errors of the first of {} runs", a.runs);
        }
    }
    let signal = signals::watch();
    let options = Options {
        precision: a.precision.into(),
        halves: a.dtype == DtypeName::F16,
        limit: a.limit,
        arguments: a.arguments.clone(),
        interrupt: signal.interrupt(),
    };
    let steps = a.runs > 1 || a.reference.is_some() || a.json;
    let to_stderr = a.json;
    let failed = |error: ScriptError| -> Box<dyn std::error::Error> {
        match error {
            ScriptError::Failed { place, message } => {
                let place = place.map_or_else(String::new, |Place { line, column }| format!(":{line}:{column}"));
                Failure::Script { place: format!("{name}{place}"), message }.into()
            }
            ScriptError::Interrupted => Interrupted.into(),
            ScriptError::Print(error) => error,
        }
    };
    let eager = steps || a.backend == BackendName::Both;
    let script = Script::new(&text, &space, &options, eager, move |line| {
        if to_stderr {
            note!("{line}");
            return Ok(());
        }
        Ok(print(line)?)
    });
    let script = script.map_err(failed)?;
    let first = script.run(steps).map_err(failed)?;
    for run in 2..=usize::from(a.runs) {
        let again = script.run(true).map_err(failed)?;
        if let Some(what) = first_difference(&first, &again) {
            return Err(Failure::ScriptRunsDiffer { script: name, run, what }.into());
        }
    }
    if a.json {
        print_json(&json!({"runs": a.runs, "steps": first.iter().map(as_json).collect::<Vec<_>>()}))?;
        return Ok(());
    }
    if a.reference.is_some() {
        print(&format!("{:>9}  {:<14} {:<22} {:>12} {:>12}", "place", "op", "shape", "largest", "relative"))?;
        for step in &first {
            let Some(error) = step.error else { continue };
            let shape = format!("{:?}", step.shape);
            let (op, place) = (step.op, short(step.place));
            print(&format!("{place:>9}  {op:<14} {shape:<22} {:>12.3e} {:>12.3e}", error.largest, error.relative))?;
        }
    }
    if a.runs > 1 && !a.quiet {
        note!("{} runs of {} ops: the same bits", a.runs, first.len());
    }
    Ok(())
}

fn short(place: Option<Place>) -> String {
    place.map_or_else(String::new, |p| format!("{}:{}", p.line, p.column))
}

/// The first op of two runs whose results differ.
fn first_difference(first: &[Step], again: &[Step]) -> Option<String> {
    let said = |step: &Step| format!("{} {:?} at {}", step.op, step.shape, short(step.place));
    let pair = first.iter().zip(again).find(|(a, b)| (&a.op, &a.shape, &a.hash) != (&b.op, &b.shape, &b.hash));
    pair.map(|(a, _)| said(a)).or_else(|| {
        let (n, m) = (first.len(), again.len());
        (n != m).then(|| format!("it has {m} ops, the first had {n}"))
    })
}

fn as_json(step: &Step) -> Value {
    let mut value = json!({
        "op": step.op,
        "shape": step.shape,
        "line": step.place.map(|p| p.line),
        "column": step.place.map(|p| p.column),
        "sha256": step.hash,
    });
    if let Some(error) = step.error {
        value["error"] = json!({"largest": error.largest, "relative": error.relative});
    }
    value
}
