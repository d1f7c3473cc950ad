//! Sums, largest and smallest elements, and their places, over some axes.

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid, stored};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::numerics::s8;
use crate::shaders::{TENSOR_REDUCE as SHADER, params::TensorReduce as Params};

/// What becomes of the elements; the numbers are those of `wgsl/tensor/reduce.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub(super) enum Reduction {
    Sum,
    Max,
    Min,
    ArgMax,
    ArgMin,
}

/// Reduces the axes `axes` of its operand; the result has the others, in order. Sums of f32 are S8 in blocks of 32 and S8 over the
/// blocks' sums, over the elements in row-major order; those of i32 wrap. Of equal elements the first is chosen.
#[derive(Debug)]
pub(super) struct Reduce {
    pub reduction: Reduction,
    pub axes: Vec<usize>,
    pub integer: bool,
}

impl Reduce {
    /// The views of the axes that stay and of those that do not.
    fn split(&self, view: &View) -> (View, View) {
        let kept: Vec<usize> = (0..view.shape.len()).filter(|axis| !self.axes.contains(axis)).collect();
        (view.part(&kept), View { offset: 0, ..view.part(&self.axes) })
    }

    /// The word that the words of some elements, which are compared by `key`, become.
    fn word<K: PartialOrd>(&self, elements: impl Iterator<Item = u32>, key: impl Fn(u32) -> K) -> u32 {
        let largest = matches!(self.reduction, Reduction::Max | Reduction::ArgMax);
        let better = |a: u32, b: u32| if largest { key(a) > key(b) } else { key(a) < key(b) };
        let best = elements.enumerate().reduce(|best, next| if better(next.1, best.1) { next } else { best });
        let (place, word) = best.unwrap_or_default();
        if matches!(self.reduction, Reduction::ArgMax | Reduction::ArgMin) { place as u32 } else { word }
    }
}

impl Primitive for Reduce {
    fn name(&self) -> &'static str {
        match self.reduction {
            Reduction::Sum => "sum",
            Reduction::Max => "max",
            Reduction::Min => "min",
            Reduction::ArgMax => "argmax",
            Reduction::ArgMin => "argmin",
        }
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        let x = &inputs[0];
        let (outer, inner) = self.split(x.view);
        for (out, base) in out.iter_mut().zip(outer.places()) {
            let terms = View { offset: base, ..inner.clone() };
            let elements = x.through(&terms).elements();
            *out = match (self.reduction, self.integer) {
                (Reduction::Sum, true) => elements.fold(0, u32::wrapping_add),
                (Reduction::Sum, false) => stored(s8::sum(elements.map(f32::from_bits)))?,
                (_, true) => self.word(elements, |word| word as i32),
                (_, false) => self.word(elements, f32::from_bits),
            };
        }
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let x = &inputs[0];
        let (outer, inner) = self.split(x.view);
        for (out, base) in out.iter_mut().zip(outer.places()) {
            let terms = View { offset: base, ..inner.clone() };
            let elements = x.through(&terms).elements();
            let largest = matches!(self.reduction, Reduction::Max | Reduction::ArgMax);
            let better = |a: f64, b: f64| if largest { a > b } else { a < b };
            let best = |elements: &mut dyn Iterator<Item = f64>| {
                elements.enumerate().reduce(|best, next| if better(next.1, best.1) { next } else { best })
            };
            *out = match self.reduction {
                Reduction::Sum => elements.sum(),
                Reduction::Max | Reduction::Min => best(&mut { elements }).map_or(0.0, |b| b.1),
                Reduction::ArgMax | Reduction::ArgMin => best(&mut { elements }).map_or(0.0, |b| b.0 as f64),
            };
        }
        Ok(())
    }

    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch> {
        let (outer, inner) = self.split(inputs[0]);
        let count = shape.iter().product::<usize>() as u32;
        let params = Params { count, terms: inner.len() as u32, slot };
        let views = [outer.words(), inner.words()].concat();
        let kernel = Kernel::new(&SHADER).with("REDUCTION", self.reduction as u32);
        vec![Dispatch {
            kernel: if self.integer { kernel.with("INTEGER", 1) } else { kernel },
            params: bytemuck::bytes_of(&params).to_vec(),
            groups: grid(count),
            bindings: vec![Bound::Words(views), Bound::Faults, Bound::Input(0), Bound::Out],
            rows: 1,
            position: 0,
        }]
    }
}
