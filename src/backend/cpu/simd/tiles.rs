//! Activations in tiles of 16 rows, for products of matrices with many rows (AMX).
//!
//! Blocks lie in the order in which a kernel takes them: lane after lane of S8, so that it keeps the sums of one in
//! registers, and all tiles for each, so that the weights of a lane stay in the first cache.

use super::{ROWS, Rows, TOKENS};
use crate::backend::cpu::panels::Panels;
use crate::backend::cpu::pool::{Disjoint, Pool};

/// Rows of activations from which tiles pay.
const FEW: usize = 16;

/// A block of 32 elements of 16 rows.
#[derive(Clone, Default)]
#[repr(C, align(64))]
pub struct Small {
    pub q: [[i8; 32]; TOKENS],
    pub scale: [f32; TOKENS],
    /// Sums of the integers.
    pub totals: [f32; TOKENS],
}

/// A block of 256 elements of 16 rows, in four chunks of 64.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Large {
    pub q: [[[i8; 64]; TOKENS]; 4],
    pub scale: [f32; TOKENS],
    /// Sums of the integers over pairs of 16 and of 32 elements.
    pub totals16: [[[i16; 2]; TOKENS]; 8],
    pub totals32: [[[i16; 2]; TOKENS]; 4],
}

impl Default for Large {
    fn default() -> Self {
        let none = [[0; 2]; TOKENS];
        Self { q: [[[0; 64]; TOKENS]; 4], scale: [0.0; TOKENS], totals16: [none; 8], totals32: [none; 4] }
    }
}

/// Rows of quantised activations in tiles; where their blocks lie says [`place`].
#[derive(Default)]
pub struct Tiles {
    /// Rows.
    pub count: usize,
    /// Blocks of a row.
    pub blocks: usize,
    /// The blocks, where they are of 32 elements.
    pub small: Vec<Small>,
    /// The blocks, where they are of 256 elements.
    pub large: Vec<Large>,
}

/// The steps of a lane of S8: the blocks of a row whose terms it adds.
pub fn steps(lane: usize, blocks: usize) -> usize {
    blocks / 8 + usize::from(lane < blocks % 8)
}

/// Where block `b` of row or tile `tile` of `tiles` lies: lane after lane, in each the tiles, in each its steps.
pub fn place(b: usize, blocks: usize, (tile, tiles): (usize, usize)) -> usize {
    let lane = b % 8;
    let before = lane * (blocks / 8) + lane.min(blocks % 8);
    before * tiles + tile * steps(lane, blocks) + b / 8
}

impl Tiles {
    /// Whether this many rows are worth tiles.
    pub fn pay(rows: usize) -> bool {
        rows >= FEW
    }

    /// Takes the high plane of `xs`. Missing rows of the last tile are zeros.
    pub fn fill(&mut self, xs: &Rows<'_>, pool: &mut Pool) {
        let (blocks, tiles) = self.resize(xs, xs.count);
        let (small, large) = (Disjoint::new(&mut self.small), Disjoint::new(&mut self.large));
        pool.run(tiles, |tile| {
            let rows = (tile * TOKENS..xs.count).take(TOKENS);
            for b in 0..blocks {
                let at = place(b, blocks, (tile, tiles));
                // SAFETY: each task has the blocks of its own tile.
                unsafe { fill_block(xs, b, blocks, rows.clone(), small.get(at), large.get(at)) };
            }
        });
    }

    /// The same of chosen rows, by one thread.
    pub fn of(xs: &Rows<'_>, chosen: &[usize]) -> Self {
        let mut all = Self::default();
        let (blocks, tiles) = all.resize(xs, chosen.len());
        for (tile, rows) in chosen.chunks(TOKENS).enumerate() {
            for b in 0..blocks {
                let at = place(b, blocks, (tile, tiles));
                fill_block(xs, b, blocks, rows.iter().copied(), all.small.get_mut(at), all.large.get_mut(at));
            }
        }
        all
    }

    /// Makes place for `count` rows; gives the blocks of a row, and how many tiles there are.
    fn resize(&mut self, xs: &Rows<'_>, count: usize) -> (usize, usize) {
        let (blocks, tiles) = (xs.scale.len() / xs.count, count.div_ceil(TOKENS));
        (self.count, self.blocks) = (count, blocks);
        let small = xs.cols / blocks == 32;
        self.small.resize(if small { tiles * blocks } else { 0 }, Small::default());
        self.large.resize(if small { 0 } else { tiles * blocks }, Large::default());
        (blocks, tiles)
    }
}

/// Block `b` of some rows, up to [`TOKENS`], to the one place that there is.
fn fill_block(
    xs: &Rows<'_>,
    b: usize,
    blocks: usize,
    rows: impl Iterator<Item = usize>,
    small: Option<&mut Small>,
    large: Option<&mut Large>,
) {
    let (q, [sums16, sums32]) = (xs.planes[0].q, xs.planes[0].sums);
    match (small, large) {
        (Some(out), _) => {
            *out = Small::default();
            for (t, row) in rows.enumerate() {
                let at = row * blocks + b;
                out.q[t].copy_from_slice(&q[at * 32..][..32]);
                (out.scale[t], out.totals[t]) = (xs.scale[at], f32::from(sums32[at]));
            }
        }
        (_, Some(out)) => {
            *out = Large::default();
            for (t, row) in rows.enumerate() {
                let at = row * blocks + b;
                out.scale[t] = xs.scale[at];
                for (out, q) in out.q.iter_mut().zip(q[at * 256..].as_chunks::<64>().0) {
                    out[t] = *q;
                }
                for (out, pair) in out.totals16.iter_mut().zip(sums16[at * 16..].as_chunks::<2>().0) {
                    out[t] = *pair;
                }
                for (out, pair) in out.totals32.iter_mut().zip(sums32[at * 8..].as_chunks::<2>().0) {
                    out[t] = *pair;
                }
            }
        }
        _ => {}
    }
}

/// The products of the rows of one panel with all of `xs`: `store` gets the first row of each tile with the results of
/// its rows.
///
/// # Panics
/// If the activations are not of the matrix's width and blocks, or the processor has no AMX.
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), allow(unused_variables))]
pub fn product(p: &Panels, panel: usize, xs: &Tiles, store: impl FnMut(usize, &[[f32; ROWS]])) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    super::amx::product(p, panel, xs, store);
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    unreachable!("no AMX");
}
