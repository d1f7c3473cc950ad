//! **samebits** runs GGUF language models through WGSL compute shaders on wgpu, with the same bits on every GPU and on
//! the CPU.
//!
//! The way of the data: [`gguf`] → [`model`] → [`plan`] → [`backend`] → logits → [`sample`] → text, with [`tokenizer`]
//! at both ends and [`engine`] to hold it together. `docs/numerics.md` is the contract that fixes the bits.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod backend;
pub mod bench;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
pub mod convert;
pub mod engine;
pub mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
pub mod memory;
pub mod model;
pub mod numerics;
pub mod ops;
pub mod output;
pub mod plan;
pub mod quant;
pub mod sample;
pub mod shaders;
pub mod tokenizer;
pub mod trace;
pub mod validate;
pub mod verify;
