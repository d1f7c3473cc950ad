//! Appends keys and values to the cache, rounded to f16 in integer code.

use bytemuck::{Pod, Zeroable};

use super::Shader;
use crate::numerics::f16_bits;

/// The shader.
pub static SHADER: Shader = Shader { name: "kv_store", wgsl: include_str!("../../wgsl/kv_store.wgsl") };

/// What the shader reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Elements per row of each: KV heads × head dimension, even.
    pub width: u32,
    /// To 16 bytes.
    pub pad: [u32; 3],
}

/// One row of keys or values into its place in the cache.
#[inline(always)]
pub fn cpu(x: &[f32], cache: &mut [u16]) {
    for (cache, &x) in cache.iter_mut().zip(x) {
        *cache = f16_bits(x) as u16;
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width / 2), rows, 1]
}
