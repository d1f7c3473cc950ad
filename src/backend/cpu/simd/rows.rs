//! Quantised activations as the vector kernels read them.

use super::TOKENS;
use crate::backend::cpu::pool::{Disjoint, Pool};

/// One plane of quantised activations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plane<'a> {
    /// The integers.
    pub q: &'a [i8],
    /// Their sums over 16 and over 32 elements.
    pub sums: [&'a [i16]; 2],
    /// The latter as floats.
    pub totals: &'a [f32],
}

/// Rows of quantised activations: the high plane, and the low one of `Precision::Precise`. They lie row after row, or,
/// as kernels read them, tile after tile of [`TOKENS`] rows, and in a tile block after block: lines that are read one
/// after the other lie so, and do not meet in the same few sets of a cache as those of rows a power of two apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// How many rows.
    pub count: usize,
    /// Elements per row.
    pub cols: usize,
    /// One or two planes.
    pub planes: [Plane<'a>; 2],
    /// One scale per block.
    pub scale: &'a [f32],
}

impl<'a> Rows<'a> {
    /// The tile of rows from `first` on.
    pub fn tile(&self, first: usize) -> Self {
        let (count, cols) = (TOKENS.min(self.count - first), self.cols);
        let part = |n: usize| first * cols / n..(first + count) * cols / n;
        let planes = self.planes.map(|p| Plane {
            q: p.q.get(part(1)).unwrap_or_default(),
            sums: [p.sums[0].get(part(16)).unwrap_or_default(), p.sums[1].get(part(32)).unwrap_or_default()],
            totals: p.totals.get(part(32)).unwrap_or_default(),
        });
        let blocks = self.scale.len() / self.count;
        Self { count, cols, planes, scale: &self.scale[first * blocks..(first + count) * blocks] }
    }
}

/// Memory of rows in the order of kernels.
#[derive(Debug, Default)]
pub struct Ordered {
    count: usize,
    cols: usize,
    q: [Vec<i8>; 2],
    sums: [[Vec<i16>; 2]; 2],
    totals: [Vec<f32>; 2],
    scale: Vec<f32>,
}

impl Ordered {
    /// `xs`, which lie row after row, in the order of kernels.
    pub fn fill(&mut self, xs: &Rows<'_>, pool: &mut Pool) -> Rows<'_> {
        self.take(xs, xs.count, &mut Which::All(pool));
        self.rows()
    }

    /// The same of chosen rows.
    pub fn of(xs: &Rows<'_>, chosen: &[usize]) -> Self {
        let mut all = Self::default();
        all.take(xs, chosen.len(), &mut Which::Chosen(chosen));
        all
    }

    fn take(&mut self, xs: &Rows<'_>, count: usize, which: &mut Which<'_>) {
        (self.count, self.cols) = (count, xs.cols);
        let blocks = xs.scale.len() / xs.count;
        let block = xs.cols / blocks;
        for (i, plane) in xs.planes.iter().enumerate() {
            order(plane.q, &mut self.q[i], block, xs.count, which);
            for (sums, (out, n)) in plane.sums.iter().zip(self.sums[i].iter_mut().zip([16, 32])) {
                order(sums, out, block / n, xs.count, which);
            }
            order(plane.totals, &mut self.totals[i], block / 32, xs.count, which);
        }
        order(xs.scale, &mut self.scale, 1, xs.count, which);
    }

    /// The rows.
    pub fn rows(&self) -> Rows<'_> {
        let plane =
            |i: usize| Plane { q: &self.q[i], sums: self.sums[i].each_ref().map(|s| &s[..]), totals: &self.totals[i] };
        Rows { count: self.count, cols: self.cols, planes: [plane(0), plane(1)], scale: &self.scale }
    }
}

/// Which rows are put in order: all, by many threads, or chosen ones, by one.
enum Which<'a> {
    All(&'a mut Pool),
    Chosen(&'a [usize]),
}

/// The elements of rows, `n` of each block, in the order of kernels; `rows` are `count`.
fn order<T: Copy + Default + Send + Sync>(rows: &[T], out: &mut Vec<T>, n: usize, count: usize, which: &mut Which<'_>) {
    let width = rows.len() / count;
    match which {
        Which::All(pool) => {
            out.resize(rows.len(), T::default());
            let cells = Disjoint::new(out);
            pool.run(count.div_ceil(TOKENS), |tile| {
                let tokens = tile * TOKENS..((tile + 1) * TOKENS).min(count);
                // SAFETY: each task has its own tile.
                let out = unsafe { cells.slice(tokens.start * width..tokens.end * width) };
                order_tile(rows, width, n, tokens, out);
            });
        }
        Which::Chosen(chosen) => {
            out.resize(chosen.len() * width, T::default());
            for (tokens, out) in chosen.chunks(TOKENS).zip(out.chunks_mut((TOKENS * width).max(1))) {
                order_tile(rows, width, n, tokens.iter().copied(), out);
            }
        }
    }
}

/// One tile, of the rows `tokens` of `width` elements.
fn order_tile<T: Copy>(
    rows: &[T],
    width: usize,
    n: usize,
    tokens: impl ExactSizeIterator<Item = usize>,
    out: &mut [T],
) {
    let count = tokens.len();
    for (t, token) in tokens.enumerate() {
        for (b, block) in rows[token * width..(token + 1) * width].chunks_exact(n).enumerate() {
            out[(b * count + t) * n..][..n].copy_from_slice(block);
        }
    }
}
