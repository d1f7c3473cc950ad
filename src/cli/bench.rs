//! `samebits bench`: the flags and the table of llama.cpp's `llama-bench`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::error::{Failure, Interrupted, Usage};
use super::hint::Hinted;
use super::load::{self, BackendName, PrecisionName, open_model};
use super::terminal::{self, escape, escape_json, note, warning, write_out};
use super::values::not_empty;
use super::{Outcome, signals};
use crate::backend::BackendError;
use crate::bench::compare::Earlier;
use crate::bench::output::{Columns, Format, Printer};
use crate::bench::{Agreement, Bench, Numbers, Options, Pair, Place, Row, Subject, Test, plot, tests, tune};
use crate::output::Target;

/// llama-bench's options of two letters after one dash, and how they are spelt here.
const TWO_LETTERS: [(&str, &str); 4] =
    [("-pg", "--prompt-gen"), ("-ub", "--ubatch-size"), ("-oe", "--output-err"), ("-dev", "--device")];

#[derive(Args, Debug)]
#[command(
    after_help = "Numbers are lists (16,32) of numbers or ranges (first-last, first-last+step, first-last*factor); \
options with lists may be repeated."
)]
pub(super) struct Arguments {
    /// GGUF files, or models of Hugging Face's hub, separated by commas [default: the story model that is built in]
    #[arg(short, long, value_name = "FILE|NAME", required = !cfg!(builtin_model))]
    model: Vec<PathBuf>,
    /// Prompt lengths to measure; 0 for none [default: 512; with --tune-report 2, 4, 8, 16, 32, 64, 128 and 512]
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',')]
    n_prompt: Vec<Numbers>,
    /// Numbers of generated tokens to measure; 0 for none
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<Numbers>,
    /// A prompt and tokens generated after it, measured together; -pg for short
    #[arg(long, value_name = "PP,TG")]
    prompt_gen: Vec<Pair>,
    /// Tokens in the cache before a measurement begins
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<Numbers>,
    /// Measurements per test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Measure at once, without a run of the test before
    #[arg(long)]
    no_warmup: bool,
    /// Seconds to wait before each test
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u16,
    /// Where to compute: each of them, on each of its adapters
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME", default_value = "auto")]
    backend: Vec<BackendName>,
    /// Only this adapter, by its number or part of its name in `samebits devices`
    #[arg(long, value_name = "N|NAME", value_parser = not_empty)]
    device: Option<String>,
    /// CPU threads, no more than this process may use [default: the physical cores among those]
    #[arg(short, long, value_name = "N", value_delimiter = ',')]
    threads: Vec<Numbers>,
    /// How finely activations are rounded
    #[arg(long, value_enum, default_value_t = PrecisionName::Fast)]
    precision: PrecisionName,
    /// Tokens of a prompt that are computed at once; -ub for short [default: 512; 32 on a software adapter]
    #[arg(long, visible_alias = "ubatch-size", value_name = "N", value_delimiter = ',')]
    chunk: Vec<Numbers>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = FormatName::Md)]
    output: FormatName,
    /// Print JSON: -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Print to stderr too, in this format; -oe for short
    #[arg(long, value_enum, value_name = "OUTPUT")]
    output_err: Option<FormatName>,
    /// Show everything that is measured in the table; the other formats always do
    #[arg(long)]
    wide: bool,
    /// Time every step as well
    #[arg(long)]
    profile: bool,
    /// Print one block of text about the device, its kernels, how they are spread and their times, to paste into an issue: it helps to
    /// choose kernels for cards that we do not have
    #[arg(long, conflicts_with_all = ["output", "json", "output_err", "wide", "profile", "compare", "svg"])]
    tune_report: bool,
    /// The JSON of an earlier run, to print the ratio to it
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Draw the results into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace the file of --svg if it exists
    #[arg(long, requires = "svg")]
    force: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    Md,
    Json,
    Jsonl,
    Csv,
    Sql,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Md => Self::Md,
            FormatName::Json => Self::Json,
            FormatName::Jsonl => Self::Jsonl,
            FormatName::Csv => Self::Csv,
            FormatName::Sql => Self::Sql,
        }
    }
}

/// llama-bench's spelling of options as clap can read it.
pub(super) fn spelt_out(word: OsString) -> OsString {
    match TWO_LETTERS.iter().find(|(short, _)| word == *short) {
        Some((_, long)) => OsString::from(long),
        None => word,
    }
}

