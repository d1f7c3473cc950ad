//! Functions of elements and along axes.

use super::contract::Contract;
use super::create::axis_of;
use super::gather::Gather;
use super::graph::Node;
use super::map::{Function, Map};
use super::rank::Rank;
use super::reduce::{Reduce, Reduction};
use super::scan::Scan;
use super::view::broadcast;
use super::{Dtype, Tensor, TensorError};

use Dtype::{F16, F32, I32};
use Function as F;

/// Functions of one f32.
macro_rules! floats {
    ($($(#[$doc:meta])* $name:ident $function:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// If its space has no room for the result.
            pub fn $name(&self) -> Result<Self, TensorError> {
                self.real()?.map(F::$function)
            }
        )*}
    };
}

floats! {
    /// e to the power of each element, at most 88.
    exp Exp;
    /// The natural logarithm.
    ln Ln;
    /// The square root, correctly rounded.
    sqrt Sqrt;
    /// 1 over the square root.
    rsqrt Rsqrt;
    /// 1 over each element, correctly rounded.
    recip Recip;
    /// `x / (1 + e^-x)`.
    silu Silu;
    /// GELU in its tanh form.
    gelu Gelu;
    /// The hyperbolic tangent.
    tanh Tanh;
    /// `1 / (1 + e^-x)`.
    sigmoid Sigmoid;
    /// The larger of 0 and each element.
    relu Relu;
}

/// Functions of two elements, of f32 and of i32.
macro_rules! pairs {
    ($($(#[$doc:meta])* $name:ident $float:ident $integer:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            /// Shapes are broadcast; i32 meets f32 as f32.
            ///
            /// # Errors
            /// If the shapes do not fit.
            pub fn $name(&self, other: &Self) -> Result<Self, TensorError> {
                self.pair(other, F::$float, F::$integer)
            }
        )*}
    };
}

pairs! {
    /// The sum of two elements.
    add Add AddInt;
    /// The difference of two elements.
    sub Sub SubInt;
    /// The product of two elements.
    mul Mul MulInt;
    /// The smaller of two elements.
    minimum Min MinInt;
    /// The larger of two elements.
    maximum Max MaxInt;
    /// 1 where the first is less, 0 elsewhere.
    less Less LessInt;
    /// 1 where the first is less or both are equal, 0 elsewhere.
    less_equal LessEqual LessEqualInt;
    /// 1 where both are equal, 0 elsewhere.
    equal Equal Equal;
    /// 1 where both differ, 0 elsewhere.
    not_equal NotEqual NotEqual;
}

impl Tensor {
    fn map(&self, function: Function) -> Result<Self, TensorError> {
        Node::of(Map(function), vec![self.clone()], self.shape().to_vec(), self.computed())
    }

    /// The type that ops give for this one: f16 is computed with as f32.
    pub(super) fn computed(&self) -> Dtype {
        if self.dtype() == I32 { I32 } else { F32 }
    }

    /// What kernels of f32 read: f32 and f16 as they are.
    pub(super) fn real(&self) -> Result<Self, TensorError> {
        if self.dtype() == F16 { Ok(self.clone()) } else { self.float() }
    }

    /// A result of ops that change no number, in the type that these have.
    pub(super) fn stored_as(self, dtype: Dtype) -> Result<Self, TensorError> {
        if dtype == F16 { self.half() } else { Ok(self) }
    }

    /// As f32.
    ///
    /// # Errors
    /// If its space has no room for the result.
    pub fn float(&self) -> Result<Self, TensorError> {
        match self.dtype() {
            I32 => Node::of(Map(F::Float), vec![self.clone()], self.shape().to_vec(), F32),
            F16 => Node::of(Map(F::Copy), vec![self.clone()], self.shape().to_vec(), F32),
            F32 => Ok(self.clone()),
        }
    }

    /// Rounded to f16, half to even, and stored in two bytes each.
    ///
    /// # Errors
    /// If its space has no room for the result.
    pub fn half(&self) -> Result<Self, TensorError> {
        Node::of(Map(F::Half), vec![self.real()?], self.shape().to_vec(), F16)
    }

    /// As i32, rounded towards 0.
    ///
    /// # Errors
    /// If its space has no room for the result.
    pub fn int(&self) -> Result<Self, TensorError> {
        match self.dtype() {
            I32 => Ok(self.clone()),
            F32 | F16 => Node::of(Map(F::Truncate), vec![self.clone()], self.shape().to_vec(), I32),
        }
    }

