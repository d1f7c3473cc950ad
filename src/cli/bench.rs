//! `samebits bench`: the flags and the table of llama.cpp's `llama-bench`, and what proves that the rows computed the
//! same.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::load::{BackendName, ModelArguments, PrecisionName, RunArguments};
use super::{Outcome, print, print_json};
use crate::backend::cpu::read_bandwidth;
use crate::engine::Session;
use crate::model::Model;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Prompt lengths to measure; 0 for none
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Numbers of generated tokens to measure; 0 for none
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Tokens in the cache before a measurement begins
    #[arg(short = 'd', long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Measurements per test, after a warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Where to compute
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_value = "auto")]
    backend: Vec<BackendName>,
    /// Adapter by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// CPU threads
    #[arg(short, long, value_delimiter = ',', value_name = "N,…")]
    threads: Vec<u16>,
    /// How finely activations are rounded
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// Tokens of the prompt that are computed at once
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    chunk: u16,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output: Format,
    /// The JSON of an earlier run, to print the ratio to it
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Say nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Md,
    Json,
    Jsonl,
    Csv,
    Sql,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    size_bytes: u64,
    parameters: u64,
    backend: String,
    device: String,
    test: String,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    precision: String,
    avg_ts: f64,
    stddev_ts: f64,
    median_ts: f64,
    samples_ts: Vec<f64>,
    /// Bytes of weights read per second, where every token reads them once.
    gb_per_s: Option<f64>,
    /// The share of what a plain loop reads per second; on the CPU only.
    bandwidth_share: Option<f64>,
    /// Seconds to open the backend: repacking or uploading the weights, compiling.
    load_s: f64,
    /// Seconds from opening the model to the first token of the test's first run, load included.
    first_token_s: f64,
    /// Largest memory of the process so far, in bytes.
    peak_memory: Option<u64>,
    /// Hash of the logits at the end: equal for equal tests, or a backend is wrong.
    fingerprint: String,
    /// Whether another row of the same test has another fingerprint.
    differs: bool,
}

/// A measurement: `prompt` or `generate` tokens behind `depth` others.
#[derive(Clone, Copy)]
struct Test {
    prompt: usize,
    generate: usize,
    depth: usize,
}

impl Test {
    fn name(self) -> String {
        let name = if self.prompt > 0 { format!("pp{}", self.prompt) } else { format!("tg{}", self.generate) };
        if self.depth > 0 { format!("{name}@d{}", self.depth) } else { name }
    }

    fn tokens(self) -> usize {
        self.prompt + self.generate
    }
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let earlier = match &a.compare {
        Some(path) => Some(read_rows(path)?),
        None => None,
    };
    let model = a.model.open()?;
    let mut tests = Vec::new();
    for &depth in &a.n_depth {
        tests.extend(a.n_prompt.iter().filter(|n| **n > 0).map(|&prompt| Test { prompt, generate: 0, depth }));
        tests.extend(a.n_gen.iter().filter(|n| **n > 0).map(|&generate| Test { prompt: 0, generate, depth }));
    }
    if tests.is_empty() {
        return Err("nothing to measure: give -p or -n a number above 0".into());
    }
    let threads: Vec<_> = if a.threads.is_empty() { vec![None] } else { a.threads.iter().copied().map(Some).collect() };
    let mut rows: Vec<Row> = Vec::new();
    for &backend in &a.backend {
        for &threads in if backend == BackendName::Cpu { &threads[..] } else { &threads[..1] } {
            bench(a, &model, backend, threads, &tests, &mut rows)?;
        }
    }
    for i in 0..rows.len() {
        rows[i].differs = rows.iter().any(|r| r.test == rows[i].test && r.fingerprint != rows[i].fingerprint);
    }
    report(a, &rows, earlier.as_deref())
}

