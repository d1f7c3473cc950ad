//! `samebits trace`.

use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::error::{Failure, Usage};
use super::load::{BackendName, ModelArguments, PrecisionName, Purpose, RunArguments, encode, usual_context};
use super::terminal::{print, print_json};
use super::text::PromptArguments;
use super::values::not_empty;
use super::{Outcome, signals, text};
use crate::memory;
use crate::model::Model;
use crate::output::Target as File;
use crate::plan::Plan;
use crate::trace::{
    Difference, Page, Run, Trace, Verdict, analyse, first_difference, memory as trace_memory, run as run_prompt, svg,
};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    prompt: PromptArguments,
    /// Where to compute
    #[arg(long, value_enum, value_name = "NAME", default_value = "cpu", conflicts_with = "compare")]
    backend: BackendName,
    /// Run on several backends and name the first step that differs: cpu,gpu or gpu:fused,gpu:unfused. A fused run goes token
    /// by token; its steps cannot be seen, so its logits are compared
    #[arg(long, value_name = "NAME,NAME…", value_delimiter = ',')]
    compare: Vec<Target>,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME", value_parser = not_empty)]
    device: Option<String>,
    /// How finely activations are rounded
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// Run only these layers between embedding and output: 0 is the first alone, 0..3 are the first three
    #[arg(long, value_name = "N|A..B", value_parser = parse_layers, conflicts_with = "skip_layers")]
    layers: Option<Range<usize>>,
    /// Run no layer at all: embedding, output norm, output
    #[arg(long)]
    skip_layers: bool,
    /// Run the plan in double precision as well, and give the error of every step and layer against it
    #[arg(long, value_enum, value_name = "f64")]
    reference: Option<ReferenceName>,
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
    /// Write a page with the layer plot and all tables, readable without network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the layer plot
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace files of --dump, --html and --svg that exist
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReferenceName {
    F64,
}

/// A backend to run on, and whether its steps may be fused.
#[derive(Clone, Debug)]
struct Target {
    /// As the user wrote it.
    name: String,
    backend: BackendName,
    fused: bool,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (backend, suffix) = name.split_once(':').map_or((name, None), |(b, s)| (b, Some(s)));
        let backend = BackendName::from_str(backend, true)?;
        let fused = match suffix {
            None | Some("unfused") => false,
            Some("fused") => true,
            Some(other) => return Err(format!("':{other}' is neither ':fused' nor ':unfused'")),
        };
        if suffix.is_some() && backend == BackendName::Cpu {
            return Err("the CPU fuses nothing; ':fused' and ':unfused' are for GPUs".to_owned());
        }
        Ok(Self { name: name.to_owned(), backend, fused })
    }
}

/// `3` is layer 3 alone, `1..3` are layers 1 and 2.
fn parse_layers(text: &str) -> Result<Range<usize>, String> {
    let number = |s: &str| s.parse::<usize>().map_err(|_| format!("'{s}' is no layer number"));
    let range = match text.split_once("..") {
        None => number(text).map(|n| n..n + 1)?,
        Some((a, b)) => number(a)?..number(b)?,
    };
    if range.is_empty() { Err("it holds no layer; use --skip-layers to run none".to_owned()) } else { Ok(range) }
}

/// A run and what it is called in reports.
struct Named {
    name: String,
    device: String,
    run: Run,
}

/// A comparison: with what, and where it differs first.
type Compared = (String, Option<Difference>);

