//! The GGUF container, versions 2 and 3: header, metadata, tensor table, memory map; and a writer.
//!
//! A file is hostile until checked: every count, length, shape and offset is compared with the file before it is
//! used. Memory grows with what was read, never with what a count promises, and a failed allocation is an error.
//! What a newer or another program put into a file is no damage: text that is not UTF-8 is kept as bytes, and a tensor
//! of unknown type reaches to the next one. Specification: `ggml/docs/gguf.md`.

mod reader;
mod shards;
mod types;
mod value;
mod writer;

pub use reader::{Gguf, TensorInfo};
pub use shards::{ShardName, paths_of_parts};
pub use types::{GgmlType, ggml_type, type_name};
pub use value::{Array, Value};
pub use writer::{GgufWriter, string as write_string, write_value};

use thiserror::Error;

/// What is wrong with a GGUF file.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum GgufError {
    #[error("cannot read {path}: {reason}")]
    Io { path: String, reason: String },
    #[error("{path} is not a GGUF file: {reason}")]
    NotGguf { path: String, reason: String },
    #[error("GGUF version {0} is too old (2 and 3 are read); convert the model again with a current llama.cpp")]
    OldVersion(u32),
    #[error("GGUF version {0} is newer than this program, which reads 2 and 3; use a newer samebits")]
    NewVersion(u32),
    #[error("{what} needs {bytes} bytes of memory, which this machine cannot give")]
    Memory { what: String, bytes: u64 },
    #[error("the file ends early: {what} at byte {at} needs {needed} bytes, {left} are left; download it again")]
    Truncated { what: String, at: u64, needed: u64, left: u64 },
    #[error("damaged file: {what} at byte {at}; download it again")]
    Damaged { what: String, at: u64 },
    #[error("this is one of {0} parts of a split model, and the others cannot be found; give the path of a file")]
    Split(u64),
    #[error("{path} is a part of a split model, but {why}")]
    Part { path: String, why: String },
    #[error("metadata '{0}' is missing; the file is incomplete or not a language model")]
    MissingKey(String),
    #[error("metadata '{key}' is {found}, expected {expected}")]
    WrongType { key: String, found: String, expected: &'static str },
    #[error("cannot write: {0}")]
    Write(String),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}