    /// The negated elements.
    ///
    /// # Errors
    /// If its space has no room for the result.
    pub fn neg(&self) -> Result<Self, TensorError> {
        self.map(if self.dtype() == I32 { F::NegInt } else { F::Neg })?.stored_as(self.dtype())
    }

    /// The magnitudes.
    ///
    /// # Errors
    /// If its space has no room for the result.
    pub fn abs(&self) -> Result<Self, TensorError> {
        self.map(if self.dtype() == I32 { F::AbsInt } else { F::Abs })?.stored_as(self.dtype())
    }

    fn pair(&self, other: &Self, float: Function, integer: Function) -> Result<Self, TensorError> {
        let shape = broadcast(self.shape(), other.shape()).map_err(|_| {
            TensorError::shape(format!(
                "{}: shapes {:?} and {:?} do not fit: axes must be equal, or 1",
                float.name(),
                self.shape(),
                other.shape()
            ))
        })?;
        let integers = self.dtype() == I32 && other.dtype() == I32;
        let compares = matches!(float, F::Less | F::LessEqual | F::Equal | F::NotEqual);
        let (function, dtype) = match integers {
            true => (integer, I32),
            false => (float, if compares { I32 } else { F32 }),
        };
        let operand = |t: &Self| if integers { t.broadcast_to(&shape) } else { t.real()?.broadcast_to(&shape) };
        Node::of(Map(function), vec![operand(self)?, operand(other)?], shape.clone(), dtype)
    }