pub(super) fn run(a: &Arguments) -> Outcome {
    let files = Files::check(a)?;
    let text = a.prompt.read(Usage::NoPrompt)?;
    let model = a.model.open(false)?;
    let tokenizer = a.model.tokenizer(&model.gguf, false)?;
    let prompt = encode(&tokenizer, &text, false)?;
    if prompt.is_empty() {
        return Err(crate::engine::EngineError::EmptyPrompt.into());
    }
    let layers = match &a.layers {
        _ if a.skip_layers => 0..0,
        Some(layers) => layers.clone(),
        None => 0..model.config.block_count,
    };
    let plan = model.for_context(usual_context(&model, None)).plan_of_layers(a.precision.into(), layers)?;
    if let Some(step) = a.step.as_ref().filter(|name| plan.steps.iter().all(|s| s.name.to_string() != **name)) {
        return Err(Failure::NoStep(step.clone()).into());
    }
    let signal = signals::watch();
    let runs = runs(a, &model, &plan, &prompt, &signal)?;
    let observed = runs.iter().find(|r| r.run.outputs.is_some()).ok_or(Failure::Fused)?;
    let trace = analyse(&model, &plan, &prompt, &observed.run, a.reference.is_some());
    let first = &runs[0];
    let difference = |r: &Named| (r.name.clone(), first_difference(&first.run, &r.run, plan.vocabulary()));
    let mut compared: Vec<Compared> = runs[1..].iter().map(difference).collect();
    let mut verdicts: Vec<_> = compared.iter().map(|c| verdict(first, c)).collect();
    if let Some(path) = &a.against {
        let (difference, verdict) = against(path, &prompt, &trace)?;
        compared.push((path.display().to_string(), difference));
        verdicts.push(verdict);
    }
    if let (Some(step), Some(file)) = (&a.step, &files.dump) {
        dump(step, file, &observed.run, prompt.len())?;
    }
    let piece = |id: u32| String::from_utf8_lossy(&tokenizer.decode(&[id])).into_owned();
    let facts = facts(a, &model, observed, &prompt, &piece);
    if let Some(file) = &files.svg {
        file.write(svg(&trace)?.as_bytes())?;
    }
    if let Some(file) = &files.html {
        let name = if model.config.name.is_empty() { "unnamed model" } else { &model.config.name };
        let page = Page { model: name, facts: facts[1..].to_vec(), verdicts: &verdicts, trace: &trace, piece: &piece };
        file.write(page.html()?.as_bytes())?;
    }
    // Where standard output holds a file, nothing else goes there.
    if a.json {
        let compared: Vec<_> = compared.iter().map(|(name, d)| json!({"with": name, "first_difference": d})).collect();
        print_json(&json!({"tokens": prompt, "trace": trace, "compared": compared}))?;
    } else if files.stdout().is_none() {
        facts.iter().try_for_each(|(name, value)| print(&format!("{name:<9} {value}")))?;
        show(a, &trace, &piece)?;
        verdicts.iter().try_for_each(|v| print(&v.text))?;
    }
    if verdicts.iter().all(|v| v.equal) { Ok(()) } else { Err(Failure::RunsDiffer.into()) }
}

/// Where a backend first differs from the CPU over these tokens: step by step, and by its fused kernels.
pub(super) fn beside_the_cpu(
    model: &Model,
    plan: &Plan,
    prompt: &[u32],
    options: &RunArguments,
    signal: &signals::Watch,
) -> Result<Vec<Verdict>, Box<dyn Error>> {
    let target = |backend, fused, name: &str| Target { name: name.to_owned(), backend, fused };
    let targets = [
        target(BackendName::Cpu, false, "the CPU"),
        target(options.backend, false, "step by step"),
        target(options.backend, true, "fused"),
    ];
    fits(plan, prompt.len(), targets.len(), false)?;
    let mut all = Vec::new();
    for target in &targets {
        let device = options.device.clone().filter(|_| target.backend != BackendName::Cpu);
        all.extend(run_target(target, 1, model, plan, prompt, &RunArguments { device, ..options.clone() }, signal)?);
    }
    let first = &all[0];
    let difference = |r: &Named| (r.name.clone(), first_difference(&first.run, &r.run, plan.vocabulary()));
    Ok(all[1..].iter().map(|named| verdict(first, &difference(named))).collect())
}

/// # Errors
/// Where this machine's memory does not hold the outputs of all steps.
fn fits(plan: &Plan, tokens: usize, runs: usize, reference: bool) -> Result<(), Failure> {
    let needed = trace_memory(plan, tokens, runs, reference);
    if memory::fits(needed) { Ok(()) } else { Err(Failure::TraceMemory { tokens, size: memory::size(needed) }) }
}

