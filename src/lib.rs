//! **samebits** runs GGUF language models through WGSL compute shaders on wgpu, with the same bits on every GPU and on
//! the CPU.
//!
//! ```
//! # fn main() -> Result<(), samebits::Error> {
//! let mut llm = samebits::open("models/stories.gguf")?; // the best GPU that passes the self-test, else the CPU
//! for piece in llm.generate("Once upon a time").temperature(0.8).seed(7).max_tokens(32).stream()? {
//!     print!("{}", piece?);
//! }
//! // The same on every machine: SHA-256 of all logits.
//! println!("{}", llm.last().map_or("", |text| &text.logits_hash));
//! # Ok(())
//! # }
//! ```
//!
//! [`OpenOptions`] says where and how a model runs, [`Generate`] what a text is like. [`record`] keeps texts with what proves their bits,
//! [`grammar`] makes them keep to a JSON schema or a grammar, and `chat` (a feature) makes prompts of conversations.
//!
//! A program that uses this crate leaves the command line out: `samebits = { version = "…", default-features = false, features =
//! ["chat", "structured"] }`, or neither of the two.
//!
//! # Below the front door
//!
//! The way of the data: [`gguf`] → [`model`] → [`plan`] → [`backend`] → logits → [`sample`] → text, with [`tokenizer`]
//! at both ends and [`engine`] to hold it together. [`ops`], [`shaders`] and [`numerics`] are what plans are computed with; [`trace`] and
//! [`verify`] look at it. `docs/numerics.md` is the contract that fixes the bits.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod backend;
#[cfg(feature = "cli")]
mod bench;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "cli")]
mod cli;
pub mod convert;
pub mod engine;
pub mod gguf;
pub mod grammar;
mod host;
#[cfg(feature = "hub")]
pub mod hub;
mod llm;
mod memory;
pub mod model;
pub mod numerics;
pub mod ops;
mod output;
pub mod plan;
pub mod quant;
pub mod record;
pub mod sample;
#[cfg(feature = "scripts")]
pub mod script;
pub mod shaders;
pub mod tensor;
pub mod tokenizer;
pub mod trace;
#[cfg(feature = "cli")]
mod validate;
pub mod verify;

#[cfg(feature = "cli")]
pub use cli::main as command_line;
pub use engine::{OpenOptions, StopReason, Text, Wanted};
pub use llm::{Error, Generate, Llm, Stream, open};
