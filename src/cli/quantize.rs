//! `samebits quantize`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::load::threads;
use super::{Outcome, print, print_json};
use crate::backend::cpu::usable_processors;
use crate::convert::{Options, TARGETS, Target, quantize};
use crate::gguf::Gguf;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The GGUF file to read; F32, F16 or BF16 lose least, but every format that can be run can be read
    #[arg(value_name = "IN")]
    source: PathBuf,
    /// The GGUF file to write
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
    let source = Gguf::open(&a.source)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let bytes = source.tensors().iter().map(|t| t.bytes).sum();
    let bar = if a.quiet { ProgressBar::hidden() } else { ProgressBar::new(bytes) };
    if let Ok(style) = ProgressStyle::with_template("quantizing {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    let threads = threads(Some(a.threads.map_or_else(usable_processors, usize::from)), a.quiet);
    let options = Options { target: a.kind, pure: a.pure, threads, force: a.force };
    let tensors = quantize(&source, &a.target, options, &mut |done| {
        bar.inc(done);
        !interrupted.load(Ordering::Relaxed)
    })?;
    bar.finish_and_clear();
    let total = |i: usize| tensors.iter().map(|t| t.bytes[i]).sum::<u64>();
    if a.json {
        let list: Vec<_> =
            tensors.iter().map(|t| json!({"name": t.name, "from": t.from, "to": t.to, "bytes": t.bytes[1]})).collect();
        return print_json(&json!({
            "file": a.target.display().to_string(),
            "type": a.kind.name,
            "bytes_before": total(0),
            "bytes_after": total(1),
            "tensors": list,
        }));
    }
    if !a.quiet {
        for t in &tensors {
            print(&format!("{:<40} {:>7} → {:<7} {:>12} bytes", t.name, t.from, t.to, t.bytes[1]))?;
        }
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let name = a.target.display();
        eprintln!("{name}: {}, {:.1} MiB of weights (before: {:.1} MiB)", a.kind.name, mib(total(1)), mib(total(0)));
    }
    Ok(())
}
