//! Products with the matrices of models, by the kernels that models run with.

use std::sync::{Arc, Mutex};

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive};
use super::view::View;
use super::weight::Weight;
use crate::backend::gpu::Kernel;
use crate::numerics::Precision;
use crate::ops::quantize_activations::{self, Activations};
use crate::ops::shapes::{Buffer, BufferId, BufferKind, Shapes, WeightId};
use crate::ops::{self, Matmul, Operation, Part, QuantizeActivations, matmul};
use crate::plan;
use crate::quant::DOT_ROWS;

/// `y[.., n] = Σ w[n, k] x[.., k]`, as a layer of a model computes it in a precision ([`crate::ops::Matmul`]). `x` is `[rows, cols]`.
#[derive(Debug)]
pub(super) struct Linear {
    pub weight: Arc<Weight>,
    pub precision: Precision,
}

/// The buffers of the product: the rows, the rows as integers, the result.
const X: BufferId = BufferId(0);
const Q: BufferId = BufferId(1);
const OUT: BufferId = BufferId(2);

impl Linear {
    /// Calls `f` with the shapes of the product and its steps: the quantisation, if there is one, and the product.
    fn steps<T>(&self, f: impl FnOnce(&Shapes<'_>, Option<QuantizeActivations>, Matmul) -> T) -> T {
        let Weight { format, rows, cols, .. } = *self.weight;
        let block = format.activation_block();
        let kind = block.map_or(BufferKind::Float, BufferKind::Quantized);
        let buffer = |width, kind| Buffer { name: String::new(), width, kind, wanted: false };
        let buffers = [buffer(cols, BufferKind::Float), buffer(cols, kind), buffer(rows, BufferKind::Float)];
        let weights = [plan::Weight { name: self.weight.name.clone(), format, first: 0, rows, cols }];
        let precision = self.precision;
        let shapes = Shapes { precision, buffers: &buffers, weights: &weights, caches: &[], angles: &[] };
        let quantize = block.map(|_| QuantizeActivations { x: X, out: Q });
        let x = if block.is_some() { Q } else { X };
        f(&shapes, quantize, Matmul { weight: WeightId(0), bias: None, x, out: OUT })
    }
}

impl Primitive for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], domain: Domain<'_>) -> Result<(), Fault> {
        let Weight { format, rows: n, cols, .. } = *self.weight;
        let x: Vec<f32> = inputs[0].elements().map(f32::from_bits).collect();
        let x = Activations::new(x, cols, format, self.precision);
        let activations: Vec<_> = (0..x.x.len()).step_by(cols).map(|at| x.row(at, cols)).collect();
        // A task makes one row of the matrix for all rows of activations.
        let columns: Vec<Mutex<Vec<f32>>> = (0..n).map(|_| Mutex::default()).collect();
        domain.pool.run(n, |row| {
            let mut column = vec![0.0; activations.len()];
            for (xs, out) in activations.chunks(DOT_ROWS).zip(column.chunks_mut(DOT_ROWS)) {
                matmul::cpu(format, self.weight.row(row), xs, None, out);
            }
            if let Ok(mut place) = columns[row].lock() {
                *place = column;
            }
        });
        for (row, column) in columns.into_iter().enumerate() {
            let column = column.into_inner().unwrap_or_default();
            for (i, y) in column.into_iter().enumerate() {
                out[i * n + row] = y.to_bits();
            }
        }
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let Weight { rows: n, cols, .. } = *self.weight;
        let x: Vec<f64> = inputs[0].elements().collect();
        for row in 0..n {
            let words = self.weight.dequantized(row);
            let w: Vec<f64> = words.into_iter().map(|word| f64::from(f32::from_bits(word))).collect();
            for (i, x) in x.chunks_exact(cols).enumerate() {
                out[i * n + row] = ops::float64::dot(&w, x);
            }
        }
        Ok(())
    }

    fn scratch(&self, inputs: &[&View], _: &[usize]) -> Vec<usize> {
        let Some(block) = self.weight.format.activation_block() else { return Vec::new() };
        let rows = inputs[0].len() / self.weight.cols;
        vec![rows * quantize_activations::stride(self.weight.cols, block, self.precision)]
    }

    fn gpu(&self, inputs: &[&View], _: &[usize], _: u32) -> Vec<Dispatch> {
        let rows = inputs[0].len() / self.weight.cols;
        self.steps(|shapes, quantize, product| {
            let part = Part { row_base: 0, rows: self.weight.rows, first: 0, streams: self.weight.streams() };
            let call = |op: &dyn Operation| {
                let call = op.call(shapes, 0, &part);
                let bound = |operand: &ops::Operand| match operand {
                    ops::Operand::Rows(X) => Bound::Input(0),
                    ops::Operand::Rows(Q) => Bound::Scratch(0),
                    ops::Operand::Matrix => Bound::Matrix(Arc::clone(&self.weight)),
                    ops::Operand::Vector(_) => Bound::Words(vec![0; 4]),
                    _ => Bound::Out,
                };
                Dispatch {
                    kernel: Kernel::of(&call),
                    bindings: call.operands.iter().map(bound).collect(),
                    params: call.params,
                    groups: [call.groups, rows as u32, 1],
                    rows: rows as u32,
                    position: 0,
                }
            };
            quantize.iter().map(|op| call(op)).chain([call(&product)]).collect()
        })
    }
}
