//! Signals that ask this process to end: Ctrl-C, a service that is stopped, a terminal that is closed.
//!
//! Commands that can stop in good order say so with [`watch`]: then the first signal only asks. Everything else, and a second
//! signal, ends the process at once; in both cases no temporary file is left.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::backend::Interrupt;
use crate::output;

/// The exit code of an interrupted process, as shells count: 128 and the number of the signal.
pub(super) const INTERRUPTED: u8 = 130;

/// The exit code that the first signal asks for; 0 before.
static ASKED: AtomicU8 = AtomicU8::new(0);
/// What stops a backend between two steps.
static INTERRUPT: LazyLock<Interrupt> = LazyLock::new(Interrupt::default);
/// How many watch.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// While it lives, the first signal only asks.
pub(super) struct Watch(());

/// Takes over what the first signal does.
pub(super) fn watch() -> Watch {
    WATCHES.fetch_add(1, Ordering::SeqCst);
    Watch(())
}

impl Watch {
    /// Whether this process is asked to end.
    pub fn asked(&self) -> bool {
        asked().is_some()
    }

    /// Ends watching. A Ctrl-C that came was for what has been done, and is forgotten; returns whether nothing else came.
    pub fn over(self) -> bool {
        INTERRUPT.clear();
        let _ = ASKED.compare_exchange(INTERRUPTED, 0, Ordering::SeqCst, Ordering::SeqCst);
        // A signal that comes from here on ends the process itself.
        drop(self);
        asked().is_none()
    }

    /// What a backend stops on.
    pub fn interrupt(&self) -> Interrupt {
        INTERRUPT.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The exit code that a signal asks for, where one came.
pub(super) fn asked() -> Option<u8> {
    Some(ASKED.load(Ordering::SeqCst)).filter(|code| *code != 0)
}

/// Remembers how the terminal is set, for an end while a line is edited.
pub(super) fn keep_terminal() {
    #[cfg(unix)]
    if let Ok(settings) = rustix::termios::tcgetattr(std::io::stdin()) {
        let _ = TERMINAL.set(settings);
    }
}

/// How the terminal was set before lines were edited.
#[cfg(unix)]
static TERMINAL: std::sync::OnceLock<rustix::termios::Termios> = std::sync::OnceLock::new();

/// What a signal does, in a thread of its own.
fn hear(code: u8, at_once: bool) {
    let first = ASKED.swap(code, Ordering::SeqCst) == 0;
    INTERRUPT.request();
    if !first || at_once || WATCHES.load(Ordering::SeqCst) == 0 {
        output::discard_unfinished();
        end(code);
    }
}

/// Hears signals from now on.
///
/// # Errors
/// What the system reports.
#[cfg(unix)]
pub(super) fn install() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
    // A program under `nohup` outlives its terminal.
    let wanted = [SIGINT, SIGTERM, SIGQUIT, SIGHUP].into_iter().filter(|s| *s != SIGHUP || !is_ignored(SIGHUP));
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            hear(u8::try_from(128 + signal).unwrap_or(INTERRUPTED), signal == SIGQUIT);
        }
    })?;
    // A file that becomes larger than the limit (`ulimit -f`) is an error of the write, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default())?;
    Ok(())
}

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one into `now`, which is large enough; all zeros is a
    // valid value of that plain structure, should the call fail.
    let now = unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

/// Ends the process without what it registered to be run at its end: other threads still use it.
#[cfg(unix)]
fn end(code: u8) -> ! {
    if let Some(settings) = TERMINAL.get() {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, settings);
        // Pasted blocks are no longer marked.
        let _ = rustix::io::write(std::io::stderr(), b"\x1b[?2004l");
    }
    // SAFETY: the call does not return and runs no code of this process.
    unsafe { libc::_exit(code.into()) }
}

/// Hears signals from now on.
///
/// # Errors
/// What the system reports.
#[cfg(not(unix))]
pub(super) fn install() -> std::io::Result<()> {
    ctrlc::set_handler(|| hear(INTERRUPTED, false)).map_err(std::io::Error::other)
}

#[cfg(not(unix))]
fn end(code: u8) -> ! {
    std::process::exit(code.into())
}
