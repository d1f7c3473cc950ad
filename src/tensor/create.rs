//! Tensors from numbers, and views of tensors.

use std::rc::Rc;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::graph::Node;
use super::map::{Concat, Function, Map};
use super::view::{View, count};
use super::weight::Weight;
use super::{Dtype, MAX_AXES, Space, Tensor, TensorError};
use crate::gguf::Gguf;
use crate::numerics::settle;
use crate::quant::Format;

impl Space {
    fn constant(&self, words: Vec<u32>, shape: &[usize], dtype: Dtype) -> Result<Tensor, TensorError> {
        if shape.len() > MAX_AXES {
            return Err(TensorError::shape(format!("{shape:?} has more than {MAX_AXES} axes")));
        }
        self.0.check_size("tensor", dtype, shape)?;
        if count(shape) != Some(words.len()) {
            return Err(TensorError::shape(format!("{} elements do not make {shape:?}", words.len())));
        }
        Ok(Node::constant(&self.0, words, shape, dtype))
    }

    /// A tensor of f32, in row-major order. Magnitudes below 2^-100 become 0.
    ///
    /// # Errors
    /// If the shape has another number of elements, or one is infinite or not a number.
    pub fn tensor(&self, shape: &[usize], elements: &[f32]) -> Result<Tensor, TensorError> {
        if let Some(bad) = elements.iter().find(|x| !x.is_finite()) {
            return Err(TensorError::shape(format!("{bad} is no element of a tensor: only finite numbers are")));
        }
        self.constant(elements.iter().map(|x| settle(*x).to_bits()).collect(), shape, Dtype::F32)
    }

    /// A tensor of i32, in row-major order.
    ///
    /// # Errors
    /// If the shape has another number of elements.
    pub fn integers(&self, shape: &[usize], elements: &[i32]) -> Result<Tensor, TensorError> {
        self.constant(elements.iter().map(|x| *x as u32).collect(), shape, Dtype::I32)
    }

    /// One f32, `[]`; infinity and what is no number become an error of the first op that meets them.
    pub fn scalar(&self, x: f32) -> Tensor {
        Node::constant(&self.0, vec![settle(x).to_bits()], &[], Dtype::F32)
    }

    /// One i32, `[]`.
    pub fn integer(&self, x: i32) -> Tensor {
        Node::constant(&self.0, vec![x as u32], &[], Dtype::I32)
    }

    /// The same number everywhere.
    ///
    /// # Errors
    /// If the shape is too large.
    pub fn full(&self, shape: &[usize], x: f32) -> Result<Tensor, TensorError> {
        self.scalar(x).broadcast_to(shape)
    }

    /// `0, 1, … n - 1` as i32.
    ///
    /// # Errors
    /// If there are too many.
    pub fn arange(&self, n: usize) -> Result<Tensor, TensorError> {
        self.0.check_size("arange", Dtype::I32, &[n])?;
        self.constant((0..n as u32).collect(), &[n], Dtype::I32)
    }

    /// Numbers from 0 up to 1, multiples of 2^-24: the words of ChaCha8 with this seed, in order, shifted right by 8.
    ///
    /// # Errors
    /// If the shape is too large.
    pub fn random(&self, shape: &[usize], seed: u64) -> Result<Tensor, TensorError> {
        self.0.check_size("random", Dtype::F32, shape)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut number = || ((random.next_u32() >> 8) as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
        let n = count(shape).unwrap_or(0);
        self.constant((0..n).map(|_| number()).collect(), shape, Dtype::F32)
    }

    /// A tensor of a model's file. [`Tensor::linear`] multiplies with it in its format; every other op takes its numbers as f32.
    ///
    /// # Errors
    /// If the file has no such tensor, or its format is none that kernels read.
    pub fn weight(&self, gguf: &Arc<Gguf>, name: &str) -> Result<Tensor, TensorError> {
        let (weight, shape) = Weight::open(gguf, name)?;
        self.of_weight(weight, &shape)
    }

    fn of_weight(&self, weight: Weight, shape: &[usize]) -> Result<Tensor, TensorError> {
        if shape.len() > MAX_AXES {
            return Err(TensorError::shape(format!("{shape:?} has more than {MAX_AXES} axes")));
        }
        Ok(Node::of_weight(&self.0, weight, shape))
    }
}

/// An axis by its number; negative ones count from the last on.
pub(super) fn axis_of(axis: isize, axes: usize) -> Result<usize, TensorError> {
    let from_end = if axis < 0 { axis + axes as isize } else { axis };
    match usize::try_from(from_end) {
        Ok(at) if at < axes => Ok(at),
        _ => Err(TensorError::shape(format!("axis {axis} of a tensor with {axes} axes"))),
    }
}

impl Tensor {
    pub(super) fn with(&self, view: View) -> Self {
        Self { node: Rc::clone(&self.node), view }
    }

