//! `samebits inspect`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value as Json, json};

use super::{Outcome, print, print_json};
use crate::gguf::{Gguf, ggml_type};

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
    let gguf = Gguf::open(&a.file)?;
    let type_name = |id: u32| ggml_type(id).map_or_else(|| format!("type {id}"), |t| t.name.to_owned());
    let parameters: u64 = gguf.tensors().iter().map(|t| t.dims.iter().product::<u64>()).sum();
    if a.json {
        let metadata: serde_json::Map<String, Json> =
            gguf.metadata().iter().map(|(k, v)| (k.clone(), v.to_json())).collect();
        let tensors: Vec<_> = gguf
            .tensors()
            .iter()
            .map(|t| json!({"name": t.name, "type": type_name(t.type_id), "shape": t.dims, "bytes": t.bytes}))
            .collect();
        return print_json(&json!({
            "file": a.file.display().to_string(),
            "version": gguf.version(),
            "alignment": gguf.alignment(),
            "bytes": gguf.file_size(),
            "parameters": parameters,
            "metadata": metadata,
            "tensors": tensors,
        }));
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
    for t in gguf.tensors() {
        let shape = t.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        print(&format!("{:<40} {:<8} {:>20} {:>12} bytes", t.name, type_name(t.type_id), shape, t.bytes))?;
    }
    Ok(())
}
