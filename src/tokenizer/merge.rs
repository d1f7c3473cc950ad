//! The merge loop that byte-pair encodings share.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A stretch of the text, in a linked list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// First byte.
    pub start: usize,
    /// Byte behind the last; a piece that was merged into its left neighbour is empty.
    pub end: usize,
    /// What it is in the table of the algorithm.
    pub symbol: u32,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// The pieces that a text begins as: `(start, end, symbol)` in order.
pub(super) fn pieces(parts: impl Iterator<Item = (usize, usize, u32)>) -> Vec<Piece> {
    let link = |(i, (start, end, symbol)): (usize, (usize, usize, u32))| Piece {
        start,
        end,
        symbol,
        previous: i.wrapping_sub(1),
        next: i + 1,
    };
    let mut pieces: Vec<Piece> = parts.enumerate().map(link).collect();
    if let Some(last) = pieces.last_mut() {
        last.next = NONE;
    }
    pieces
}

/// Merges neighbours, always the pair of lowest rank, the leftmost of equals. `join` gives the rank of a pair and the symbol
/// it becomes.
pub(super) fn merge<R: Ord>(pieces: &mut Vec<Piece>, join: impl Fn(&Piece, &Piece) -> Option<(R, u32)>) {
    let mut queue = BinaryHeap::new();
    let propose = |pieces: &[Piece], left: usize, right: usize, queue: &mut BinaryHeap<_>| {
        let (Some(a), Some(b)) = (pieces.get(left), pieces.get(right)) else { return };
        if let Some((rank, symbol)) = join(a, b) {
            queue.push((Reverse(rank), Reverse(left), right, b.end - a.start, symbol));
        }
    };
    for right in 1..pieces.len() {
        propose(pieces, right - 1, right, &mut queue);
    }
    while let Some((_, Reverse(left), right, length, symbol)) = queue.pop() {
        let (a, b) = (pieces[left], pieces[right]);
        // Pieces only grow: one that was merged since then makes another length.
        if a.start == a.end || b.start == b.end || a.next != right || b.end - a.start != length {
            continue;
        }
        pieces[left] = Piece { end: b.end, symbol, next: b.next, ..a };
        pieces[right].end = b.start;
        if let Some(next) = pieces.get_mut(b.next) {
            next.previous = left;
        }
        propose(pieces, a.previous, left, &mut queue);
        propose(pieces, left, b.next, &mut queue);
    }
    pieces.retain(|p| p.start < p.end);
}
