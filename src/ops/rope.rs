//! Rotary position embedding (Su et al. 2021), in place, from a table of angles.

use crate::numerics::{ACTIVATION_FLOOR, flush, settle};
pub use crate::shaders::{ROPE as SHADER, params::Rope as Params};

/// Cosine and sine of every angle: `[position][pair][cos, sin]`.
///
/// `frequencies[pair]` is in radians per position. Computed in f64 with the portable `libm`, rounded once to f32, so it
/// is the same on every machine; magnitudes below 2^-24 are 0.
pub fn table(positions: usize, frequencies: &[f64]) -> Vec<f32> {
    let floor = f32::from_bits((127 - 24) << 23);
    let mut out = Vec::with_capacity(positions * frequencies.len() * 2);
    for position in 0..positions {
        for frequency in frequencies {
            let angle = position as f64 * frequency;
            out.push(flush(libm::cos(angle) as f32, floor));
            out.push(flush(libm::sin(angle) as f32, floor));
        }
    }
    out
}

/// One row; `angles` is the table's row for its position.
#[inline(always)]
pub fn cpu(p: &Params, angles: &[f32], x: &mut [f32]) {
    let (pairs, head_dim) = (p.pairs as usize, p.head_dim as usize);
    for head in x.chunks_exact_mut(head_dim) {
        for pair in 0..pairs {
            let (i, j) = if p.neox != 0 { (pair, pair + pairs) } else { (2 * pair, 2 * pair + 1) };
            let (c, s) = (angles[2 * pair], angles[2 * pair + 1]);
            let (a, b) = (flush(head[i], ACTIVATION_FLOOR), flush(head[j], ACTIVATION_FLOOR));
            head[i] = settle(a * c - b * s);
            head[j] = settle(a * s + b * c);
        }
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width / p.head_dim * p.pairs), rows, 1]
}
