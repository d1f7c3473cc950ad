//! `samebits completions` and `samebits man`: what a shell and a reader of manuals want of the command line.

use clap::Args;
use clap_complete::Shell;

use super::Outcome;
use super::error::Usage;
use super::terminal::write_bytes;

#[derive(Args, Debug)]
#[command(
    after_help = "For bash, as an example: samebits completions bash > ~/.local/share/bash-completion/completions/samebits"
)]
pub(super) struct CompletionsArguments {
    /// The shell that completes
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a script that completes commands, options and their values.
pub(super) fn completions(a: &CompletionsArguments) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(a.shell, &mut super::plain_command(), "samebits", &mut script);
    Ok(write_bytes(&script)?)
}

#[derive(Args, Debug)]
#[command(after_help = "To read one: samebits man generate | man -l -")]
pub(super) struct ManArguments {
    /// The command whose page is printed [default: that of the program, which lists them]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints a manual page as roff.
pub(super) fn man(a: &ManArguments) -> Outcome {
    let mut root = super::plain_command();
    root.build();
    let page = match &a.command {
        None => root,
        Some(name) => root.find_subcommand(name).ok_or_else(|| Usage::NoCommand(name.clone()))?.clone(),
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff)?;
    Ok(write_bytes(&roff)?)
}
