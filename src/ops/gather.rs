//! The rows whose logits are wanted, one after the other.

pub use crate::shaders::{GATHER as SHADER, params::Gather as Params};

/// Rows of `width` elements: `rows` names those of `x` that `out` gets.
pub fn cpu(width: usize, rows: &[u32], x: &[f32], out: &mut [f32]) {
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&x[row as usize * width..][..width]);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}
