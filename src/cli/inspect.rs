//! `samebits inspect`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value as Json, json};

use super::Outcome;
use super::terminal::{print, print_json};
use crate::backend::gpu::unfused_because;
use crate::gguf::{Gguf, type_name};
use crate::model::Model;
use crate::numerics::Precision;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The GGUF file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let gguf = Arc::new(Gguf::open(&a.file)?);
    let runs = Runs::of(gguf.clone());
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
    match runs {
        Runs { error: Some(error), .. } => print(&format!("does not run: {error}\n"))?,
        Runs { unfused: Some(reason), .. } => print(&format!("runs unfused: {reason}\n"))?,
        Runs { .. } => print("runs, single tokens by fused kernels on a GPU\n")?,
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
}

impl Runs {
    fn of(gguf: Arc<Gguf>) -> Self {
        match Model::new(gguf).and_then(|model| model.plan(Precision::Fast)) {
            Ok(plan) => Self { error: None, unfused: unfused_because(&plan) },
            Err(error) => Self { error: Some(error.to_string()), unfused: None },
        }
    }
}
