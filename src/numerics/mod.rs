//! The numerics contract, *numerics v1* (`docs/numerics.md`), in Rust. `wgsl/lib/numerics.wgsl` is its twin, line for
//! line; everything a backend computes is made from these functions, so that every device gets the same bits.
//!
//! Rust never fuses or reorders float operations, so nothing is sealed here; the WGSL twin seals every result.

mod activation;
mod functions;
mod rounding;
pub mod s8;

pub use activation::{ActivationRow, Precision, quantize_block};
pub use functions::{exp, exp2, gelu, recip, rsqrt, sigmoid, silu, tanh};
pub use rounding::{f16_bits, f16_value, flush, r13, settle};

/// The version of the contract: results of equal versions are comparable bit for bit.
pub const VERSION: &str = "numerics v1";

/// Activations below this magnitude count as 0, so that no product or difference can be subnormal (2^-60).
pub const ACTIVATION_FLOOR: f32 = f32::from_bits((127 - 60) << 23);
/// Weights and elementwise operands below this magnitude count as 0 (2^-40).
pub const WEIGHT_FLOOR: f32 = f32::from_bits((127 - 40) << 23);
/// Stored results below this magnitude are stored as +0 (2^-100).
pub const RESULT_FLOOR: f32 = f32::from_bits((127 - 100) << 23);