/// Runs the prompt on every backend, as often as was asked for.
fn runs(
    a: &Arguments,
    model: &Model,
    plan: &Plan,
    prompt: &[u32],
    signal: &signals::Watch,
) -> Result<Vec<Named>, Box<dyn Error>> {
    if a.compare.len() == 1 && a.runs == 1 {
        return Err(Usage::OneBackend.into());
    }
    let one = Target { name: String::new(), backend: a.backend, fused: false };
    let targets = if a.compare.is_empty() { std::slice::from_ref(&one) } else { &a.compare };
    fits(plan, prompt.len(), targets.len() * usize::from(a.runs), a.reference.is_some())?;
    let options = RunArguments {
        backend: a.backend,
        device: a.device.clone(),
        precision: a.precision,
        context: None,
        threads: None,
        chunk: None,
        quiet: true,
    };
    let all = targets.iter().map(|target| run_target(target, a.runs, model, plan, prompt, &options, signal));
    Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Runs the prompt on a backend, in one batch.
fn run_target(
    target: &Target,
    runs: u16,
    model: &Model,
    plan: &Plan,
    prompt: &[u32],
    options: &RunArguments,
    signal: &signals::Watch,
) -> Result<Vec<Named>, Box<dyn Error>> {
    let tokens = prompt.len();
    let chunk = u16::try_from(tokens).map_err(|_| Failure::OneBatch { tokens, batch: usize::from(u16::MAX) })?;
    let options = RunArguments {
        backend: target.backend,
        context: Some(u32::from(chunk)),
        chunk: Some(chunk),
        quiet: true,
        ..options.clone()
    };
    let mut backend = super::load::open(model, plan.clone(), &options, Purpose::Logits)?;
    backend.stop_on(signal.interrupt());
    let batch = backend.limits().batch;
    if batch < tokens {
        return Err(Failure::OneBatch { tokens, batch }.into());
    }
    let target_name = if target.name.is_empty() { backend.name() } else { &target.name }.to_owned();
    let mut all = Vec::new();
    for i in 1..=runs {
        let name = if runs > 1 { format!("{target_name} run {i}") } else { target_name.clone() };
        let device = backend.device();
        all.push(Named { name, device, run: run_prompt(&mut *backend, prompt, !target.fused)? });
    }
    Ok(all)
}

fn verdict(first: &Named, (name, difference): &Compared) -> Verdict {
    let of = &first.name;
    let text = match difference {
        None => format!("{name}: every bit is that of {of}"),
        Some(d) => {
            let place = match d.token {
                Some(token) => format!("in the logits of token {token} (`samebits verify` shows the step)"),
                None => format!("at step '{}'", d.step),
            };
            let worst = d.worst.map_or(String::new(), |[a, b]| format!(", the worst {b:e} for {a:e}"));
            format!("{name}: differs from {of} first {place}: {} of {} words{worst}", d.differ, d.of)
        }
    };
    Verdict { equal: difference.is_none(), text }
}

/// The first step whose hash is not that of a saved trace of the same prompt.
fn against(path: &Path, prompt: &[u32], t: &Trace) -> Result<(Option<Difference>, Verdict), Box<dyn Error>> {
    let text = text::read(path)?;
    let name = path.display().to_string();
    let wrong = |reason: String| Failure::NoTrace { name: name.clone(), reason };
    let saved: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let hashes = saved["trace"]["hashes"].as_array().ok_or_else(|| wrong("there are no hashes".to_owned()))?;
    if saved["tokens"] != json!(prompt) || hashes.len() != t.hashes.len() {
        return Err(Failure::OtherTrace(name).into());
    }
    let differ = |(ours, theirs): &(&(String, String), &serde_json::Value)| json!(ours) != **theirs;
    let wrong: Vec<_> = t.hashes.iter().zip(hashes).filter(differ).map(|(ours, _)| ours.0.clone()).collect();
    let (differ, of) = (wrong.len(), hashes.len());
    let Some(step) = wrong.into_iter().next() else {
        return Ok((None, Verdict { equal: true, text: format!("{name}: every step has the same bits") }));
    };
    let text = format!("{name}: differs first at step '{step}'; {differ} of {of} steps differ");
    Ok((Some(Difference { step, token: None, differ, of, worst: None }), Verdict { equal: false, text }))
}

fn dump(step: &str, file: &File, run: &Run, tokens: usize) -> Outcome {
    let found = run.outputs.iter().flatten().find(|(s, _)| s.name.to_string() == step);
    let (_, words) = found.ok_or_else(|| Failure::NoStep(step.to_owned()))?;
    Ok(super::logits::write_npy(file, tokens, words.len() / tokens, bytemuck::cast_slice(words))?)
}

/// The files to write, checked before anything is computed.
struct Files {
    dump: Option<File>,
    html: Option<File>,
    svg: Option<File>,
}

impl Files {
    fn check(a: &Arguments) -> Result<Self, Box<dyn Error>> {
        let inputs = [a.model.file(false)?, a.prompt.input(), a.against.as_deref()];
        let inputs: Vec<_> = inputs.into_iter().flatten().collect();
        let paths = [&a.dump, &a.html, &a.svg].map(|path| path.as_deref());
        let [dump, html, svg] = File::all(paths, a.force, &inputs)?;
        let files = Self { dump: dump.map(File::binary).transpose()?, html, svg };
        match files.stdout() {
            Some(file) if a.json => Err(Usage::TwoOnStdout(file.name().to_owned()).into()),
            _ => Ok(files),
        }
    }

    /// The one that goes to standard output.
    fn stdout(&self) -> Option<&File> {
        [&self.dump, &self.html, &self.svg].into_iter().flatten().find(|file| file.is_stdout())
    }
}

/// What was run.
fn facts(
    a: &Arguments,
    model: &Model,
    observed: &Named,
    prompt: &[u32],
    piece: &dyn Fn(u32) -> String,
) -> Vec<(&'static str, String)> {
    let c = &model.config;
    let layers = match &a.layers {
        _ if a.skip_layers => format!("none of {}: embedding, output norm, output", c.block_count),
        Some(r) if r.len() == 1 => format!("layer {} alone, of {}", r.start, c.block_count),
        Some(r) => format!("{} to {}, of {}", r.start, r.end - 1, c.block_count),
        None => format!("all {}", c.block_count),
    };
    let precision: crate::numerics::Precision = a.precision.into();
    let pieces: Vec<_> = prompt.iter().map(|id| format!("{:?}", piece(*id))).collect();
    vec![
        ("model", c.name.clone()),
        ("layers", layers),
        ("run", format!("{} ({}), {}", observed.name, observed.device, format!("{precision:?}").to_lowercase())),
        ("prompt", format!("{} token{}: {}", pieces.len(), if pieces.len() == 1 { "" } else { "s" }, pieces.join(" "))),
    ]
}

fn show(a: &Arguments, t: &Trace, piece: &dyn Fn(u32) -> String) -> Outcome {
    let error = |e: Option<f64>| e.map_or(String::new(), |e| format!(" {e:>9.2e}"));
    let heading = if t.reference.is_some() { "     error" } else { "" };
    if a.steps {
        print(&format!(
            "\n{:<28} {:>11} {:>11} {:>11} {:>11} {:>11} {:>6} {:>10}{heading}",
            "step", "min", "max", "mean", "deviation", "l2", "zeros", "not finite"
        ))?;
        for s in &t.steps {
            print(&format!(
                "{:<28} {:>11.4e} {:>11.4e} {:>11.3e} {:>11.4e} {:>11.4e} {:>5.1}% {:>10}{}",
                s.step,
                s.min,
                s.max,
                s.mean,
                s.deviation,
                s.l2,
                100.0 * s.zeros,
                s.non_finite,
                error(s.error)
            ))?;
        }
    }
    print(&format!(
        "\n{:<9} {:>10} {:>9} {:>8} {:>8} {:>8} {:>9}{heading}  likeliest next tokens",
        "after", "l2", "deviation", "cosine", "entropy", "spread", "attention"
    ))?;
    for (i, l) in t.layers.iter().enumerate() {
        let top = l.top.iter().map(|(id, _)| format!("{:?}", piece(*id))).collect::<Vec<_>>().join(" ");
        let attention = l.attention.map_or("-".to_owned(), |a| format!("{a:.3}"));
        let error = error(t.reference.as_ref().and_then(|r| r.errors.get(i)).map(|e| e.error));
        print(&format!(
            "{:<9} {:>10.3} {:>9.4} {:>8.4} {:>8.3} {:>8.3} {attention:>9}{error}  {top}",
            l.name(),
            l.l2,
            l.deviation,
            l.cosine,
            l.entropy,
            l.spread
        ))?;
    }
    if let Some(r) = &t.reference {
        print(&r.summary())?;
    }
    t.warnings.iter().try_for_each(|w| print(&format!("look at this: {w}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_targets_are_parsed() {
        assert_eq!(parse_layers("0"), Ok(0..1));
        assert_eq!(parse_layers("1..3"), Ok(1..3));
        assert!(parse_layers("3..3").is_err() && parse_layers("a..3").is_err() && parse_layers("-1").is_err());
        let target = |s: &str| s.parse::<Target>().map(|t| (t.backend, t.fused));
        assert_eq!(target("cpu"), Ok((BackendName::Cpu, false)));
        assert_eq!(target("gpu:fused"), Ok((BackendName::Gpu, true)));
        assert_eq!(target("vulkan:unfused"), Ok((BackendName::Vulkan, false)));
        assert!(target("cpu:fused").is_err() && target("gpu:x").is_err() && target("tpu").is_err());
    }
}
