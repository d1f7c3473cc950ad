//! Examples of every op for everybody who compares a device with the CPU functions: dispatches and the words they must give. Each op
//! has its own in its file; here is what they are made with.

use super::attention::Scoring;
use super::shapes::{Angles, Buffer, BufferId, BufferKind, CacheSpec, Shapes, Weight, WeightId};
use super::{Call, Op, Operand, Operation, Part, PerRow, Row, rope};
use crate::numerics::Precision;
use crate::quant::{CHUNK, Format, format_by_name};

/// A dispatch and the words it must give.
#[derive(Clone, Debug)]
pub struct Example {
    /// The dispatch.
    pub call: Call,
    /// Rows of the batch, the first of them at this position.
    pub rows: usize,
    /// The first row's position.
    pub position: usize,
    /// The shapes of its operands, for reports.
    pub shape: String,
    /// The words of its operands, in order.
    pub operands: Vec<Vec<u32>>,
    /// Which operand is the result.
    pub out: usize,
    /// What that must hold.
    pub expected: Vec<u32>,
}

/// Gives so many numbers.
pub type Floats<'a> = &'a mut dyn FnMut(usize) -> Vec<f32>;

/// Examples of every op: those of each op's file, and of ops that are computed row by row rows of odd and even sizes.
pub fn all(floats: Floats<'_>) -> Vec<Example> {
    let mut all = Vec::new();
    for (width, rows) in [(1, 2), (31, 2), (64, 2), (257, 3), (2080, 1)] {
        all.extend(per_row(width, rows, 37, floats).into_iter().map(|(_, example)| example));
    }
    all.extend(Op::whole_examples(floats));
    all
}

/// What the operands of an example hold.
#[derive(Default)]
pub(super) struct Scene {
    pub precision: Precision,
    pub buffers: Vec<(Buffer, Vec<u32>)>,
    /// Vectors; of a matrix the words stand in `matrix`.
    pub weights: Vec<(Weight, Vec<u32>)>,
    pub matrix: (Part, Vec<u32>),
    pub cache: Option<(CacheSpec, [Vec<u32>; 2])>,
    pub ids: Vec<u32>,
    pub wanted: Vec<u32>,
    /// Words of attention's scores.
    pub scores: usize,
}

impl Scene {
    /// A buffer of f32 that holds these rows.
    pub fn floats(&mut self, width: usize, rows: &[f32]) -> BufferId {
        self.rows(width, BufferKind::Float, bits(rows))
    }

    /// A buffer that holds these words.
    pub fn rows(&mut self, width: usize, kind: BufferKind, words: Vec<u32>) -> BufferId {
        let name = self.buffers.len().to_string();
        self.buffers.push((Buffer { name, width, kind, wanted: false }, words));
        BufferId(self.buffers.len() - 1)
    }

    /// A vector.
    pub fn vector(&mut self, values: &[f32]) -> Option<WeightId> {
        let format = format_by_name("F32")?;
        let weight = Weight { name: "vector".to_owned(), format, first: 0, rows: 1, cols: values.len() };
        self.weights.push((weight, bits(values)));
        Some(WeightId(self.weights.len() - 1))
    }

    /// The matrix.
    pub fn matrix(&mut self, matrix: &Matrix) -> WeightId {
        let &Matrix { format, rows, cols, .. } = matrix;
        self.matrix = (Part { row_base: 0, rows, first: 0, streams: matrix.streams }, matrix.stored.clone());
        self.weights.push((Weight { name: "matrix".to_owned(), format, first: 0, rows, cols }, Vec::new()));
        WeightId(self.weights.len() - 1)
    }

    /// The op in this scene, for `rows` rows from `position` on, over a cache of `context` positions; `result` is what it makes.
    pub fn example(
        &self,
        op: &dyn Operation,
        [rows, position, context]: [usize; 3],
        shape: String,
        (result, expected): (Operand, Vec<u32>),
    ) -> Option<Example> {
        let (buffers, weights): (Vec<_>, Vec<_>) =
            (self.buffers.iter().map(|b| b.0.clone()).collect(), self.weights.iter().map(|w| w.0.clone()).collect());
        let caches: Vec<_> = self.cache.iter().map(|c| c.0).collect();
        let shapes =
            Shapes { precision: self.precision, buffers: &buffers, weights: &weights, caches: &caches, angles: &[] };
        let call = op.call(&shapes, context, &self.matrix.0);
        let cached = |i: usize| self.cache.as_ref().map_or_else(Vec::new, |c| c.1[i].clone());
        let words = |operand: &Operand| match *operand {
            Operand::Rows(BufferId(id)) => self.buffers[id].1.clone(),
            Operand::Vector(Some(WeightId(id))) => self.weights[id].1.clone(),
            Operand::Matrix => self.matrix.1.clone(),
            Operand::Keys(_) => cached(0),
            Operand::Values(_) => cached(1),
            Operand::Ids => self.ids.clone(),
            Operand::Wanted => self.wanted.clone(),
            Operand::Scores => vec![0; self.scores],
            Operand::Vector(None) | Operand::Angles(_) => vec![0; 4],
        };
        let operands = call.operands.iter().map(words).collect();
        let out = call.operands.iter().position(|o| *o == result)?;
        Some(Example { call, rows, position, shape, operands, out, expected })
    }
}

/// A matrix of random numbers, as a file has it and as a GPU.
pub(super) struct Matrix {
    pub format: &'static Format,
    pub rows: usize,
    pub cols: usize,
    raw: Vec<u8>,
    stored: Vec<u32>,
    streams: [u32; 4],
}

impl Matrix {
    pub fn random(floats: Floats<'_>, format: &'static Format, rows: usize, cols: usize) -> Self {
        let mut raw = vec![0u8; rows * format.row_bytes(cols)];
        let numbers: Vec<f32> = floats(rows * cols).iter().map(|x| x.clamp(-60.0, 60.0)).collect();
        format.quantize(&numbers, &mut raw);
        let (mut stored, streams) = format.split(&raw);
        stored.resize(stored.len().next_multiple_of(16) + 16, 0);
        let stored = stored.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Self { format, rows, cols, raw, stored, streams }
    }

    /// The bytes of a row.
    pub fn row(&self, n: usize) -> &[u8] {
        let bytes = self.format.row_bytes(self.cols);
        &self.raw[n * bytes..][..bytes]
    }
}

/// Columns of example matrices of a format: blocks of activations, or an odd number of plain numbers.
pub(super) fn columns(format: &Format, blocks: usize) -> usize {
    format.activation_block().map_or(2 * CHUNK + 10, |block| blocks * block)
}

/// The bits of numbers.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Examples of ops that are computed row by row, for `rows` rows of `width` elements, the first of them at `position`.
pub fn per_row(width: usize, rows: usize, position: usize, floats: Floats<'_>) -> Vec<(Op, Example)> {
    per_row_by(width, rows, position, floats, &|op, shapes, from, out| op.row(shapes, from, out))
}

/// A function of a row: [`Op::row`], or what has the same bits.
pub(crate) type Compute<'a> = &'a dyn Fn(&Op, &Shapes<'_>, Row<'_, f32>, &mut [f32]);

/// The same with what `compute` makes of every row.
pub(crate) fn per_row_by(
    width: usize,
    rows: usize,
    position: usize,
    floats: Floats<'_>,
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
        let shape = format!("[{rows}, {width}]");
        Some((op, Example { call, rows, position, shape, operands, out, expected }))
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
    (CacheSpec { kv_heads, head_dim, window, ring: None }, Scoring { divisor, cap, sinks })
}
