//! The `samebits` command.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(all(unix, not(target_vendor = "apple")))]
    // SAFETY: this process has no other thread yet that could read the environment.
    unsafe {
        quiet_drivers();
    }
    samebits::command_line()
}

/// On servers and in containers Mesa's drivers look for a window system all the same, and write to stderr that XDG_RUNTIME_DIR
/// is missing. In a folder that cannot exist they find none, and say nothing.
///
/// # Safety
/// No other thread may run.
#[cfg(all(unix, not(target_vendor = "apple")))]
unsafe fn quiet_drivers() {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
    if !std::path::Path::new(&folder).is_absolute() {
        // SAFETY: the caller promises that no other thread runs.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/dev/null/none") };
    }
}