pub(super) fn run(a: &Arguments, process_start: Instant) -> Outcome {
    let prompts = match flat(&a.n_prompt) {
        none if none.is_empty() && a.tune_report => tune::PROMPTS.to_vec(),
        none if none.is_empty() => vec![512],
        some => some,
    };
    let tests = tests(&prompts, &flat(&a.n_gen), &a.prompt_gen, &flat(&a.n_depth));
    if tests.is_empty() {
        return Err(Usage::NothingToMeasure.into());
    }
    let (threads, chunks) = (flat(&a.threads), flat(&a.chunk));
    if threads.iter().any(|t| !(1..=1024).contains(t)) {
        return Err(Usage::Threads.into());
    }
    if chunks.iter().any(|c| !(1..=4096).contains(c)) {
        return Err(Usage::Chunk.into());
    }
    let names: Vec<_> = a.model.iter().flat_map(|list| files(list)).collect();
    let models = names.iter().map(|name| super::hub::resolve(name, a.quiet)).collect::<Result<Vec<_>, _>>()?;
    let inputs: Vec<_> = models.iter().chain(&a.compare).map(PathBuf::as_path).collect();
    let svg = a.svg.as_deref().map(|path| Target::new(path, a.force, &inputs)).transpose()?;
    let earlier = a.compare.as_deref().map(Earlier::read).transpose()?;
    let shown = Columns {
        threads: threads.len() > 1,
        chunk: chunks.len() > 1,
        precision: a.precision != PrecisionName::Fast,
        ratio: earlier.is_some(),
        wide: a.wide,
    };
    let format = if a.json { Format::Json } else { a.output.into() };
    let mut report = Report {
        out: Printer::new(format, shown),
        err: a.output_err.map(|f| Printer::new(f.into(), shown)),
        agreement: Agreement::default(),
        earlier,
        rows: Vec::new(),
        bar: terminal::bar(a.quiet, None, "{wide_bar} {pos}/{len}"),
        total: 0,
        to_stdout: !a.tune_report && svg.as_ref().is_none_or(|file| !file.is_stdout()),
        about: Vec::new(),
    };
    let signal = signals::watch();
    let measured = measure(a, process_start, &models, &tests, &threads, &chunks, &mut report, &signal);
    // What was measured before an error is not lost.
    report.bar.finish_and_clear();
    let rows = std::mem::take(&mut report.rows);
    let total = report.total;
    let interrupted = signal.asked();
    if interrupted {
        if rows.is_empty() {
            report.print(|printer| printer.head())?;
        }
        report.print(|printer| printer.interrupted(rows.len(), total))?;
        note!("interrupted: {} of {total} tests were measured", rows.len());
    }
    if interrupted || !rows.is_empty() {
        report.print(|printer| printer.foot(&rows))?;
    }
    if interrupted {
        return Err(Interrupted.into());
    }
    measured?;
    if a.tune_report {
        let mut first = 0;
        for (about, end) in &report.about {
            write_out(&escape(&tune::text(about, &rows[first..*end])))?;
            first = *end;
        }
    }
    if let Some(file) = &svg {
        file.write(plot::svg(&rows)?.as_bytes())?;
    }
    if report.agreement.is_broken() {
        return Err(Failure::RowsDiffer.into());
    }
    Ok(())
}

/// The files of a list with commas between. A name may hold commas itself: of several readings, the one with the longest
/// names that exist.
fn files(list: &Path) -> Vec<PathBuf> {
    let Some(text) = list.to_str() else { return vec![list.to_owned()] };
    let parts: Vec<_> = text.split(',').collect();
    let mut files = Vec::new();
    let mut first = 0;
    while first < parts.len() {
        let name = |end: usize| PathBuf::from(parts[first..end].join(","));
        let end = (first + 2..=parts.len()).rev().find(|end| name(*end).exists()).unwrap_or(first + 1);
        files.push(name(end));
        first = end;
    }
    files
}