/// Measures all tests on one backend.
fn bench(
    a: &Arguments,
    model: &Model,
    backend: BackendName,
    threads: Option<u16>,
    tests: &[Test],
    rows: &mut Vec<Row>,
) -> Outcome {
    let context = tests.iter().map(|t| t.depth + t.tokens() + 1).max().unwrap_or(1);
    let options = RunArguments {
        backend,
        device: a.device.clone(),
        precision: a.precision,
        context: Some(context as u32),
        threads,
        chunk: a.chunk,
        quiet: true,
    };
    let start = Instant::now();
    let mut session = super::load::session(model, &options, false)?;
    let load = start.elapsed().as_secs_f64();
    let progress = if a.quiet || a.output != Format::Md || !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        indicatif::ProgressBar::hidden()
    } else {
        indicatif::ProgressBar::new(tests.len() as u64 * (u64::from(a.repetitions) + 1))
    };
    let bandwidth = if session.backend().name() == "cpu" {
        read_bandwidth(threads.map_or_else(super::load::default_threads, usize::from))
    } else {
        None
    };
    let mut first_token = 0.0;
    for &test in tests {
        let mut samples = Vec::new();
        let mut fingerprint = String::new();
        for repetition in 0..=a.repetitions {
            progress.set_message(test.name());
            let (seconds, hash) = measure(&mut session, model.config.vocabulary, test)?;
            if first_token == 0.0 {
                first_token = load + seconds / test.generate.max(1) as f64;
            }
            if repetition > 0 {
                samples.push(test.tokens() as f64 / seconds);
            }
            fingerprint = hash;
            progress.inc(1);
        }
        let mut row = row(a, model, &session, test, samples, load, first_token, fingerprint);
        row.bandwidth_share = row.gb_per_s.zip(bandwidth).map(|(gb, best)| gb * 1e9 / best);
        rows.push(row);
    }
    progress.finish_and_clear();
    Ok(())
}

/// Runs a test once: seconds, and the hash of the last logits.
fn measure(session: &mut Session, vocabulary: usize, test: Test) -> Result<(f64, String), Box<dyn std::error::Error>> {
    let id = |i: usize| ((i * 977 + 504) % vocabulary) as u32;
    session.clear();
    // Generation begins behind one token at least.
    let before: Vec<u32> = (0..test.depth.max(usize::from(test.generate > 0))).map(id).collect();
    if !before.is_empty() {
        session.feed(&before, false)?;
    }
    let start = Instant::now();
    let mut logits = Vec::new();
    if test.prompt > 0 {
        let prompt: Vec<u32> = (0..test.prompt).map(|i| id(test.depth + i)).collect();
        logits = session.feed(&prompt, false)?;
    }
    if test.generate > 0 {
        let mut last = id(test.depth + 1);
        session.greedy(last, test.generate - 1, false, &mut |token, _| {
            last = token;
            true
        })?;
        logits = session.feed(&[last], false)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let hash = Sha256::digest(bytemuck::cast_slice::<f32, u8>(&logits));
    Ok((seconds, hash.iter().take(8).map(|b| format!("{b:02x}")).collect()))
}

fn row(
    a: &Arguments,
    model: &Model,
    session: &Session,
    test: Test,
    samples: Vec<f64>,
    load: f64,
    first_token: f64,
    fingerprint: String,
) -> Row {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[sorted.len() / 2] + sorted[(sorted.len() - 1) / 2]) / 2.0;
    let size: u64 = model.gguf.tensors().iter().map(|t| t.bytes).sum();
    // Of an embedding that is not also the output matrix, a token reads one row.
    let tied = model.gguf.tensor("output.weight").is_none();
    let looked_up = model.gguf.tensor("token_embd.weight").filter(|_| !tied).map_or(0, |t| t.bytes);
    Row {
        model: if model.config.name.is_empty() { "unnamed".to_owned() } else { model.config.name.clone() },
        size_bytes: size,
        parameters: model.config.parameters,
        backend: session.backend().name().to_owned(),
        device: session.backend().device(),
        test: test.name(),
        n_prompt: test.prompt,
        n_gen: test.generate,
        n_depth: test.depth,
        precision: format!("{:?}", a.precision).to_lowercase(),
        avg_ts: mean,
        stddev_ts: variance.sqrt(),
        median_ts: median,
        samples_ts: samples,
        gb_per_s: (test.generate > 0).then(|| mean * (size - looked_up) as f64 / 1e9),
        bandwidth_share: None,
        load_s: load,
        first_token_s: first_token,
        peak_memory: peak_memory(),
        fingerprint,
        differs: false,
    }
}

