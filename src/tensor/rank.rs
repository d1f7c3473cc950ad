//! The places of the largest elements of each line.

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::ops::THREADS;
use crate::shaders::{TENSOR_RANK as SHADER, params::TensorRank as Params};

/// The places of the `best` largest elements along the last axis, the largest first; of equal ones, the first comes first.
#[derive(Debug)]
pub(super) struct Rank {
    pub best: usize,
    pub integer: bool,
}

impl Rank {
    /// Fills lines of `best` places by what `key` makes of the elements.
    fn fill<T: Copy, K: Ord, P>(
        &self,
        x: &Input<'_, T>,
        out: &mut [P],
        key: impl Fn(T) -> K,
        number: impl Fn(usize) -> P,
    ) {
        let length = x.view.shape.last().copied().unwrap_or(1);
        let elements: Vec<T> = x.elements().collect();
        for (line, out) in elements.chunks(length.max(1)).zip(out.chunks_mut(self.best.max(1))) {
            let mut places: Vec<usize> = (0..length).collect();
            places.sort_by_key(|&i| std::cmp::Reverse(key(line[i])));
            out.iter_mut().zip(places).for_each(|(out, place)| *out = number(place));
        }
    }
}

/// A word whose order as an integer is that of the f32.
fn ordered(word: u32) -> u32 {
    if word >> 31 != 0 { !word } else { word | 1 << 31 }
}

impl Primitive for Rank {
    fn name(&self) -> &'static str {
        "topk"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        let key = |word: u32| if self.integer { word ^ 1 << 31 } else { ordered(word) };
        self.fill(&inputs[0], out, key, |place| place as u32);
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let key = |x: f64| (x.to_bits() as i64) ^ (((x.to_bits() as i64) >> 63) as u64 >> 1) as i64;
        self.fill(&inputs[0], out, key, |place| place as f64);
        Ok(())
    }

    fn gpu(&self, inputs: &[&View], _: &[usize], slot: u32) -> Vec<Dispatch> {
        let count = inputs[0].len() as u32;
        let length = inputs[0].shape.last().copied().unwrap_or(1) as u32;
        let params = Params { lines: count / length, length, best: self.best as u32, slot };
        let kernel = Kernel::new(&SHADER);
        vec![Dispatch {
            kernel: if self.integer { kernel.with("INTEGER", 1) } else { kernel },
            params: bytemuck::bytes_of(&params).to_vec(),
            groups: grid(count.div_ceil(THREADS)),
            bindings: vec![Bound::Words(inputs[0].words().to_vec()), Bound::Faults, Bound::Input(0), Bound::Out],
            rows: 1,
            position: 0,
        }]
    }
}
