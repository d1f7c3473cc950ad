//! `samebits inspect`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value as Json, json};

use super::Outcome;
use super::terminal::{print, print_json};
use crate::backend::gpu::{groups, unfused_because};
use crate::gguf::{Gguf, type_name};
use crate::model::Model;
use crate::numerics::Precision;
use crate::plan::StepName;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The GGUF file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print how the model runs on a GPU, too: which kernel computes which steps of a single token
    #[arg(long)]
    plan: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let gguf = Arc::new(Gguf::open(&a.file)?);
    let runs = Runs::of(gguf.clone(), a.plan);
    let parameters: u64 = gguf.tensors().iter().map(|t| t.dims.iter().product::<u64>()).sum();
    if a.json {
        let metadata: serde_json::Map<String, Json> =
            gguf.metadata().iter().map(|(k, v)| (k.clone(), v.to_json())).collect();
        let tensors: Vec<_> = gguf
            .tensors()
            .iter()
            .map(|t| json!({"name": t.name, "type": type_name(t.type_id), "shape": t.dims, "bytes": t.bytes}))
            .collect();
        return Ok(print_json(&json!({
            "file": a.file.display().to_string(),
            "version": gguf.version(),
            "alignment": gguf.alignment(),
            "bytes": gguf.file_size(),
            "parameters": parameters,
            "runs": runs.error.is_none(),
            "error": runs.error,
            "unfused": runs.unfused,
            "plan": runs.plan.map(|plan| plan.iter().map(|(kernel, steps)| {
                json!({"kernel": kernel, "steps": steps.iter().map(StepName::to_string).collect::<Vec<_>>()})
            }).collect::<Vec<_>>()),
            "metadata": metadata,
            "tensors": tensors,
        }))?);
    }
    print(&format!(
        "{}: GGUF version {}, {} bytes, {parameters} parameters\n",
        a.file.display(),
        gguf.version(),
        gguf.file_size()
    ))?;
    for (key, value) in gguf.metadata() {
        print(&format!("{key:<48} {}", value.summary()))?;
    }
    print("")?;
    match &runs {
        Runs { error: Some(error), .. } => print(&format!("does not run: {error}\n"))?,
        Runs { unfused: Some(reason), .. } => print(&format!("runs unfused: {reason}\n"))?,
        Runs { .. } => print("runs, single tokens by fused kernels on a GPU\n")?,
    }
    if let Some(plan) = &runs.plan {
        layers(plan).iter().try_for_each(|line| print(line))?;
        print("")?;
    }
    for t in gguf.tensors() {
        let shape = t.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        print(&format!("{:<40} {:<8} {:>20} {:>12} bytes", t.name, type_name(t.type_id), shape, t.bytes))?;
    }
    Ok(())
}

/// Whether and how a file runs as a model.
struct Runs {
    error: Option<String>,
    unfused: Option<String>,
    plan: Option<Groups>,
}

/// Kernels, and the steps that each computes.
type Groups = Vec<(&'static str, Vec<StepName>)>;

impl Runs {
    fn of(gguf: Arc<Gguf>, with_groups: bool) -> Self {
        match Model::new(gguf).and_then(|model| model.plan(Precision::Fast)) {
            Ok(plan) => Self { error: None, unfused: unfused_because(&plan), plan: with_groups.then(|| groups(&plan)) },
            Err(error) => Self { error: Some(error.to_string()), unfused: None, plan: None },
        }
    }
}

/// The groups of a plan as lines; layers that run alike are said once.
fn layers(plan: &Groups) -> Vec<String> {
    let layer = |steps: &[StepName]| steps.first().and_then(|s| s.layer);
    let mut parts: Vec<(Vec<usize>, Vec<String>)> = Vec::new();
    for part in plan.chunk_by(|a, b| layer(&a.1) == layer(&b.1)) {
        let line = |(kernel, steps): &(&str, Vec<StepName>)| {
            let parts: Vec<_> = steps.iter().map(|s| s.part.as_str()).collect();
            format!("  {kernel:<22} {}", parts.join(" "))
        };
        let lines: Vec<_> = part.iter().map(line).collect();
        let number = layer(&part[0].1);
        match parts.last_mut() {
            Some((numbers, last)) if *last == lines && number.is_some() => numbers.extend(number),
            _ => parts.push((number.into_iter().collect(), lines)),
        }
    }
    let mut all = vec![format!("a token takes {} kernels:", plan.len())];
    for (numbers, lines) in parts {
        match numbers[..] {
            [] => {}
            [one] => all.push(format!(" layer {one}")),
            [first, .., last] => all.push(format!(" layers {first} to {last}, each")),
        }
        all.extend(lines);
    }
    all
}
