//! Some columns of every head of one row or of two, one behind the other: how parts of heads are taken apart and put together.

use super::shapes::{BufferId, Shapes, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
pub use crate::shaders::{COLUMNS as SHADER, params::Columns as Params};

/// Columns of the heads of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Slice {
    pub x: BufferId,
    /// The first column of each head.
    pub from: usize,
    /// How many.
    pub count: usize,
}

/// `out[head] = [a[head, from..], b[head, from..]]` for each of so many heads.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Columns {
    pub heads: usize,
    pub a: Slice,
    pub b: Option<Slice>,
    pub out: BufferId,
}

/// One row.
fn copy<T: Copy>(heads: usize, slices: [(&[T], usize, usize); 2], out: &mut [T]) {
    let width = slices[0].2 + slices[1].2;
    for (head, out) in out.chunks_exact_mut(width).enumerate() {
        let mut at = 0;
        for (x, from, count) in slices {
            let first = head * (x.len() / heads) + from;
            out[at..at + count].copy_from_slice(&x[first..first + count]);
            at += count;
        }
    }
}

impl Columns {
    fn slices<'a, T>(&self, reads: [&'a [T]; 2]) -> [(&'a [T], usize, usize); 2] {
        let of = |x, s: Slice| (x, s.from, s.count);
        [of(reads[0], self.a), self.b.map_or((&[][..], 0, 0), |b| of(reads[1], b))]
    }
}

impl Operation for Columns {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.a.x), self.b.map(|b| b.x)]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let heads = self.heads;
        let mut width = 0;
        for s in [Some(self.a), self.b].into_iter().flatten() {
            let x = shapes.float(s.x)?;
            ensure!(heads > 0 && x.is_multiple_of(heads), "shares {x} elements among {heads} heads");
            let has = x / heads;
            ensure!(
                s.count > 0 && s.from <= has && s.count <= has - s.from,
                "takes {} columns from {} on of {has}",
                s.count,
                s.from
            );
            width += s.count;
        }
        let out = shapes.float(self.out)?;
        ensure!(out == heads * width, "writes {heads} heads of {width} to rows of {out}");
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let per_head = |s: Slice| (shapes.width(s.x) / self.heads) as u32;
        let b = self.b.unwrap_or(Slice { count: 0, ..self.a });
        let p = Params {
            heads: self.heads as u32,
            a_width: per_head(self.a),
            a_from: self.a.from as u32,
            a_count: self.a.count as u32,
            b_width: per_head(b),
            b_from: b.from as u32,
            b_count: b.count as u32,
        };
        let groups = [super::groups(shapes.width(self.out) as u32), 1, 1];
        Call::new(&SHADER, &p, groups, [self.a.x, b.x, self.out].map(Operand::Rows))
    }
}

impl PerRow for Columns {
    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        copy(self.heads, self.slices(from.reads), out);
    }

    fn row64(&self, _: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]) {
        copy(self.heads, self.slices(from.reads), out);
    }

    fn examples(width: usize) -> Vec<Op> {
        let (a, b) = (width / 4, width / 2 - width / 4);
        let slice = |x, from, count| Slice { x: BufferId(x), from, count };
        let both = Columns { heads: 2, a: slice(0, 0, a), b: Some(slice(1, 1, b)), out: BufferId(2) };
        if width.is_multiple_of(2) && a > 0 && b < width / 2 { vec![Op::Columns(both)] } else { Vec::new() }
    }
}