    /// The quotient of two elements as f32, correctly rounded. Shapes are broadcast.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn div(&self, other: &Self) -> Result<Self, TensorError> {
        self.real()?.pair(&other.real()?, F::Div, F::Div)
    }

    /// To the power of a whole number, by squares: `x^13 = x · x^4 · x^8`.
    ///
    /// # Errors
    /// If its space has no room for the result.
    pub fn powi(&self, n: i32) -> Result<Self, TensorError> {
        let exponent = self.space().integer(n).broadcast_to(self.shape())?;
        Node::of(Map(F::Power), vec![self.real()?, exponent], self.shape().to_vec(), F32)
    }

    /// The elements of `a` where this is not 0, those of `b` elsewhere. Shapes are broadcast.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn select_from(&self, a: &Self, b: &Self) -> Result<Self, TensorError> {
        let shape = broadcast(self.shape(), &broadcast(a.shape(), b.shape())?)?;
        let (a, b) = if a.dtype() == b.dtype() { (a.clone(), b.clone()) } else { (a.float()?, b.float()?) };
        let operands = [self, &a, &b].map(|t| t.broadcast_to(&shape));
        let operands = operands.into_iter().collect::<Result<Vec<_>, _>>()?;
        Node::of(Map(F::Where), operands, shape, a.computed())?.stored_as(a.dtype())
    }

    fn axes(&self, axes: &[isize]) -> Result<Vec<usize>, TensorError> {
        let all = self.shape().len();
        let mut found = axes.iter().map(|axis| axis_of(*axis, all)).collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        if found.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(TensorError::shape(format!("axes {axes:?} name one twice")));
        }
        Ok(found)
    }

    /// Some axes reduced; they stay with one element where `keep` is set.
    fn reduce(&self, reduction: Reduction, axes: &[usize], keep: bool) -> Result<Self, TensorError> {
        let terms: usize = axes.iter().map(|axis| self.shape()[*axis]).product();
        let op = Reduce { reduction, axes: axes.to_vec(), integer: self.dtype() == I32 };
        if terms == 0 && reduction != Reduction::Sum {
            let name = super::op::Primitive::name(&op);
            return Err(TensorError::shape(format!("{name} of no elements: {:?} over axes {axes:?}", self.shape())));
        }
        let place = matches!(reduction, Reduction::ArgMax | Reduction::ArgMin);
        let dtype = if place || self.dtype() == I32 { I32 } else { F32 };
        let kept = (0..self.shape().len()).filter(|axis| !axes.contains(axis)).map(|axis| self.shape()[axis]);
        let result = Node::of(op, vec![self.clone()], kept.collect(), dtype)?;
        if keep { axes.iter().try_fold(result, |t, axis| t.unsqueeze(*axis as isize)) } else { Ok(result) }
    }

    /// The sum over some axes, over all of them where none is named: S8 in blocks of 32 and S8 over the blocks' sums, in row-major order of
    /// the elements; of i32 with wrapping. `keep`: the axes stay, with one element.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn sum(&self, axes: &[isize], keep: bool) -> Result<Self, TensorError> {
        self.reduce(Reduction::Sum, &self.wanted(axes)?, keep)
    }

    /// The axes named, or all of them.
    fn wanted(&self, axes: &[isize]) -> Result<Vec<usize>, TensorError> {
        if axes.is_empty() { Ok((0..self.shape().len()).collect()) } else { self.axes(axes) }
    }

    /// The largest element over some axes, over all of them where none is named.
    ///
    /// # Errors
    /// If there is no such axis, or no element.
    pub fn max(&self, axes: &[isize], keep: bool) -> Result<Self, TensorError> {
        self.reduce(Reduction::Max, &self.wanted(axes)?, keep)
    }

    /// The smallest element over some axes, over all of them where none is named.
    ///
    /// # Errors
    /// If there is no such axis, or no element.
    pub fn min(&self, axes: &[isize], keep: bool) -> Result<Self, TensorError> {
        self.reduce(Reduction::Min, &self.wanted(axes)?, keep)
    }

    /// The sum over some axes, divided by the number of its terms.
    ///
    /// # Errors
    /// If there is no such axis, or no element.
    pub fn mean(&self, axes: &[isize], keep: bool) -> Result<Self, TensorError> {
        let terms: usize = self.wanted(axes)?.iter().map(|axis| self.shape()[*axis]).product();
        if terms == 0 {
            return Err(TensorError::shape(format!("mean of no elements: {:?}", self.shape())));
        }
        self.real()?.sum(axes, keep)?.div(&self.space().scalar(terms as f32))
    }

    /// The place of the largest element along an axis, as i32; of equal ones the first.
    ///
    /// # Errors
    /// If there is no such axis, or no element.
    pub fn argmax(&self, axis: isize) -> Result<Self, TensorError> {
        self.reduce(Reduction::ArgMax, &self.axes(&[axis])?, false)
    }

    /// The place of the smallest element along an axis, as i32; of equal ones the first.
    ///
    /// # Errors
    /// If there is no such axis, or no element.
    pub fn argmin(&self, axis: isize) -> Result<Self, TensorError> {
        self.reduce(Reduction::ArgMin, &self.axes(&[axis])?, false)
    }

    /// `f` of this with an axis as the last, whose place it has in the result, too.
    pub(super) fn along(
        &self,
        axis: isize,
        f: impl FnOnce(&Self) -> Result<Self, TensorError>,
    ) -> Result<Self, TensorError> {
        axis_of(axis, self.shape().len())?;
        f(&self.transpose(axis, -1)?)?.transpose(axis, -1)
    }

    /// Running sums along an axis, from the first element to the last, each stored before the next is added.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn cumsum(&self, axis: isize) -> Result<Self, TensorError> {
        let integer = self.dtype() == I32;
        let dtype = if integer { I32 } else { F32 };
        self.along(axis, |t| Node::of(Scan { integer }, vec![t.clone()], t.shape().to_vec(), dtype))
    }

    /// The `best` largest elements along an axis, the largest first, and their places as i32; of equal ones the first comes first.
    ///
    /// # Errors
    /// If there is no such axis, or it has fewer elements.
    pub fn topk(&self, best: usize, axis: isize) -> Result<(Self, Self), TensorError> {
        let at = axis_of(axis, self.shape().len())?;
        if best > self.shape()[at] {
            return Err(TensorError::shape(format!("topk: {best} of an axis of {}", self.shape()[at])));
        }
        let places = self.along(axis, |t| {
            let mut shape = t.shape().to_vec();
            shape.iter_mut().next_back().iter_mut().for_each(|n| **n = best);
            Node::of(Rank { best, integer: self.dtype() == I32 }, vec![t.clone()], shape, I32)
        })?;
        Ok((self.take_along(&places, axis)?, places))
    }

    /// Elements at places along an axis (NumPy's `take`): the axis is replaced by the axes of `indices`, which is i32; negative places
    /// count from the end.
    ///
    /// # Errors
    /// If there is no such axis; a place beyond it is an error once it is computed.
    pub fn take(&self, indices: &Self, axis: isize) -> Result<Self, TensorError> {
        let at = axis_of(axis, self.shape().len())?;
        let shape = [&self.shape()[..at], indices.shape(), &self.shape()[at + 1..]].concat();
        // The index's axes repeat the tensor, the other axes repeat the index.
        let mut from = self.view.sliced(at, 0, 1, 1);
        from.shape.splice(at..=at, indices.shape().iter().map(|_| 1));
        from.strides.splice(at..=at, indices.shape().iter().map(|_| 0));
        let mut places = indices.view.clone();
        let behind = self.shape().len() - at - 1;
        places.shape.extend(std::iter::repeat_n(1, behind));
        places.strides.extend(std::iter::repeat_n(0, behind));
        self.gather(at, &self.with(from), &indices.with(places), shape)
    }

    /// Elements at places along an axis (NumPy's `take_along_axis`): `indices` is i32 and has the shape of this but along the axis.
    ///
    /// # Errors
    /// If the shapes do not fit; a place beyond the axis is an error once it is computed.
    pub fn take_along(&self, indices: &Self, axis: isize) -> Result<Self, TensorError> {
        let at = axis_of(axis, self.shape().len())?;
        let mut expected = self.shape().to_vec();
        expected[at] = indices.shape().get(at).copied().unwrap_or(0);
        if indices.shape() != expected {
            let (a, b) = (self.shape(), indices.shape());
            return Err(TensorError::shape(format!("take_along axis {axis}: {a:?} and indices {b:?} do not fit")));
        }
        let first = self.with(self.view.sliced(at, 0, 1, 1));
        self.gather(at, &first, indices, expected)
    }

    fn gather(&self, at: usize, first: &Self, places: &Self, shape: Vec<usize>) -> Result<Self, TensorError> {
        if places.dtype() != I32 {
            return Err(TensorError::shape(format!("indices are i32, not {}; `int` makes them so", places.dtype())));
        }
        if shape.len() > super::MAX_AXES {
            return Err(TensorError::shape(format!("{shape:?} has more than {} axes", super::MAX_AXES)));
        }
        let (length, stride) = (self.shape()[at], self.view.strides[at]);
        let operands = vec![first.broadcast_to(&shape)?, places.broadcast_to(&shape)?];
        Node::of(Gather { length, stride }, operands, shape, self.computed())?.stored_as(self.dtype())
    }

    /// 1 at the place that each element says, 0 elsewhere, along a new last axis of `n`; f32.
    ///
    /// # Errors
    /// If this is not i32, or its space has no room for the result.
    pub fn one_hot(&self, n: usize) -> Result<Self, TensorError> {
        if self.dtype() != I32 {
            return Err(TensorError::shape(format!("indices are i32, not {}; `int` makes them so", self.dtype())));
        }
        self.unsqueeze(-1)?.equal(&self.space().arange(n)?)?.float()
    }

    /// NumPy's `matmul`: `[.., m, k]` times `[.., k, n]`, the axes before broadcast; one axis stands for a row on the left, for a column on
    /// the right. The sums are those of [`crate::tensor::Space::einsum`].
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn matmul(&self, other: &Self) -> Result<Self, TensorError> {
        let (a, b) = (self.shape(), other.shape());
        let refuse = || TensorError::shape(format!("matmul: {a:?} and {b:?} do not fit"));
        if a.is_empty() || b.is_empty() {
            return Err(refuse());
        }
        let left = if a.len() == 1 { self.unsqueeze(0)? } else { self.clone() };
        let right = if b.len() == 1 { other.unsqueeze(-1)? } else { other.clone() };
        let (x, y) = (left.shape().to_vec(), right.shape().to_vec());
        let ((outer_x, [m, k]), (outer_y, [l, n])) =
            (x.split_last_chunk::<2>().ok_or_else(refuse)?, y.split_last_chunk::<2>().ok_or_else(refuse)?);
        if k != l {
            return Err(refuse());
        }
        let batch = broadcast(outer_x, outer_y).map_err(|_| refuse())?;
        let x = left.broadcast_to(&[&batch[..], &[*m, *k]].concat())?;
        let y = right.broadcast_to(&[&batch[..], &[*l, *n]].concat())?.transpose(-1, -2)?;
        let shape = [&batch[..], &[*m, *n]].concat();
        let op = Contract { name: "matmul", batch: batch.len(), rows: 1, columns: 1 };
        let product = Node::of(op, vec![x.real()?, y.real()?], shape, F32)?;
        let product = if b.len() == 1 { product.squeeze(-1)? } else { product };
        if a.len() == 1 { product.squeeze(if b.len() == 1 { -1 } else { -2 }) } else { Ok(product) }
    }
}
