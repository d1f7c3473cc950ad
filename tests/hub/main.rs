//! Models by name, beside a mock of Hugging Face's hub.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod command;
mod library;
mod mock;
