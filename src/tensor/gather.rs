//! Elements at indices along an axis.

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::ops::THREADS;
use crate::shaders::{TENSOR_GATHER as SHADER, params::TensorGather as Params};

/// Elements of operand 0, whose place along an axis is what operand 1 says. Both operands have the result's shape; operand 0 stands at
/// the first element of the axis, which has `length` elements, `stride` apart. A negative index counts from the end.
#[derive(Debug)]
pub(super) struct Gather {
    pub length: usize,
    pub stride: isize,
}

impl Gather {
    fn pick<T: Copy>(&self, inputs: &[Input<'_, T>], out: &mut [T], number: impl Fn(T) -> i64) -> Result<(), Fault> {
        let (x, indices) = (&inputs[0], &inputs[1]);
        let n = self.length as i64;
        for ((out, place), index) in out.iter_mut().zip(x.view.places()).zip(indices.elements()) {
            let index = number(index);
            let from_end = if index < 0 { index + n } else { index };
            if !(0..n).contains(&from_end) {
                return Err(Fault::OutOfRange);
            }
            *out = x.buffer[(place as isize + from_end as isize * self.stride) as usize];
        }
        Ok(())
    }
}

impl Primitive for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        self.pick(inputs, out, |word| i64::from(word as i32))
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        self.pick(inputs, out, |number| number as i64)
    }

    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch> {
        let count = shape.iter().product::<usize>() as u32;
        let params = Params { count, length: self.length as u32, stride: self.stride as u32, slot };
        let views = [inputs[0].words(), inputs[1].words()].concat();
        vec![Dispatch {
            kernel: Kernel::new(&SHADER),
            params: bytemuck::bytes_of(&params).to_vec(),
            groups: grid(count.div_ceil(THREADS)),
            bindings: vec![Bound::Words(views), Bound::Faults, Bound::Input(0), Bound::Input(1), Bound::Out],
            rows: 1,
            position: 0,
        }]
    }
}