    /// Its elements one behind the other in a buffer of their own, if they are not yet.
    pub(super) fn compact(&self) -> Result<Self, TensorError> {
        if self.view.offset == 0 && self.view.is_contiguous() && self.view.len() == self.node.len() {
            return Ok(self.with(View::whole(self.shape())));
        }
        let function = if self.dtype() == Dtype::F16 { Function::Half } else { Function::Copy };
        Node::of(Map(function), vec![self.clone()], self.shape().to_vec(), self.dtype())
    }

    /// The same elements, in row-major order, in another shape. One axis may be -1: it takes what is left.
    ///
    /// # Errors
    /// If the shape has another number of elements.
    pub fn reshape(&self, shape: &[isize]) -> Result<Self, TensorError> {
        let refuse = || TensorError::shape(format!("cannot reshape {:?} to {shape:?}", self.shape()));
        let mut wanted = Vec::new();
        let known = shape.iter().filter(|n| **n != -1).map(|n| *n as usize);
        let known = count(&known.collect::<Vec<_>>()).ok_or_else(refuse)?;
        for &n in shape {
            wanted.push(match n {
                -1 if known > 0 && self.view.len().is_multiple_of(known) => self.view.len() / known,
                _ => usize::try_from(n).map_err(|_| refuse())?,
            });
        }
        let free = shape.iter().filter(|n| **n == -1).count();
        if free > 1 || shape.len() > MAX_AXES || count(&wanted) != Some(self.view.len()) {
            return Err(refuse());
        }
        match self.view.reshaped(&wanted) {
            Some(view) => Ok(self.with(view)),
            None => Ok(self.compact()?.with(View::whole(&wanted))),
        }
    }

    /// The axes in another order.
    ///
    /// # Errors
    /// If `axes` does not name every axis once.
    pub fn permute(&self, axes: &[isize]) -> Result<Self, TensorError> {
        let axes = axes.iter().map(|axis| axis_of(*axis, self.shape().len()));
        Ok(self.with(self.view.permuted(&axes.collect::<Result<Vec<_>, _>>()?)?))
    }

    /// Two axes exchanged.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn transpose(&self, a: isize, b: isize) -> Result<Self, TensorError> {
        let axes = self.shape().len();
        let mut order: Vec<usize> = (0..axes).collect();
        order.swap(axis_of(a, axes)?, axis_of(b, axes)?);
        Ok(self.with(self.view.permuted(&order)?))
    }

    /// Elements `start`, `start + step`, … before `end` along an axis, by Python's rules: negative places count from the end, those beyond
    /// an end are that end.
    ///
    /// # Errors
    /// If there is no such axis, or the step is 0.
    pub fn slice(
        &self,
        axis: isize,
        start: Option<isize>,
        end: Option<isize>,
        step: isize,
    ) -> Result<Self, TensorError> {
        let axis = axis_of(axis, self.shape().len())?;
        let n = self.shape()[axis] as isize;
        if step == 0 {
            return Err(TensorError::shape("slice: the step is 0"));
        }
        let (lowest, highest) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let place = |at: isize| (if at < 0 { at + n } else { at }).clamp(lowest, highest);
        let start = start.map_or(if step > 0 { lowest } else { highest }, place);
        let end = end.map_or(if step > 0 { highest } else { lowest }, place);
        let length = if step > 0 { end - start } else { start - end };
        let taken = (length.max(0) as usize).div_ceil(step.unsigned_abs());
        Ok(self.with(self.view.sliced(axis, start.max(0) as usize, taken, step)))
    }

