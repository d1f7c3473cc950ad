//! The command line: arguments to library calls to printing.

mod bench;
mod chat;
mod config;
mod devices;
mod emit;
mod error;
mod generate;
mod hint;
mod hub;
mod inspect;
mod load;
mod logits;
mod make;
mod perplexity;
mod quantize;
mod replay;
mod run;
mod sampling;
mod shell;
mod signals;
mod structure;
mod templates;
mod terminal;
mod text;
mod tokenize;
mod trace;
mod validate;
mod values;
mod verify;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Instant;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use config::{Config, ConfigError};
use error::{Failure, Interrupted, Unfit, Usage};

use crate::convert::ConvertError;
use crate::hub::HubError;
use crate::numerics::VERSION;
use crate::output::OutputError;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 an error or a check that does not hold, 2 wrong usage, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
`samebits help COMMAND` explains a command.";

/// Runs GGUF language models with the same bits on every GPU and on the CPU.
#[derive(Debug, Parser)]
#[command(name = "samebits", version, long_version = version(), about, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    /// Read this configuration instead of the user's; '' for none
    #[arg(long, global = true, value_name = "FILE", env = "SAMEBITS_CONFIG")]
    config: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Continue a prompt; the text streams to stdout, statistics to stderr
    Generate(generate::Arguments),
    /// Talk with a model that is made for it
    Chat(chat::Arguments),
    /// Make a recorded text again and compare every token and logit
    Replay(replay::Arguments),
    /// Run a tensor program: a script of tensor ops on the CPU, on a GPU, or on both with their bits compared
    Run(run::Arguments),
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
    /// Fetch models of Hugging Face's hub by name
    Pull(hub::PullArguments),
    /// List the models that have been fetched
    Models(hub::ModelsArguments),
    /// Remove models that have been fetched
    Rm(hub::RmArguments),
    /// Show which settings are in force, and whether the environment or a file sets them
    Config(config::Arguments),
    /// Print a script with which a shell completes commands and options
    Completions(shell::CompletionsArguments),
    /// Print a manual page, as roff
    Man(shell::ManArguments),
}

/// What a command returns; errors are printed by [`main`].
type Outcome = Result<(), Box<dyn Error>>;

/// Runs the command line of this process. Exit code 0: done; 1: an error, said in one line; 2: wrong usage; 130: interrupted.
pub fn main() -> ExitCode {
    let start = Instant::now();
    if let Err(error) = signals::install() {
        terminal::warning!("signals cannot be heard ({error}): what is interrupted may leave temporary files");
    }
    let outcome = match arguments() {
        Ok(arguments) => run(&arguments, start),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) if error.use_stderr() => {
                let _ = error.print();
                return ExitCode::from(2);
            }
            // Help and version are results.
            Ok(text) => terminal::write_out(&coloured(&text)).map_err(Into::into),
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(failed(&*error)),
    }
}

/// The command line as clap reads it, with the configuration behind it.
fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|command| command == "bench") {
        words = words.into_iter().map(bench::spelt_out).collect();
    }
    // There is help, whatever the configuration is.
    if let Err(text) = plain_command().try_get_matches_from(&words)
        && !text.use_stderr()
    {
        return Err(text.into());
    }
    let mut command = Config::load(&words)?.apply(plain_command());
    let matches = command.try_get_matches_from_mut(words)?;
    Ok(Arguments::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?)
}

/// What decides whether two programs compute the same, and where this one comes from.
fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let features: Vec<_> = [("stories", cfg!(builtin_model)), ("faults", cfg!(feature = "faults"))]
            .into_iter()
            .filter_map(|(name, built_in)| built_in.then_some(name))
            .collect();
        let commit = match option_env!("SAMEBITS_COMMIT") {
            Some(commit) => format!("commit {commit}\n"),
            None => String::new(),
        };
        format!("{}\n{commit}{VERSION}\nfeatures {}", env!("CARGO_PKG_VERSION"), features.join(" "))
    });
    &TEXT
}

/// All commands. What stands behind an option is its value, also where it begins with a dash, as POSIX has it: `-p "- milk"`.
fn plain_command() -> clap::Command {
    let takes_value = |a: &clap::Arg| matches!(a.get_action(), ArgAction::Set | ArgAction::Append);
    Arguments::command().mut_subcommands(|command| {
        command.mut_args(|a| {
            let a = match a.get_long().and_then(config::variable) {
                Some(variable) if takes_value(&a) => a.env(variable),
                Some(variable) => a.env(variable).value_parser(BoolishValueParser::new()),
                None => a,
            };
            match (takes_value(&a), a.is_positional()) {
                (true, false) => a.allow_hyphen_values(true),
                (true, true) => a.allow_negative_numbers(true),
                (false, _) => a,
            }
        })
    })
}

/// Help as standard output wants it: with colours on a terminal.
fn coloured(text: &clap::Error) -> String {
    match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => text.render().to_string(),
        _ => text.render().ansi().to_string(),
    }
}

fn run(arguments: &Arguments, start: Instant) -> Outcome {
    match &arguments.command {
        Command::Generate(a) => generate::run(a),
        Command::Chat(a) => chat::run(a),
        Command::Replay(a) => replay::run(a),
        Command::Run(a) => run::run(a),
        Command::Logits(a) => logits::run(a),
        Command::Tokenize(a) => tokenize::run(a),
        Command::Inspect(a) => inspect::run(a),
        Command::Quantize(a) => quantize::run(a),
        Command::Perplexity(a) => perplexity::run(a),
        Command::Verify(a) => verify::run(a),
        Command::Validate(a) => validate::run(a),
        Command::Trace(a) => trace::run(a),
        Command::Bench(a) => bench::run(a, start),
        Command::Devices(a) => devices::run(a),
        Command::Pull(a) => hub::pull(a),
        Command::Models(a) => hub::models(a),
        Command::Rm(a) => hub::rm(a),
        Command::Config(a) => config::run(a),
        Command::Completions(a) => shell::completions(a),
        Command::Man(a) => shell::man(a),
    }
}

/// Whether a file was being written to standard output, and its reader has gone.
fn gone(error: &(dyn Error + 'static)) -> bool {
    let converted = match error.downcast_ref() {
        Some(ConvertError::Output(e)) => Some(e),
        _ => None,
    };
    matches!(converted.or(error.downcast_ref()), Some(OutputError::Gone))
}

/// Says why a command failed, and gives its exit code.
fn failed(error: &(dyn Error + 'static)) -> u8 {
    match error.downcast_ref::<Failure>() {
        // The reader of our results has gone, as in `samebits … | head`.
        Some(Failure::Stdout(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => return 0,
        _ if gone(error) => return 0,
        _ => {}
    }
    if !error.is::<Interrupted>() {
        terminal::error(error);
    }
    match signals::asked() {
        Some(code) => code,
        None if error.is::<Usage>() || error.is::<Unfit>() || error.is::<ConfigError>() => 2,
        None if matches!(error.downcast_ref(), Some(HubError::Name { .. })) => 2,
        // Ctrl-C where a line is edited is no signal.
        None if error.is::<Interrupted>() => signals::INTERRUPTED,
        None => 1,
    }
}
