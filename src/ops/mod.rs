//! The operations a plan is made of: one Rust file and one WGSL file of the same name each.
//!
//! A file holds the parameters (the `#[repr(C)]` struct its shader reads), the CPU function, which is the definition
//! of the op's bits, and the size of its GPU dispatch. To add an op: those two files and one line in [`SHADERS`].

pub mod add;
pub mod argmax;
pub mod attention;
pub mod draw;
pub mod embedding;
#[cfg(feature = "faults")]
pub(crate) mod faults;
pub mod kv_store;
pub mod matmul;
pub mod quantize_activations;
pub mod rms_norm;
pub mod rope;
pub mod shader;
pub mod silu_mul;
pub mod softmax;

pub use shader::{Arithmetic, Shader, capabilities};

/// Every op's shader.
pub static SHADERS: &[&Shader] = &[
    &add::SHADER,
    &argmax::SHADER,
    &attention::SHADER,
    &draw::SHADER,
    &embedding::SHADER,
    &kv_store::SHADER,
    &matmul::SHADER,
    &quantize_activations::SHADER,
    &rms_norm::SHADER,
    &rope::SHADER,
    &silu_mul::SHADER,
    &softmax::SHADER,
];

/// Threads per workgroup of all kernels: the `THREADS` override.
pub const THREADS: u32 = 64;

/// Workgroups that cover `n` threads.
fn groups(n: u32) -> u32 {
    n.div_ceil(THREADS)
}
