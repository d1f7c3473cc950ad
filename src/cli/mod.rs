//! The command line: arguments to library calls to printing.

mod bench;
mod devices;
mod generate;
mod inspect;
mod load;
mod logits;
mod perplexity;
mod quantize;
mod tokenize;
mod trace;
mod validate;
mod verify;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

/// Runs GGUF language models with the same bits on every GPU and on the CPU.
#[derive(Debug, Parser)]
#[command(name = "samebits", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Continue a prompt; the text streams to stdout, statistics to stderr
    Generate(generate::Arguments),
    /// Print or save the logits after a prompt
    Logits(logits::Arguments),
    /// Turn text into token ids, or ids into text
    Tokenize(tokenize::Arguments),
    /// Show what a GGUF file holds
    Inspect(inspect::Arguments),
    /// Rewrite a model file in another format
    Quantize(quantize::Arguments),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Arguments),
    /// Prove on this device that the same bits come out, whatever runs them
    Verify(verify::Arguments),
    /// Check every shader: validity, translations, the numerics rules, compilation on the adapter
    Validate(validate::Arguments),
    /// Look into a model: figures per step, likeliest tokens per layer, differences between backends and runs
    Trace(trace::Arguments),
    /// Measure speed, as llama-bench does, on every backend asked for
    Bench(bench::Arguments),
    /// List the GPU adapters, their drivers and limits
    Devices(devices::Arguments),
}

/// What a command returns; errors are printed by [`main`].
type Outcome = Result<(), Box<dyn Error>>;

/// Runs the command line of this process. Exit code 0: done; 1: an error, said in one line; 2: wrong usage.
pub fn main() -> ExitCode {
    let start = Instant::now();
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|command| command == "bench") {
        words = words.into_iter().map(bench::spelt_out).collect();
    }
    let outcome = match Arguments::parse_from(words).command {
        Command::Generate(a) => generate::run(&a),
        Command::Logits(a) => logits::run(&a),
        Command::Tokenize(a) => tokenize::run(&a),
        Command::Inspect(a) => inspect::run(&a),
        Command::Quantize(a) => quantize::run(&a),
        Command::Perplexity(a) => perplexity::run(&a),
        Command::Verify(a) => verify::run(&a),
        Command::Validate(a) => validate::run(&a),
        Command::Trace(a) => trace::run(&a),
        Command::Bench(a) => bench::run(&a, start),
        Command::Devices(a) => devices::run(&a),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            let style = clap::builder::styling::Style::new()
                .bold()
                .fg_color(Some(clap::builder::styling::AnsiColor::Red.into()));
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let (on, off) =
                if colour { (style.render().to_string(), style.render_reset().to_string()) } else { <_>::default() };
            eprintln!("{on}error{off}: {error}");
            ExitCode::from(1)
        }
    }
}

/// Whether the reader of our stdout has gone, as in `samebits … | head`.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints a line to stdout, with errors instead of panics.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a value as JSON.
fn print_json(value: &serde_json::Value) -> Outcome {
    Ok(print(&serde_json::to_string_pretty(value)?)?)
}
