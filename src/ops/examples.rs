//! Examples of ops that are computed row by row, and of ways to score, for everybody who compares a device with the CPU functions.

use super::attention::Scoring;
use super::shapes::{Angles, Buffer, BufferId, BufferKind, CacheSpec, Shapes, Weight, WeightId};
use super::{Call, Op, Operand, Part, PerRow, Row, rope};
use crate::numerics::Precision;
use crate::quant::format_by_name;

/// A dispatch and the words it must give.
#[derive(Clone, Debug)]
pub struct Example {
    /// The dispatch.
    pub call: Call,
    /// The words of its operands, in order.
    pub operands: Vec<Vec<u32>>,
    /// Which operand is the result.
    pub out: usize,
    /// What that must hold.
    pub expected: Vec<u32>,
}

/// Examples of all these ops for `rows` rows of `width` elements, the first of them at `position`; `floats` gives numbers.
pub fn examples(
    width: usize,
    rows: usize,
    position: usize,
    floats: &mut dyn FnMut(usize) -> Vec<f32>,
) -> Vec<(Op, Example)> {
    examples_by(width, rows, position, floats, &|op, shapes, from, out| op.row(shapes, from, out))
}

/// A function of a row: [`Op::row`], or what has the same bits.
pub(crate) type Compute<'a> = &'a dyn Fn(&Op, &Shapes<'_>, Row<'_, f32>, &mut [f32]);

/// The same with what `compute` makes of every row.
pub(crate) fn examples_by(
    width: usize,
    rows: usize,
    position: usize,
    floats: &mut dyn FnMut(usize) -> Vec<f32>,
    compute: Compute<'_>,
) -> Vec<(Op, Example)> {
    let Some(format) = format_by_name("F32") else { return Vec::new() };
    let buffer = |name: &str| Buffer { name: name.to_owned(), width, kind: BufferKind::Float, wanted: false };
    let buffers = ["a", "b", "out"].map(buffer);
    let vector = |cols| Weight { name: "vector".to_owned(), format, first: 0, rows: 1, cols };
    let weights = [vector(width), vector(width / 2)];
    let angles = [Angles {
        frequencies: (0..width / 4).map(|i| 0.9f64.powi(i as i32)).collect(),
        magnitude: 1.0 + width as f64 / 9.0,
    }];
    let shapes =
        Shapes { precision: Precision::Fast, buffers: &buffers, weights: &weights, caches: &[], angles: &angles };
    let values = [floats(width * rows), floats(width * rows), vec![0.0; width * rows]];
    let vector = floats(width);
    let table = rope::table(position + rows, &angles[0]);
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let example = |op: Op| {
        let call = op.call(&shapes, position + rows, &Part::default());
        let result = op.output()?;
        let words = |operand: &Operand| match *operand {
            Operand::Rows(BufferId(id)) => bits(&values[id]),
            Operand::Vector(Some(WeightId(id))) => bits(&vector[..weights[id].cols]),
            Operand::Angles(_) => bits(&table),
            _ => vec![0; 4],
        };
        let operands: Vec<_> = call.operands.iter().map(words).collect();
        let out = call.operands.iter().position(|o| *o == Operand::Rows(result))?;
        let mut expected = values[result.0].clone();
        let reads = op.per_row()?.reads().map(|id| id.filter(|id| *id != result));
        for (row, expected) in expected.chunks_mut(width).enumerate() {
            let reads = reads.map(|id| id.map_or(&[][..], |id| &values[id.0][row * width..][..width]));
            let pairs = 2 * angles[0].frequencies.len();
            let cols = op.per_row().and_then(PerRow::vector).map_or(0, |id| weights[id.0].cols);
            let from = Row { reads, vector: &vector[..cols], angles: &table[(position + row) * pairs..][..pairs] };
            compute(&op, &shapes, from, expected);
        }
        let expected = bits(&expected);
        Some((op, Example { call, operands, out, expected }))
    };
    Op::examples(width).into_iter().filter_map(example).collect()
}

/// A way to score and a cache for it, by a number: windows shorter and longer than a cache of `context` positions, caps, scores without
/// a value (which are weight 0), and all of them together.
pub fn scoring(number: u32, kv_heads: usize, head_dim: usize, context: usize) -> (CacheSpec, Scoring) {
    let windows = [None, Some(1), Some(context / 2 + 1), Some(context + 1)];
    let window = windows[(number % 4) as usize];
    let cap = [None, Some(30.0), Some(0.5)][(number / 4 % 3) as usize];
    let sinks = (number / 12).is_multiple_of(2).then_some(WeightId(0));
    let divisor = if number.is_multiple_of(5) { 3.0 } else { (head_dim as f64).sqrt() };
    (CacheSpec { kv_heads, head_dim, window }, Scoring { divisor, cap, sinks })
}
