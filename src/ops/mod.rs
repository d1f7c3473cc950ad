//! The operations a plan is made of: one Rust file and one WGSL file of the same name each.
//!
//! A file holds the CPU function, which is the definition of the op's bits, and the size of its GPU dispatch; its parameters are
//! made from the struct in WGSL. To add an op: those two files and one line in the table of [`crate::shaders`].

pub mod add;
pub mod argmax;
pub mod attention;
pub mod draw;
pub mod embedding;
#[cfg(feature = "faults")]
pub(crate) mod faults;
pub mod gather;
pub mod kv_store;
pub mod matmul;
pub mod quantize_activations;
pub mod rms_norm;
pub mod rope;
pub mod silu_mul;
pub mod softmax;

/// Threads per workgroup of all kernels: the `THREADS` override.
pub const THREADS: u32 = 64;

/// Workgroups that cover `n` threads.
fn groups(n: u32) -> u32 {
    n.div_ceil(THREADS)
}
