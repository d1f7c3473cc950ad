//! `samebits quantize`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::error::Usage;
use super::load::threads;
use super::terminal::{note, print, print_json};
use super::{Outcome, signals, terminal};
use crate::backend::cpu::usable_processors;
use crate::convert::{Options, TARGETS, Target, quantize};
use crate::gguf::{Gguf, paths_of_parts};
use crate::output;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The GGUF file to read, or a model of Hugging Face's hub; F32, F16 or BF16 lose least, but every format that can be run can be read
    #[arg(value_name = "IN")]
    source: PathBuf,
    /// The GGUF file to write; - is standard output, where nothing else is printed then
    #[arg(value_name = "OUT")]
    target: PathBuf,
    /// What to make: F16, Q8_0, Q4_K_M, …; the mixtures _S, _M and _L are llama.cpp's
    #[arg(value_name = "TYPE", value_parser = target)]
    kind: &'static Target,
    /// Give every matrix the same format instead of a mixture
    #[arg(long)]
    pure: bool,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
    /// Threads, no more than this process may use [default: all of those]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

fn target(name: &str) -> Result<&'static Target, String> {
    let all = || TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
    Target::by_name(name).ok_or_else(|| format!("known types: {}", all()))
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let input = super::hub::resolve(&a.source, a.quiet)?;
    let parts = paths_of_parts(&input);
    let inputs: Vec<_> = parts.iter().map(PathBuf::as_path).collect();
    let file = output::Target::new(&a.target, a.force, &inputs)?.binary()?;
    if a.json && file.is_stdout() {
        return Err(Usage::TwoOnStdout(file.name().to_owned()).into());
    }
    let source = Gguf::open(&input)?;
    let signal = signals::watch();
    let bytes = source.tensors().iter().map(|t| t.bytes).sum();
    let template = "quantizing {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = terminal::bar(a.quiet, Some(bytes), template);
    let threads = threads(Some(a.threads.map_or_else(usable_processors, usize::from)), a.quiet);
    let options = Options { target: a.kind, pure: a.pure, threads };
    let tensors = quantize(&source, &file, options, &|done| {
        bar.inc(done);
        !signal.asked()
    });
    bar.finish_and_clear();
    let tensors = tensors?;
    let total = |i: usize| tensors.iter().map(|t| t.bytes[i]).sum::<u64>();
    if a.json {
        let list: Vec<_> =
            tensors.iter().map(|t| json!({"name": t.name, "from": t.from, "to": t.to, "bytes": t.bytes[1]})).collect();
        return Ok(print_json(&json!({
            "file": a.target.display().to_string(),
            "type": a.kind.name,
            "bytes_before": total(0),
            "bytes_after": total(1),
            "tensors": list,
        }))?);
    }
    if !a.quiet {
        for t in tensors.iter().filter(|_| !file.is_stdout()) {
            print(&format!("{:<40} {:>7} → {:<7} {:>12} bytes", t.name, t.from, t.to, t.bytes[1]))?;
        }
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let name = a.target.display();
        note!("{name}: {}, {:.1} MiB of weights (before: {:.1} MiB)", a.kind.name, mib(total(1)), mib(total(0)));
    }
    Ok(())
}