/// Runs everything that was asked for.
fn measure(
    a: &Arguments,
    process_start: Instant,
    models: &[PathBuf],
    tests: &[Test],
    threads: &[u32],
    chunks: &[u32],
    report: &mut Report,
    signal: &signals::Watch,
) -> Outcome {
    let places = places(a, threads)?;
    let started = process_start.elapsed();
    let models: Vec<_> = if models.is_empty() { vec![None] } else { models.iter().map(Some).collect() };
    report.total = models.len() * places.len() * chunks.len().max(1) * tests.len();
    report.bar.set_length(report.total as u64);
    for path in models {
        let start = Instant::now();
        let model = open_model(path.map(|p| p.as_path()))?;
        let file = path.map_or_else(|| "built-in stories".to_owned(), |p| p.display().to_string());
        let subject = Subject { model, file, opened_after: started + start.elapsed() };
        for place in &places {
            let usual = [place.usual_chunk() as u32];
            for &chunk in if chunks.is_empty() { &usual } else { chunks } {
                let options = Options {
                    repetitions: usize::from(a.repetitions),
                    warm_up: !a.no_warmup,
                    precision: a.precision.into(),
                    chunk: chunk as usize,
                    profile: a.profile || a.tune_report,
                };
                let context = tests.iter().map(|t| t.context()).max().unwrap_or(1);
                let mut bench = Bench::open(&subject, place, context, options)?;
                bench.stop_on(signal.interrupt());
                for &test in tests {
                    let until = Instant::now() + Duration::from_secs(u64::from(a.delay));
                    while Instant::now() < until && !signal.asked() {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    if signal.asked() {
                        return Err(Interrupted.into());
                    }
                    report.row(bench.run(test)?)?;
                }
            }
            if a.tune_report {
                report.about.push((place.about()?, report.rows.len()));
            }
        }
    }
    Ok(())
}

/// The places that are meant by `--backend`, `--device` and `-t`. Of several backends, those that this machine does not
/// have are passed over with a warning.
fn places(a: &Arguments, threads: &[u32]) -> Result<Vec<Place>, Box<dyn std::error::Error>> {
    let mut cpu: Vec<usize> = threads.iter().map(|t| load::threads(Some(*t as usize), false)).collect();
    if cpu.is_empty() {
        cpu.push(load::threads(None, false));
    }
    // Different wishes may have become one.
    cpu.dedup();
    let (mut places, mut missing) = (Vec::new(), Vec::new());
    let several = a.backend.len() > 1;
    for &name in &a.backend {
        let api = match name {
            BackendName::Auto if a.device.is_none() => match Place::best_gpu() {
                Some(gpu) => {
                    places.push(gpu);
                    continue;
                }
                None => None,
            },
            // Beside other backends, the CPU has no part in --device.
            name => name.api(a.device.as_deref().filter(|_| !several))?,
        };
        match api {
            None => places.extend(cpu.iter().map(|t| Place::cpu(*t))),
            Some(api) => match Place::adapters(api, a.device.as_deref()) {
                Err(error @ (BackendError::NoAdapter(_) | BackendError::NoApi { .. })) if several => {
                    missing.push(error)
                }
                found => places.extend(found?),
            },
        }
    }
    if places.is_empty()
        && let Some(error) = missing.pop()
    {
        return Err(error.into());
    }
    for error in missing {
        warning!("not measured: {}", Hinted(&error));
    }
    Ok(places)
}

/// What is printed while it is measured.
struct Report {
    out: Printer,
    err: Option<Printer>,
    agreement: Agreement,
    earlier: Option<Earlier>,
    rows: Vec<Row>,
    bar: ProgressBar,
    /// Tests to measure, all in all.
    total: usize,
    /// Whether the rows go to standard output.
    to_stdout: bool,
    /// With --tune-report: what there is to say about the places that were measured, and the number of rows behind each.
    about: Vec<(Vec<(&'static str, String)>, usize)>,
}

impl Report {
    fn row(&mut self, mut row: Row) -> Result<(), Failure> {
        self.agreement.check(&mut row);
        if let Some(earlier) = &self.earlier {
            earlier.relate(&mut row);
        }
        self.bar.inc(1);
        if let Some(reason) = &row.unfused
            && self.rows.iter().all(|earlier| earlier.unfused.as_ref() != Some(reason))
        {
            self.bar.suspend(|| note!("{} runs unfused: {reason}", row.model_filename));
        }
        if self.rows.is_empty() {
            self.print(|printer| printer.head())?;
        }
        self.print(|printer| printer.row(&row))?;
        self.rows.push(row);
        Ok(())
    }

    fn print(&mut self, text: impl Fn(&mut Printer) -> String) -> Result<(), Failure> {
        let (out, err) = (safe(&mut self.out, &text), self.err.as_mut().map(|p| safe(p, &text)).unwrap_or_default());
        self.bar.suspend(|| {
            // As everything on standard error, it is lost where nobody reads.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), err.as_bytes());
            if self.to_stdout { write_out(&out) } else { Ok(()) }
        })
    }
}

/// What a printer makes, without anything that controls a terminal.
fn safe(printer: &mut Printer, text: &impl Fn(&mut Printer) -> String) -> String {
    let text = text(printer);
    if printer.is_json() { escape_json(&text) } else { escape(&text) }
}

fn flat(lists: &[Numbers]) -> Vec<u32> {
    lists.iter().flat_map(|n| n.0.iter().copied()).collect()
}
