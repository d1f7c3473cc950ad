//! The index of the largest element of each row; ties go to the lower index.

pub use crate::shaders::{ARGMAX as SHADER, params::Argmax as Params};

/// Elements compared at once.
const LANES: usize = 16;

/// One row of finite numbers, not empty.
pub fn cpu(x: &[f32]) -> u32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, *x);
        }
    }
    let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    x.iter().position(|x| *x == largest).unwrap_or_default() as u32
}

/// Workgroups for `rows` rows.
pub fn workgroups(_: &Params, rows: u32) -> [u32; 3] {
    [1, rows, 1]
}
