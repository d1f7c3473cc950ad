//! The `samebits` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    samebits::cli::main()
}