    /// One element of an axis, which is gone.
    ///
    /// # Errors
    /// If there is no such axis or element.
    pub fn select(&self, axis: isize, index: isize) -> Result<Self, TensorError> {
        let at = axis_of(axis, self.shape().len())?;
        let n = self.shape()[at] as isize;
        let from_end = if index < 0 { index + n } else { index };
        if !(0..n).contains(&from_end) {
            return Err(TensorError::shape(format!("index {index} of an axis of {n}")));
        }
        let one = self.view.sliced(at, from_end as usize, 1, 1);
        let rest: Vec<usize> = (0..one.shape.len()).filter(|axis| *axis != at).collect();
        Ok(self.with(one.part(&rest)))
    }

    /// Repeated to a shape by NumPy's rule.
    ///
    /// # Errors
    /// If an axis has another length than the shape, and is not 1.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self, TensorError> {
        if shape.len() > MAX_AXES {
            return Err(TensorError::shape(format!("{shape:?} has more than {MAX_AXES} axes")));
        }
        self.node.machine.check_size("broadcast_to", self.dtype(), shape)?;
        Ok(self.with(self.view.broadcast_to(shape)?))
    }

    /// Without an axis of one element.
    ///
    /// # Errors
    /// If there is no such axis, or it has other than one element.
    pub fn squeeze(&self, axis: isize) -> Result<Self, TensorError> {
        let at = axis_of(axis, self.shape().len())?;
        if self.shape()[at] != 1 {
            return Err(TensorError::shape(format!("squeeze: axis {axis} of {:?} is not 1", self.shape())));
        }
        let rest: Vec<usize> = (0..self.shape().len()).filter(|axis| *axis != at).collect();
        Ok(self.with(self.view.part(&rest)))
    }

    /// With an axis of one element before axis `axis`.
    ///
    /// # Errors
    /// If there is no such place, or too many axes.
    pub fn unsqueeze(&self, axis: isize) -> Result<Self, TensorError> {
        let at = axis_of(axis, self.shape().len() + 1)?;
        if self.shape().len() == MAX_AXES {
            return Err(TensorError::shape(format!("a tensor has {MAX_AXES} axes at most")));
        }
        let mut view = self.view.clone();
        view.shape.insert(at, 1);
        view.strides.insert(at, 0);
        Ok(self.with(view))
    }

    /// Tensors one behind the other along an axis.
    ///
    /// # Errors
    /// If they differ in another axis or in type, or there are none.
    pub fn concat(tensors: &[&Self], axis: isize) -> Result<Self, TensorError> {
        let Some(first) = tensors.first() else { return Err(TensorError::shape("concat: no tensors")) };
        let axis = axis_of(axis, first.shape().len())?;
        let mut shape = first.shape().to_vec();
        shape[axis] = 0;
        for tensor in tensors {
            let mut other = tensor.shape().to_vec();
            let n = other.get_mut(axis).map(|n| std::mem::replace(n, shape[axis]));
            if other != shape || tensor.dtype() != first.dtype() {
                let (a, b) = (first.shape(), tensor.shape());
                let types = [first.dtype(), tensor.dtype()];
                let message = format!("concat along axis {axis}: {} {a:?} and {} {b:?} do not fit", types[0], types[1]);
                return Err(TensorError::shape(message));
            }
            shape[axis] += n.unwrap_or(0);
        }
        let operands = tensors.iter().map(|t| (*t).clone()).collect();
        Node::of(Concat { axis }, operands, shape, first.computed())?.stored_as(first.dtype())
    }

    /// Its numbers in a weight format, for [`Self::linear`]; `[.., cols]`.
    ///
    /// # Errors
    /// If the last axis is no whole number of blocks; what went wrong with an op that had to run for it.
    pub fn quantize(&self, format: &'static Format) -> Result<Self, TensorError> {
        let cols = self.shape().last().copied().unwrap_or(0);
        if cols == 0 || !cols.is_multiple_of(format.block) {
            let (name, block) = (format.name, format.block);
            return Err(TensorError::shape(format!("quantize: rows of {cols} are no blocks of {block} ({name})")));
        }
        let rows = self.view.len() / cols;
        self.space().of_weight(Weight::quantized(format, &self.to_vec()?, rows, cols), self.shape())
    }
}
