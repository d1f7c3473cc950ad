//! Rotary position embedding (Su et al. 2021), in place, from a table of angles.

use super::shapes::{Angles, AnglesId, BufferId, Shapes, ensure};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row};
use crate::numerics::{ACTIVATION_FLOOR, flush, settle};
pub use crate::shaders::{ROPE as SHADER, params::Rope as Params};

/// Cosine and sine of every angle: `[position][pair][cos, sin]`.
///
/// Computed in f64 with the portable `libm`, multiplied by the table's magnitude and rounded once to f32, so it is the same on every
/// machine; what is smaller than 2^-24 is 0.
pub fn table(positions: usize, angles: &Angles) -> Vec<f32> {
    let Angles { frequencies, magnitude } = angles;
    let floor = f32::from_bits((127 - 24) << 23);
    let mut out = Vec::with_capacity(positions * frequencies.len() * 2);
    for position in 0..positions {
        for frequency in frequencies {
            let angle = position as f64 * frequency;
            out.push(flush((libm::cos(angle) * magnitude) as f32, floor));
            out.push(flush((libm::sin(angle) * magnitude) as f32, floor));
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

/// Rotates `x` in place: of every head as many pairs as the table has angles per position. `neox`: pairs are `(i, i + pairs)`, else
/// neighbours.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Rope {
    pub x: BufferId,
    pub head_dim: usize,
    pub angles: AnglesId,
    pub neox: bool,
}

impl Rope {
    fn params(&self, width: usize, pairs: usize) -> Params {
        let [width, head_dim, pairs] = [width, self.head_dim, pairs].map(|n| n as u32);
        Params { width, head_dim, pairs, neox: u32::from(self.neox) }
    }
}

impl Operation for Rope {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.x)
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn needs_every_row(&self) -> bool {
        true
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let (width, head_dim) = (shapes.float(self.x)?, self.head_dim);
        let Some(pairs) = shapes.angles.get(self.angles.0).map(|angles| angles.frequencies.len()) else {
            return Err(format!("uses the table of angles {} of {}", self.angles.0, shapes.angles.len()));
        };
        ensure!(head_dim > 0 && width.is_multiple_of(head_dim), "has rows of {width}, no whole heads of {head_dim}");
        ensure!(2 * pairs <= head_dim, "rotates {pairs} pairs of a head of {head_dim}");
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = self.params(shapes.width(self.x), shapes.angles[self.angles.0].frequencies.len());
        Call::new(&SHADER, &p, workgroups(&p, 1), [Operand::Angles(self.angles), Operand::Rows(self.x)])
    }
}

impl PerRow for Rope {
    fn angles(&self) -> Option<AnglesId> {
        Some(self.angles)
    }

    #[inline(always)]
    fn row(&self, _: &Shapes<'_>, from: Row<'_, f32>, x: &mut [f32]) {
        cpu(&self.params(x.len(), from.angles.len() / 2), from.angles, x);
    }

    fn row64(&self, shapes: &Shapes<'_>, from: Row<'_, f64>, x: &mut [f64]) {
        let (pairs, magnitude) = (from.angles.len(), shapes.angles[self.angles.0].magnitude);
        for head in x.chunks_exact_mut(self.head_dim) {
            for (pair, angle) in from.angles.iter().enumerate() {
                let (i, j) = if self.neox { (pair, pair + pairs) } else { (2 * pair, 2 * pair + 1) };
                let (sin, cos) = (magnitude * angle.sin(), magnitude * angle.cos());
                (head[i], head[j]) = (head[i] * cos - head[j] * sin, head[i] * sin + head[j] * cos);
            }
        }
    }

    fn examples(width: usize) -> Vec<Op> {
        let heads = [1, 2].into_iter().filter(|heads| width.is_multiple_of(4 * heads));
        let both = heads.flat_map(|heads| [(width / heads, false), (width / heads, true)]);
        both.map(|(head_dim, neox)| Op::Rope(Self { x: BufferId(0), head_dim, angles: AnglesId(0), neox })).collect()
    }
}
