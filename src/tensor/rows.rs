//! Functions of rows, by the kernels that models run with: softmax, RMSNorm, RoPE.

use super::map::copied;
use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::ops::shapes::{Angles, AnglesId, Buffer, BufferId, BufferKind, Shapes, WeightId};
use crate::ops::{Op, Operand, Part, PerRow, Row, rope, softmax};
use crate::plan::Weight;
use crate::quant::Format;

/// Softmax along the last axis, in base 2 ([`crate::ops::softmax`]).
#[derive(Debug)]
pub(super) struct Softmax;

impl Primitive for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], shape: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        let width = shape.last().copied().unwrap_or(1);
        let x: Vec<f32> = inputs[0].elements().map(f32::from_bits).collect();
        let mut row = vec![0.0; width];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            softmax::cpu(x, &mut row);
            out.iter_mut().zip(&row).for_each(|(out, x)| *out = x.to_bits());
        }
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], shape: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let width = shape.last().copied().unwrap_or(1);
        let x: Vec<f64> = inputs[0].elements().collect();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|x| (x - top).exp()).sum();
            out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - top).exp() / sum);
        }
        Ok(())
    }

    fn gpu(&self, _: &[&View], shape: &[usize], _: u32) -> Vec<Dispatch> {
        let width = shape.last().copied().unwrap_or(1);
        let rows = (shape.iter().product::<usize>() / width) as u32;
        let params = softmax::Params { width: width as u32 };
        vec![Dispatch {
            kernel: Kernel::new(&softmax::SHADER),
            params: bytemuck::bytes_of(&params).to_vec(),
            groups: softmax::workgroups(&params, rows),
            bindings: vec![Bound::Input(0), Bound::Out],
            rows,
            position: 0,
        }]
    }
}

/// An op of models that is computed row by row: it reads operand 0, and of vectors operand 1. The rows are those of the last axis.
#[derive(Debug)]
pub(super) struct Rows {
    /// It reads buffer 0, or changes it in place, and writes buffer 1 otherwise.
    pub op: Op,
    /// Elements of the vector, if there is one.
    pub vector: usize,
    /// The table of angles, if there is one, and the position of the first row in it.
    pub angles: Option<Angles>,
    pub position: usize,
    pub format: &'static Format,
}

impl Rows {
    /// Calls `f` with the op, its shapes and rows of so many elements.
    fn with<T>(&self, width: usize, f: impl FnOnce(&dyn PerRow, &Shapes<'_>) -> T) -> Option<T> {
        let buffer = || Buffer { name: String::new(), width, kind: BufferKind::Float, wanted: false };
        let weight = Weight { name: String::new(), format: self.format, first: 0, rows: 1, cols: self.vector };
        let angles: Vec<Angles> = self.angles.iter().cloned().collect();
        let shapes = Shapes {
            precision: Default::default(),
            buffers: &[buffer(), buffer()],
            weights: &[weight],
            caches: &[],
            angles: &angles,
        };
        self.op.per_row().map(|op| f(op, &shapes))
    }

    /// Computes every row: `compute` gets the row of operand 0, the vector, the position and the result, which holds the row already.
    fn each<T: Copy>(
        &self,
        inputs: &[Input<'_, T>],
        width: usize,
        out: &mut [T],
        mut compute: impl FnMut(&[T], &[T], usize, &mut [T]),
    ) {
        let vector: Vec<T> = inputs.get(1).map_or_else(Vec::new, |w| w.elements().collect());
        let x: Vec<T> = inputs[0].elements().collect();
        for (i, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            out.copy_from_slice(x);
            compute(x, &vector, self.position + i, out);
        }
    }
}

impl Primitive for Rows {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], shape: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        let width = shape.last().copied().unwrap_or(1);
        let rows = out.len() / width;
        let table = self.angles.as_ref().map_or_else(Vec::new, |angles| rope::table(self.position + rows, angles));
        let numbers = |words: &[u32]| words.iter().map(|word| f32::from_bits(*word)).collect::<Vec<_>>();
        self.with(width, |op, shapes| {
            self.each(inputs, width, out, |x, vector, position, out| {
                let (x, vector, mut row) = (numbers(x), numbers(vector), numbers(out));
                let turned = self.angles.as_ref().map_or(&[][..], |angles| {
                    let words = 2 * angles.frequencies.len();
                    &table[position * words..][..words]
                });
                op.row(shapes, Row { reads: [&x, &[]], vector: &vector, angles: turned }, &mut row);
                out.iter_mut().zip(row).for_each(|(out, x)| *out = x.to_bits());
            });
        });
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], shape: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let width = shape.last().copied().unwrap_or(1);
        self.with(width, |op, shapes| {
            self.each(inputs, width, out, |x, vector, position, out| {
                let angles = self.angles.iter().flat_map(|a| a.frequencies.iter().map(|f| position as f64 * f));
                let angles: Vec<f64> = angles.collect();
                op.row64(shapes, Row { reads: [x, &[]], vector, angles: &angles }, out);
            });
        });
        Ok(())
    }

    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch> {
        let width = shape.last().copied().unwrap_or(1);
        let rows = (shape.iter().product::<usize>() / width) as u32;
        let table = self.angles.as_ref().map(|angles| rope::table(self.position + rows as usize, angles));
        let dispatch = self.with(width, |op, shapes| {
            let call = op.call(shapes, self.position + rows as usize, &Part::default());
            let in_place = op.is_in_place();
            let bound = |operand: &Operand| match operand {
                Operand::Rows(BufferId(0)) if !in_place => Bound::Input(0),
                Operand::Vector(Some(WeightId(0))) => Bound::Input(1),
                Operand::Angles(AnglesId(0)) => Bound::Words(table.iter().flatten().map(|x| x.to_bits()).collect()),
                _ => Bound::Out,
            };
            Dispatch {
                kernel: Kernel::new(call.shader),
                bindings: call.operands.iter().map(bound).collect(),
                params: call.params,
                groups: [call.groups, rows, 1],
                rows,
                position: self.position as u32,
            }
        });
        let before = if self.op.is_in_place() { copied(inputs[0], slot) } else { None };
        before.into_iter().chain(dispatch).collect()
    }
}
