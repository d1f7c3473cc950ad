//! Running sums along the last axis.

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid, stored};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::ops::THREADS;
use crate::shaders::{TENSOR_SCAN as SHADER, params::TensorScan as Params};

/// Each element is the sum of the one before it and its own term, from the first to the last of a line, and is stored before the next
/// is added.
#[derive(Debug)]
pub(super) struct Scan {
    pub integer: bool,
}

/// Adds up lines of `length` elements.
fn scan<T: Copy>(
    terms: impl Iterator<Item = T>,
    length: usize,
    zero: T,
    out: &mut [T],
    add: impl Fn(T, T) -> Result<T, Fault>,
) -> Result<(), Fault> {
    let mut sum = zero;
    for (i, (out, term)) in out.iter_mut().zip(terms).enumerate() {
        sum = add(if i % length == 0 { zero } else { sum }, term)?;
        *out = sum;
    }
    Ok(())
}

impl Primitive for Scan {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], shape: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        let length = shape.last().copied().unwrap_or(1);
        scan(inputs[0].elements(), length, 0, out, |sum, term| {
            if self.integer {
                return Ok(sum.wrapping_add(term));
            }
            stored(f32::from_bits(sum) + f32::from_bits(term))
        })
    }

    fn double(&self, inputs: &[Input<'_, f64>], shape: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let length = shape.last().copied().unwrap_or(1);
        scan(inputs[0].elements(), length, 0.0, out, |sum, term| Ok(sum + term))
    }

    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch> {
        let length = shape.last().copied().unwrap_or(1) as u32;
        let lines = shape.iter().product::<usize>() as u32 / length;
        let params = Params { lines, length, slot };
        let kernel = Kernel::new(&SHADER);
        vec![Dispatch {
            kernel: if self.integer { kernel.with("INTEGER", 1) } else { kernel },
            params: bytemuck::bytes_of(&params).to_vec(),
            groups: grid(lines.div_ceil(THREADS)),
            bindings: vec![Bound::Words(inputs[0].words().to_vec()), Bound::Faults, Bound::Input(0), Bound::Out],
            rows: 1,
            position: 0,
        }]
    }
}
