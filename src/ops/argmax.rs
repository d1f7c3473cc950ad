//! The index of the largest element of each row; ties go to the lower index.

use bytemuck::{Pod, Zeroable};

use super::Shader;

/// The shader.
pub static SHADER: Shader = Shader { name: "argmax", wgsl: include_str!("../../wgsl/argmax.wgsl") };

/// What the shader reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Elements per row.
    pub width: u32,
    /// To 16 bytes.
    pub pad: [u32; 3],
}

/// One row, not empty.
pub fn cpu(x: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in x.iter().enumerate() {
        if *v > x[best] {
            best = i;
        }
    }
    best as u32
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}
