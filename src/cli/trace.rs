//! `samebits trace`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::load::{BackendName, ModelArguments, PrecisionName, RunArguments};
use super::{Outcome, print, print_json};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::trace::{Trace, first_difference, trace};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Where to compute; two, as in cpu,gpu, are compared step by step
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_value = "cpu")]
    backend: Vec<BackendName>,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// How finely activations are rounded
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// Repeat, and name the first step that differs between runs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print the figures of every step, not only of the layers
    #[arg(long)]
    steps: bool,
    /// The step that --dump writes, such as blk.3.ffn_norm
    #[arg(long, value_name = "NAME", requires = "dump")]
    step: Option<String>,
    /// Write the output of --step for all tokens as a NumPy file
    #[arg(long, value_name = "FILE", requires = "step")]
    dump: Option<PathBuf>,
    /// Name the first step that differs from a trace saved with --json on another machine or build
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
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
    let plan = model.plan(a.precision.into())?;
    let mut traces: Vec<(String, Trace)> = Vec::new();
    for &backend in &a.backend {
        let options = RunArguments {
            backend,
            device: a.device.clone(),
            precision: a.precision,
            context: Some(prompt.len() as u32),
            threads: None,
            chunk: u16::try_from(prompt.len()).map_err(|_| "the prompt is too long to trace")?,
            quiet: true,
        };
        let mut backend = super::load::open(&model, &options, true)?;
        if backend.batch_size() < prompt.len() {
            return Err(format!("{} tokens do not fit one batch of {}", prompt.len(), backend.batch_size()).into());
        }
        for run in 0..a.runs {
            let name = format!("{} run {}", backend.name(), run + 1);
            traces.push((name, trace(&model, &plan, &mut *backend, &prompt)?));
        }
    }
    let (first_name, first) = &traces[0];
    let mut differences: Vec<_> = traces[1..]
        .iter()
        .map(|(name, t)| {
            let difference =
                first_difference(first, t).map(|(step, wrong, all)| json!({"step": step, "differ": wrong, "of": all}));
            (name.clone(), difference)
        })
        .collect();
    if let Some(path) = &a.against {
        differences.push((path.display().to_string(), against(path, &prompt, first)?));
    }
    if let (Some(step), Some(path)) = (&a.step, &a.dump) {
        let found = first.outputs.iter().find(|(s, _)| s.name == *step);
        let (_, words) =
            found.ok_or_else(|| format!("there is no step '{step}'; `samebits trace --steps` lists them"))?;
        super::logits::write_npy(path, prompt.len(), words.len() / prompt.len(), bytemuck::cast_slice(words))?;
    }
    if a.json {
        let compared: Vec<_> =
            differences.iter().map(|(name, d)| json!({"with": name, "first_difference": d})).collect();
        print_json(&json!({"tokens": prompt, "trace": first, "compared": compared}))?;
    } else {
        show(a, first, &tokenizer)?;
        for (name, difference) in &differences {
            match difference {
                None => print(&format!("{name}: every step has the bits of {first_name}"))?,
                Some(d) => print(&format!(
                    "{name}: differs from {first_name} first at step {}: {} of {} words",
                    d["step"], d["differ"], d["of"]
                ))?,
            }
        }
    }
    if differences.iter().any(|d| d.1.is_some()) { Err("runs differ; see above".into()) } else { Ok(()) }
}

/// The first step whose hash is not that of a saved trace of the same prompt.
fn against(
    path: &std::path::Path,
    prompt: &[u32],
    t: &Trace,
) -> Result<Option<serde_json::Value>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let name = path.display();
    let saved: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("{name} is not what `samebits trace --json` writes: {e}"))?;
    let hashes = saved["trace"]["hashes"].as_array().ok_or_else(|| format!("{name} holds no trace"))?;
    if saved["tokens"] != json!(prompt) || hashes.len() != t.hashes.len() {
        return Err(format!("{name} is of another prompt or model; trace the same on both machines").into());
    }
    let differ = |(ours, theirs): &(&(String, String), &serde_json::Value)| json!(ours) != **theirs;
    let mut wrong = t.hashes.iter().zip(hashes).filter(differ);
    let first = wrong.next().map(|(ours, _)| ours.0.clone());
    let more = wrong.count();
    Ok(first.map(|step| json!({"step": step, "differ": more + 1, "of": hashes.len(), "unit": "steps"})))
}

fn show(a: &Arguments, t: &Trace, tokenizer: &Tokenizer) -> Outcome {
    if a.steps {
        print(&format!(
            "{:<28} {:>11} {:>11} {:>11} {:>11} {:>11} {:>6}",
            "step", "min", "max", "mean", "deviation", "l2", "zeros"
        ))?;
        for s in &t.steps {
            print(&format!(
                "{:<28} {:>11.4e} {:>11.4e} {:>11.3e} {:>11.4e} {:>11.4e} {:>5.1}%",
                s.step,
                s.min,
                s.max,
                s.mean,
                s.deviation,
                s.l2,
                100.0 * s.zeros
            ))?;
        }
        print("")?;
    }
    print(&format!(
        "{:>5} {:>10} {:>8} {:>8} {:>8}  likeliest next tokens",
        "layer", "l2", "cosine", "entropy", "spread"
    ))?;
    for l in &t.layers {
        let piece = |id: u32| format!("{:?}", String::from_utf8_lossy(&tokenizer.decode(&[id])));
        let top = l.top.iter().map(|(id, _)| piece(*id)).collect::<Vec<_>>().join(" ");
        print(&format!("{:>5} {:>10.3} {:>8.4} {:>8.3} {:>8.3}  {top}", l.layer, l.l2, l.cosine, l.entropy, l.spread))?;
    }
    t.warnings.iter().try_for_each(|w| print(&format!("look at this: {w}")))?;
    Ok(())
}
