//! `samebits run`.

use std::path::PathBuf;
use std::rc::Rc;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::error::{Failure, Interrupted};
use super::hint::Hinted;
use super::load::{BackendName, PrecisionName, say};
use super::signals;
use super::terminal::{note, print, print_json, warning};
use super::text::{STDIN, read};
use super::values::not_empty;
use super::{Outcome, hub};
use crate::engine::{self, Fact, OpenOptions};
use crate::gguf::Gguf;
use crate::quant::FORMATS;
use crate::script::{Options, Script, ScriptError};
use crate::tensor::{Place, Space, Step};

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
    #[arg(long, default_value = "auto", value_parser = side())]
    backend: Side,
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

/// Where ops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    One(BackendName),
    Both,
}

/// Reads the name of a backend, or `both`.
fn side() -> impl TypedValueParser<Value = Side> {
    let names = BackendName::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let parser = PossibleValuesParser::new(names.chain([PossibleValue::new("both")]));
    parser.map(|name| BackendName::from_str(&name, false).map_or(Side::Both, Side::One))
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

/// The space that is asked for; the adapter is chosen as for models, and tested for weights of every format.
fn space(a: &Arguments) -> Result<Space, Box<dyn std::error::Error>> {
    let (backend, both) = match a.backend {
        Side::One(backend) => (backend, false),
        Side::Both => (BackendName::Gpu, true),
    };
    let device = a.device.clone();
    let options = OpenOptions { backend: backend.wanted(device.as_deref())?, device, ..OpenOptions::default() };
    let mut hear = |fact: Fact<'_>| {
        // A software adapter beside the CPU is what was asked for.
        let quiet = a.quiet || both;
        say(&fact, &mut ProgressBar::hidden(), quiet, false);
    };
    let space = engine::on_adapter(&options, FORMATS, |device, _| Space::on(device, both), &mut hear)?;
    let space = space.map_or_else(Space::cpu, Ok)?;
    Ok(if a.reference.is_some() { space.with_reference()? } else { space })
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let text = read(&a.script)?;
    let name = if a.script.as_os_str() == "-" { STDIN.to_owned() } else { a.script.display().to_string() };
    let space = space(a)?;
    if !a.quiet {
        let device = space.device().unwrap_or_else(|| "the CPU".to_owned());
        let and = if a.backend == Side::Both { "the CPU and " } else { "" };
        note!("ops run on {and}{device}");
        if a.reference.is_some() && a.runs > 1 {
            warning!("--reference prints the errors of the first of {} runs", a.runs);
        }
    }
    let signal = signals::watch();
    let quiet = a.quiet;
    let options = Options {
        open_model: Rc::new(move |name| open_model(name, quiet).map_err(|error| Hinted(&*error).to_string())),
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
    let eager = steps || a.backend == Side::Both;
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

/// Opens what `-m` of other commands takes.
fn open_model(name: &str, quiet: bool) -> Result<Gguf, Box<dyn std::error::Error>> {
    Ok(Gguf::open(&hub::resolve(name.as_ref(), quiet)?)?)
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
