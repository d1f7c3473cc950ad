//! `samebits inspect`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value as Json, json};

use super::Outcome;
use super::load::usual_sizes;
use super::terminal::{print, print_json};
use crate::backend::gpu::{groups, unfused_because};
use crate::gguf::{Gguf, type_name};
use crate::model::Model;
use crate::numerics::Precision;
use crate::plan::StepName;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The GGUF file, or a model of Hugging Face's hub
    #[arg(value_name = "FILE|NAME")]
    file: PathBuf,
    /// Print how the model runs on a GPU, too: which kernel computes which steps of a single token
    #[arg(long)]
    plan: bool,
    /// Positions of the context whose memory is said; 0: as many as the model was trained for
    #[arg(short, long = "ctx", value_name = "N")]
    context: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let gguf = Arc::new(Gguf::open(&super::hub::resolve(&a.file, false)?)?);
    let runs = Runs::of(gguf.clone(), a);
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
            "files": gguf.files(),
            "parameters": parameters,
            "runs": runs.error.is_none(),
            "error": runs.error,
            "unfused": runs.unfused,
            "ignored": runs.ignored.iter().map(|(key, why)| json!({"key": key, "why": why})).collect::<Vec<_>>(),
            "memory": runs.memory.map(|m| json!({"context": m.context, "weights": m.weights, "cache": m.cache})),
            "plan": runs.plan.map(|plan| plan.iter().map(|(kernel, steps)| {
                json!({"kernel": kernel, "steps": steps.iter().map(StepName::to_string).collect::<Vec<_>>()})
            }).collect::<Vec<_>>()),
            "metadata": metadata,
            "tensors": tensors,
        }))?);
    }
    print(&format!(
        "{}: GGUF version {}, {} bytes{}, {parameters} parameters\n",
        a.file.display(),
        gguf.version(),
        gguf.file_size(),
        if gguf.files() > 1 { format!(" in {} files", gguf.files()) } else { String::new() }
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
    if let Some(Memory { context, weights, cache }) = runs.memory {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (weights, cache) = (mib(weights), mib(cache));
        print(&format!("memory: {weights:.1} MiB of weights, {cache:.1} MiB of cache for {context} positions\n"))?;
    }
    if !runs.ignored.is_empty() {
        runs.ignored.iter().try_for_each(|(key, why)| print(&format!("ignored: {key}, as {why}")))?;
        print("")?;
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
    /// Keys without effect, and why.
    ignored: Vec<(String, &'static str)>,
    memory: Option<Memory>,
    plan: Option<Groups>,
}

/// Bytes that a model takes besides those that do not depend on the context.
#[derive(Clone, Copy)]
struct Memory {
    /// Positions of the context.
    context: usize,
    weights: u64,
    cache: u64,
}

/// Kernels, and the steps that each computes.
type Groups = Vec<(&'static str, Vec<StepName>)>;

impl Runs {
    fn of(gguf: Arc<Gguf>, a: &Arguments) -> Self {
        let opened = Model::new(gguf).and_then(|model| {
            let sizes = usual_sizes(&model, a.context);
            let model = model.for_context(sizes.context);
            let mut plan = model.plan(Precision::Fast)?;
            sizes.fit(&mut plan);
            Ok((plan, model, sizes.context))
        });
        let (plan, model, context) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let error = Some(error.to_string());
                return Self { error, unfused: None, ignored: Vec::new(), memory: None, plan: None };
            }
        };
        let weights = plan.weights.iter().map(|w| w.bytes() as u64).sum();
        // Keys and values are halves.
        let cache = plan.caches.iter().map(|c| 4 * (c.width() * c.kept(context)) as u64).sum();
        Self {
            error: None,
            unfused: unfused_because(&plan),
            ignored: model.ignored_keys().collect(),
            memory: Some(Memory { context, weights, cache }),
            plan: a.plan.then(|| groups(&plan)),
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
