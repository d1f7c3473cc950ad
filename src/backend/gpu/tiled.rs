//! Kernels for many rows at once, with the bits of the plain ones: matrix products and attention over tiles in workgroup
//! memory.

use super::device::{Device, Kernel};
use crate::ops::Shader;
use crate::plan::Op;
use crate::quant::{CHUNK, Decode, Format};

static MATMUL: Shader = Shader { name: "tiled_matmul", wgsl: include_str!("../../../wgsl/tiled/matmul.wgsl") };
static ATTENTION: Shader = Shader { name: "tiled_attention", wgsl: include_str!("../../../wgsl/tiled/attention.wgsl") };

/// Every tiled kernel.
pub static TILED: &[&Shader] = &[&MATMUL, &ATTENTION];

/// Rows from which on a batch is computed in tiles.
pub(super) const MIN_ROWS: usize = 16;

/// Activation rows of a tile of a matrix product.
pub(super) const MATMUL_ROWS: u32 = 64;

/// Rows of a tile of attention.
pub(super) const ATTENTION_ROWS: u32 = 32;

/// The kernel of a matrix product, and how many weight rows a workgroup takes; `None` where the format is plain numbers or
/// the device has too little workgroup memory.
pub(super) fn matmul(device: &Device, format: &'static Format, rows: usize, precise: bool) -> Option<(Kernel, u32)> {
    let Decode::Block { activation, sub_block, .. } = format.decode else { return None };
    // Small matrices in small tiles, or they would leave a large GPU idle.
    let deep: u32 = std::env::var("DEEP").ok().and_then(|d| d.parse().ok()).unwrap_or(if rows >= 1024 { 8 } else { 4 });
    let span = (activation / CHUNK) as u32;
    let width = 16 * deep;
    let sub_scales = if span > 1 { 4 * width } else { 1 };
    let lows = if precise { 512 } else { 1 };
    let bytes = 16 * (8 * width + 512 + lows + 64) + 8 * (4 * width + sub_scales);
    let limits = &device.limits;
    if bytes > limits.max_compute_workgroup_storage_size || limits.max_compute_invocations_per_workgroup < 256 {
        return None;
    }
    let kernel = Kernel::new(&MATMUL)
        .format(format)
        .precise(precise)
        .with("DEEP", deep)
        .with("SPAN", span)
        .with("HALVES", u32::from(sub_block < CHUNK))
        .with("WEIGHTS", 8 * width)
        .with("SCALES", 4 * width)
        .with("SUB_SCALES", sub_scales)
        .with("LOWS", lows);
    Some((kernel, width))
}

/// The kernel of attention and its parameters; `None` for sizes of heads that it does not take.
pub(super) fn attention(device: &Device, op: &Op) -> Option<(Kernel, [u32; 4])> {
    let Op::Attention { heads, kv_heads, head_dim, .. } = *op else { return None };
    let quads = (head_dim / 4) as u32;
    let tile = 32 * (quads + 1);
    let bytes = 16 * 2 * tile + 4 * (1056 + 64);
    let limits = &device.limits;
    if !head_dim.is_multiple_of(32)
        || head_dim > 128
        || bytes > limits.max_compute_workgroup_storage_size
    {
        return None;
    }
    let kernel = Kernel::new(&ATTENTION)
        .with("THREADS", 128)
        .with("HEAD_DIM", head_dim as u32)
        .with("QUADS", quads)
        .with("TILE", tile);
    let scale = crate::ops::attention::Params::new(heads, kv_heads, head_dim, 0).scale;
    Some((kernel, [heads as u32, kv_heads as u32, scale.to_bits(), 0]))
}