/// The largest resident size of this process, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Tests and tokens per second of an earlier run's JSON.
fn read_rows(path: &PathBuf) -> Result<Vec<serde_json::Value>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let rows = serde_json::from_str(&text)
        .map_err(|e| format!("{} is not what `samebits bench -o json` writes: {e}", path.display()))?;
    Ok(rows)
}

fn report(a: &Arguments, rows: &[Row], earlier: Option<&[serde_json::Value]>) -> Outcome {
    match a.output {
        Format::Json => return print_json(&serde_json::to_value(rows)?),
        Format::Jsonl => {
            for row in rows {
                print(&serde_json::to_string(row)?)?;
            }
        }
        Format::Csv | Format::Sql => table(a.output, rows)?,
        Format::Md => markdown(rows, earlier)?,
    }
    if rows.iter().any(|r| r.differs) {
        return Err("rows of the same test have different fingerprints: a backend computes other bits".into());
    }
    Ok(())
}

/// CSV, or SQL for SQLite.
fn table(format: Format, rows: &[Row]) -> Outcome {
    let values: Vec<serde_json::Value> = rows.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let Some(columns) = values.first().and_then(|v| v.as_object()).map(|o| o.keys().cloned().collect::<Vec<_>>())
    else {
        return Ok(());
    };
    let cell = |v: &serde_json::Value| match v {
        serde_json::Value::String(s) if format == Format::Sql => format!("'{}'", s.replace('\'', "''")),
        serde_json::Value::String(s) => format!("\"{}\"", s.replace('"', "\"\"")),
        serde_json::Value::Array(x) => {
            let list = x.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            if format == Format::Sql { format!("'{list}'") } else { format!("\"{list}\"") }
        }
        serde_json::Value::Null => if format == Format::Sql { "NULL" } else { "" }.to_owned(),
        other => other.to_string(),
    };
    if format == Format::Csv {
        print(&columns.join(","))?;
    } else {
        print(&format!("CREATE TABLE IF NOT EXISTS bench ({});", columns.join(", ")))?;
    }
    for value in &values {
        let cells = columns.iter().map(|c| cell(&value[c])).collect::<Vec<_>>();
        if format == Format::Csv {
            print(&cells.join(","))?;
        } else {
            print(&format!("INSERT INTO bench VALUES ({});", cells.join(", ")))?;
        }
    }
    Ok(())
}

fn markdown(rows: &[Row], earlier: Option<&[serde_json::Value]>) -> Outcome {
    let mut head =
        "| model | size | params | backend | test | t/s | GB/s | load | first token | peak memory | fingerprint |"
            .to_owned();
    let mut line = "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |".to_owned();
    if earlier.is_some() {
        head.push_str(" to earlier |");
        line.push_str(" ---: |");
    }
    print(&head)?;
    print(&line)?;
    for r in rows {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
        let mut text = format!(
            "| {} | {} | {:.2} M | {} ({}) | {} | {:.2} ± {:.2} | {} | {:.2} s | {:.2} s | {} | {}{} |",
            r.model,
            mib(r.size_bytes),
            r.parameters as f64 / 1e6,
            r.backend,
            r.device,
            r.test,
            r.avg_ts,
            r.stddev_ts,
            match (r.gb_per_s, r.bandwidth_share) {
                (Some(gb), Some(share)) => format!("{gb:.1} ({:.0} %)", 100.0 * share),
                (Some(gb), None) => format!("{gb:.1}"),
                (None, _) => String::new(),
            },
            r.load_s,
            r.first_token_s,
            r.peak_memory.map_or(String::new(), mib),
            r.fingerprint,
            if r.differs { " DIFFERS" } else { "" },
        );
        if let Some(earlier) = earlier {
            let same =
                |e: &&serde_json::Value| e["test"] == r.test && e["backend"] == r.backend && e["device"] == r.device;
            let ratio = earlier.iter().find(same).and_then(|e| Some((e["avg_ts"].as_f64()?, e["stddev_ts"].as_f64()?)));
            match ratio {
                Some((mean, deviation)) => {
                    let spread = ((r.stddev_ts / r.avg_ts).powi(2) + (deviation / mean).powi(2)).sqrt();
                    let ratio = r.avg_ts / mean;
                    let _ = write!(text, " {ratio:.3} ± {:.3} |", ratio * spread);
                }
                None => text.push_str(" |"),
            }
        }
        print(&text)?;
    }
    Ok(())
}
