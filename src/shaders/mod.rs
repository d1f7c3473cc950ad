//! The shaders: one table of them all, how a module is put together, and what naga says of each.
//!
//! To add one: a file in `wgsl/` and a line in the table (`table.rs`). The build script validates every variant, and writes
//! down its overrides and its workgroup memory ([`Facts`]) and a Rust struct for its parameters ([`params`]), so that no
//! length, size or layout stands twice. `samebits validate --print qkv.Q4_K` shows an assembled module.

mod facts;
mod table;

pub use facts::{Facts, Override, Term};
pub use table::*;

/// The parameters of kernels, made from the structs in WGSL. A struct that several kernels share has the name of its part.
pub mod params {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
}
