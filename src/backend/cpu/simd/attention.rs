//! Attention of heads over the cache; the vector twin of `ops::attention::cpu`.
//!
//! Keys are kept in tiles of 16 positions, `[tile][element][position]`, so that a lane is a position; values are kept
//! by position, so that a lane is an element. Every lane does what the scalar twin does, in its order. Query heads that
//! share keys and values are taken together, so that those are read and converted once.

use super::super::isa::Isa;
use super::super::panels::ROWS;
use super::super::vector;
use super::each_isa;
use crate::numerics::settle;
use crate::ops::attention::Params;

/// Query heads taken together at most.
pub const HEADS: usize = 4;

/// As `ops::attention::cpu`, of one to [`HEADS`] heads from `head` on that share keys and values; `q` and `out` hold as
/// many. `scratch` has room for each, of the positions, rounded up to 16, and a head.
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
    sinks: &[f32],
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let head_dim = p.head_dim as usize;
    let width = p.kv_heads as usize * head_dim;
    let (heads, group) = (out.len() / head_dim, (p.heads / p.kv_heads) as usize);
    let at = head / group * head_dim;
    // Scores are those from position `start` on, a multiple of 32.
    let (first, start) = p.first(count);
    let room = count.next_multiple_of(ROWS) - start;
    assert!(isa != Isa::Scalar && isa.is_available());
    assert!(q.len() == heads * head_dim && out.len() == q.len() && head_dim.is_multiple_of(16));
    assert!((1..=HEADS).contains(&heads) && head % group + heads <= group && at + head_dim <= width);
    assert!(k_tiles.len() >= room * width && v_cache.len() >= (count - start) * width);
    let (scores, rounded) = scratch.split_at_mut(heads * room);
    let rounded = &mut rounded[..q.len()];
    vector::prepare(isa, q, true, rounded);
    // SAFETY: the path is available, and the caches hold every position asked for, as checked above.
    unsafe {
        let keys = (k_tiles.as_ptr().add(at * ROWS), width * ROWS, room / ROWS);
        let v = v_cache.as_ptr().add(at);
        each_isa!(isa, instructions => match heads {
            1 => instructions::scores::<1>(rounded, p.scale, keys, (scores, room)),
            2 => instructions::scores::<2>(rounded, p.scale, keys, (scores, room)),
            3 => instructions::scores::<3>(rounded, p.scale, keys, (scores, room)),
            _ => instructions::scores::<4>(rounded, p.scale, keys, (scores, room)),
        });
        let mut inverse = [0.0; HEADS];
        for (i, (inverse, scores)) in inverse.iter_mut().zip(scores.chunks_exact_mut(room)).enumerate() {
            *inverse = vector::weigh(isa, p, start, first, sinks.get(head + i).copied(), &mut scores[..count - start]);
        }
        let weights = (&*scores, room, start, count - start);
        each_isa!(isa, instructions => match heads {
            1 => instructions::weighted::<1>(weights, v, width, out),
            2 => instructions::weighted::<2>(weights, v, width, out),
            3 => instructions::weighted::<3>(weights, v, width, out),
            _ => instructions::weighted::<4>(weights, v, width, out),
        });
        for (out, inverse) in out.chunks_exact_mut(head_dim).zip(inverse) {
            for out in out {
                *out = settle(*out * inverse);
            }
        }
    }
}
