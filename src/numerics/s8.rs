//! `S8`, the one order of float sums, and the sum over raw elements made from it.

/// Running `S8` sum: lane `l` of 8 adds terms `l, l+8, l+16, …` in order, then the lanes are added as a tree with
/// strides 4, 2, 1. A missing lane counts as 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    lanes: [f32; 8],
    next: usize,
}

impl Sum {
    /// A sum whose terms before this one are left out, as if they were 0.
    pub fn from_term(first: usize) -> Self {
        Self { lanes: [0.0; 8], next: first % 8 }
    }

    /// Adds the next term.
    pub fn push(&mut self, term: f32) {
        self.lanes[self.next] += term;
        self.next = (self.next + 1) % 8;
    }

    /// The sum of the terms so far.
    pub fn total(&self) -> f32 {
        tree(&self.lanes)
    }
}

/// [`sum`] of `f` over a slice, written so that a compiler can use vectors.
#[inline(always)]
pub fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum_from(0, x, f)
}

/// The same where `x` begins with the block of this number, and the blocks before are left out.
#[inline(always)]
pub fn sum_from(first_block: usize, x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut outer = [0.0; 8];
    for (b, block) in (first_block..).zip(x.chunks(32)) {
        let mut lanes = [0.0; 8];
        let (eights, rest) = block.as_chunks::<8>();
        for eight in eights {
            for (lane, &x) in lanes.iter_mut().zip(eight) {
                *lane += f(x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += f(x);
        }
        outer[b % 8] += tree(&lanes);
    }
    tree(&outer)
}

/// The final tree of an `S8` sum over its 8 lanes.
#[inline(always)]
pub fn tree(l: &[f32; 8]) -> f32 {
    let a = [l[0] + l[4], l[1] + l[5], l[2] + l[6], l[3] + l[7]];
    let b = [a[0] + a[2], a[1] + a[3]];
    b[0] + b[1]
}

/// Sum over raw elements: `S8` inside each block of 32, then `S8` over the block sums.
pub fn sum(elements: impl IntoIterator<Item = f32>) -> f32 {
    elements_from(0, elements)
}

/// The same where the elements begin with the block of this number, and the blocks before are left out.
pub fn elements_from(first_block: usize, elements: impl IntoIterator<Item = f32>) -> f32 {
    let mut outer = Sum::from_term(first_block);
    let mut inner = Sum::default();
    let mut count = 0;
    for x in elements {
        inner.push(x);
        count += 1;
        if count == 32 {
            outer.push(inner.total());
            (inner, count) = (Sum::default(), 0);
        }
    }
    if count > 0 {
        outer.push(inner.total());
    }
    outer.total()
}
