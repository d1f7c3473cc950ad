//! Attention of one head over the cache; the vector twin of `ops::attention::cpu`.
//!
//! Keys are kept in tiles of 16 positions, `[tile][element][position]`, so that a lane is a position; values are kept
//! by position, so that a lane is an element. Every lane does what the scalar twin does, in its order.

use super::super::isa::Isa;
use super::super::panels::ROWS;
use super::super::vector;
use super::each_isa;
use crate::numerics::settle;
use crate::ops::attention::Params;

/// As `ops::attention::cpu`. `scratch` has room for the positions, rounded up to 16, and a head.
///
/// # Panics
/// If the path is not an available vector path, a head is no multiple of 16 elements, or a slice is too short.
pub fn attention(
    isa: Isa,
    p: &Params,
    head: usize,
    count: usize,
    q: &[f32],
    k_tiles: &[u16],
    v_cache: &[u16],
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let head_dim = p.head_dim as usize;
    let width = p.kv_heads as usize * head_dim;
    let at = head / (p.heads / p.kv_heads) as usize * head_dim;
    let padded = count.next_multiple_of(ROWS);
    assert!(isa != Isa::Scalar && isa.is_available());
    assert!(q.len() == head_dim && out.len() == head_dim && head_dim.is_multiple_of(16) && at + head_dim <= width);
    assert!(k_tiles.len() >= padded * width && v_cache.len() >= count * width);
    let (scores, rounded) = scratch.split_at_mut(padded);
    let rounded = &mut rounded[..head_dim];
    vector::prepare(isa, q, true, rounded);
    // SAFETY: the path is available, and the caches hold every position asked for, as checked above.
    unsafe {
        let (k, v) = (k_tiles.as_ptr().add(at * ROWS), v_cache.as_ptr().add(at));
        each_isa!(isa, instructions => instructions::scores(rounded, p.scale, k, width * ROWS, scores));
        let scores = &mut scores[..count];
        let inverse = vector::weigh(isa, scores);
        each_isa!(isa, instructions => instructions::weighted(scores, v, width, out));
        for out in out {
            *out = settle(*out * inverse);
        }
    }
}
