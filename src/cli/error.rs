//! What a command line can get wrong, and how a command can end but in success. `docs/errors.md` lists all messages.

use thiserror::Error;

/// A wrong command line that clap cannot see. Exit code 2.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Usage {
    #[error("--device chooses a GPU, and --backend cpu uses none; leave one of them out")]
    DeviceOfCpu,
    #[error("nothing to continue: give PROMPT, -p TEXT or -f FILE, or text on standard input")]
    NoPrompt,
    #[error(
        "no message: give PROMPT, -p TEXT or -f FILE, or text on standard input; without any, a terminal is needed to type at"
    )]
    NoMessage,
    #[error("no text: give TEXT or -f FILE, or text on standard input")]
    NoText,
    #[error("nothing to measure: give -p, -n or -pg a number above 0")]
    NothingToMeasure,
    #[error("-t must lie between 1 and 1024")]
    Threads,
    #[error("--chunk must lie between 1 and 4096")]
    Chunk,
    #[error("--compare needs two backends, as in --compare cpu,gpu")]
    OneBackend,
    #[error("--ops compares a GPU with the CPU, and there is no GPU adapter; install a Vulkan driver")]
    OpsWithoutGpu,
    #[error("there is no command {0}; `samebits help` lists them")]
    NoCommand(String),
    #[error("the text goes to standard output; give --record a file")]
    RecordOnStdout,
    #[error("--json prints to standard output, where {0} goes already; give that a file")]
    TwoOnStdout(String),
}

/// Why a command did not do what it was asked for. Exit code 1.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("cannot read {name}: {reason}")]
    Read { name: String, reason: String },
    #[error("cannot read {name}: {reason}; {option} takes a file, or {written}")]
    ReadForm { name: String, reason: String, option: &'static str, written: &'static str },
    #[error("{name} is no text: it is not UTF-8 from byte {at} on")]
    NoUtf8 { name: String, at: usize },
    #[error("{name} holds more than {} MiB of text; use a part of it", .limit >> 20)]
    TooMuchText { name: String, limit: u64 },
    #[error("cannot write to standard output: {0}")]
    Stdout(std::io::Error),
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    TokenId { id: u32, vocabulary: usize },
    #[error("{tokens} tokens do not fit one batch of {batch}; use a shorter prompt")]
    OneBatch { tokens: usize, batch: usize },
    #[error(
        "the outputs of all steps for {tokens} tokens take {size} of memory; use a shorter prompt or fewer --layers"
    )]
    TraceMemory { tokens: usize, size: String },
    #[error("the steps of a fused run cannot be seen; compare it with one that is not fused")]
    Fused,
    #[error(
        "there is no file and no alias '{word}'{aliases}; a model of Hugging Face's hub is written hf:OWNER/REPO, and `samebits models` lists those that are here"
    )]
    NoModel { word: String, aliases: String },
    #[error("{0} is an address; write hf:OWNER/REPO[:QUANT|FILE], or download the file and give its path")]
    Address(String),
    #[error("there is no step '{0}'; `samebits trace --steps` lists them")]
    NoStep(String),
    #[error("{name} is not what `samebits trace --json` writes: {reason}")]
    NoTrace { name: String, reason: String },
    #[error("{0} is of another prompt or model; trace the same on both machines")]
    OtherTrace(String),
    #[error(
        "the conversation has {tokens} tokens but the context holds {context}: /new begins anew, /drop N forgets the N oldest \
         messages, --ctx N with a larger N holds more"
    )]
    ChatFull { tokens: usize, context: usize },
    #[error("there is no message yet")]
    NoMessage,
    #[error("it is used as {0}; /help lists the commands")]
    ChatCommand(&'static str),
    #[error("there is no command /{0}; /help lists the commands, and // begins a message with one /")]
    UnknownChatCommand(String),
    #[error("{name} is not what /save writes: {reason}")]
    NoChat { name: String, reason: String },
    #[error("{name} cannot be replayed: {reason}")]
    Record { name: String, reason: String },
    #[error("the text is not what was recorded; see above")]
    Replay,
    #[error("{place}: {message}")]
    Script { place: String, message: String },
    #[error("{script}: run {run} has other bits than the first: {what}")]
    ScriptRunsDiffer { script: String, run: usize, what: String },
    #[error("runs differ; see above")]
    RunsDiffer,
    #[error("rows of the same test have different fingerprints: a backend computes other bits")]
    RowsDiffer,
    #[error("a guarantee does not hold on this device; see above")]
    NoGuarantee,
    #[error("there is no kernel {name}; there are {known}")]
    NoKernel { name: String, known: String },
    #[error("{0} shaders do not pass; see above")]
    Shaders(usize),
}

/// Why nothing could be compared. Exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Unfit(pub Box<dyn std::error::Error>);

/// A command stopped because it was asked to, and has said so. Exit code 130, 143 or 129: 128 and the signal's number.
#[derive(Debug, Error)]
#[error("interrupted")]
pub(super) struct Interrupted;
