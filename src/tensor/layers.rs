//! The layers of models.

use std::sync::Arc;

use super::attention::Attention;
use super::create::axis_of;
use super::graph::Node;
use super::linear::Linear;
use super::rows::{Rows, Softmax};
use super::{Dtype, Tensor, TensorError};
use crate::numerics::Precision;
use crate::ops::shapes::{Angles, AnglesId, BufferId, WeightId};
use crate::ops::{Op, RmsNorm, Rope};
use crate::quant::format_by_name;

impl Tensor {
    /// `e^x / Σ e^x` along an axis, as models compute it ([`crate::ops::softmax`]); elements lie within ±2^90.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn softmax(&self, axis: isize) -> Result<Self, TensorError> {
        self.float()?.along(axis, |t| {
            let t = t.compact()?;
            let shape = t.shape().to_vec();
            Node::of(Softmax, vec![t], shape, Dtype::F32)
        })
    }

    /// `x - max - ln(Σ e^(x - max))` along an axis.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn log_softmax(&self, axis: isize) -> Result<Self, TensorError> {
        let below = self.sub(&self.max(&[axis], true)?)?;
        below.sub(&below.exp()?.sum(&[axis], true)?.ln()?)
    }

    /// `x · rsqrt(mean(x²) + eps) · weight` along the last axis, as models compute it ([`crate::ops::RmsNorm`]); `weight` has as many elements
    /// as it, or as a head of which it is several.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn rms_norm(&self, weight: &Self, eps: f32) -> Result<Self, TensorError> {
        let width = self.shape().last().copied().unwrap_or(0);
        let [vector] = *weight.shape() else {
            return Err(TensorError::shape(format!("rms_norm: the weight {:?} is no vector", weight.shape())));
        };
        if width == 0 || vector == 0 || !width.is_multiple_of(vector) {
            return Err(TensorError::shape(format!("rms_norm: rows of {width} and a weight of {vector} do not fit")));
        }
        let op = RmsNorm { x: BufferId(0), weight: WeightId(0), out: BufferId(1), eps };
        self.rows(Op::RmsNorm(op), vector, Some(weight), None, 0)
    }

    /// `(x - mean) · rsqrt(mean((x - mean)²) + eps) · weight + bias` along an axis.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn layer_norm(&self, weight: &Self, bias: &Self, eps: f32, axis: isize) -> Result<Self, TensorError> {
        let centred = self.sub(&self.mean(&[axis], true)?)?;
        let variance = centred.mul(&centred)?.mean(&[axis], true)?;
        let scale = variance.add(&self.space().scalar(eps))?.rsqrt()?;
        centred.mul(&scale)?.mul(weight)?.add(bias)
    }

    /// Rotary position embedding (Su et al. 2021), as models compute it ([`crate::ops::Rope`]), of `[rows, heads, dim]`: row `i` stands at
    /// position `first + i`. Pair `j` of a head turns by `base^(-2j / dim)` per position; pairs are neighbours, or halves apart where `neox`
    /// is set.
    ///
    /// # Errors
    /// If there are other than three axes, or heads of odd size.
    pub fn rope(&self, base: f64, first: usize, neox: bool) -> Result<Self, TensorError> {
        let [rows, heads, dim] = *self.shape() else {
            return Err(TensorError::shape(format!("rope: {:?} is not [rows, heads, dim]", self.shape())));
        };
        if dim == 0 || !dim.is_multiple_of(2) || !(base.is_finite() && base > 0.0) || first + rows > 1 << 24 {
            return Err(TensorError::shape(format!(
                "rope: heads of {dim}, base {base}, positions up to {}: heads are even, positions below 2^24",
                first + rows
            )));
        }
        let op = Rope { x: BufferId(0), head_dim: dim, angles: AnglesId(0), neox };
        let flat = self.reshape(&[rows as isize, (heads * dim) as isize])?;
        let turned = flat.rows(Op::Rope(op), 0, None, Some(Angles::of(base, dim)), first)?;
        turned.reshape(&[rows as isize, heads as isize, dim as isize])
    }

    /// An op of models on the rows of the last axis.
    fn rows(
        &self,
        op: Op,
        vector: usize,
        weight: Option<&Self>,
        angles: Option<Angles>,
        position: usize,
    ) -> Result<Self, TensorError> {
        let Some(format) = format_by_name("F32") else { return Err(TensorError::shape("no format F32")) };
        let x = self.float()?.compact()?;
        let shape = x.shape().to_vec();
        let weight = weight.map(|w| w.float()?.compact()).transpose()?;
        let op = Rows { op, vector, angles, position, format };
        Node::of(op, [x].into_iter().chain(weight).collect(), shape, Dtype::F32)
    }

    /// `y[.., n] = Σ weight[n, k] x[.., k]` with a weight of a model's file ([`super::Space::weight`]) or [`Self::quantize`], as models
    /// compute it in a precision ([`crate::ops::Matmul`]).
    ///
    /// # Errors
    /// If the weight is no matrix of a file, or a view of one; or if the shapes do not fit.
    pub fn linear(&self, weight: &Self, precision: Precision) -> Result<Self, TensorError> {
        let (Some(matrix), true) = (&weight.node.weight, weight.view == super::View::whole(&weight.node.shape)) else {
            return Err(TensorError::shape(
                "linear: the weight is not as a file has it; `matmul` multiplies with any tensor, `quantize` gives it a format",
            ));
        };
        let cols = self.shape().last().copied().unwrap_or(0);
        if cols != matrix.cols || cols == 0 {
            let shape = self.shape();
            return Err(TensorError::shape(format!("linear: {shape:?} and {matrix:?} do not fit")));
        }
        let x = self.float()?.compact()?;
        let mut shape = x.shape().to_vec();
        shape.iter_mut().next_back().into_iter().for_each(|n| *n = matrix.rows);
        Node::of(Linear { weight: Arc::clone(matrix), precision }, vec![x], shape, Dtype::F32)
    }

    /// Causal attention, as models compute it ([`crate::ops::Attention`]): queries `[rows, heads, dim]`, keys and values
    /// `[positions, kv_heads, dim]`. The rows are the last positions, and each sees the positions up to its own. Keys and values are rounded to f16.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn attention(&self, keys: &Self, values: &Self) -> Result<Self, TensorError> {
        let (q, k) = (self.shape(), keys.shape());
        let refuse = || {
            let v = values.shape();
            TensorError::shape(format!("attention: queries {q:?}, keys {k:?} and values {v:?} do not fit"))
        };
        let (&[rows, heads, dim], &[positions, kv_heads, of]) = (q, k) else { return Err(refuse()) };
        let fits = dim == of && dim.is_multiple_of(2) && dim > 0 && kv_heads > 0 && heads > 0;
        if !fits || values.shape() != k || !heads.is_multiple_of(kv_heads) || rows > positions {
            return Err(refuse());
        }
        let operands = [self, keys, values].map(|t| t.float()?.compact());
        let operands = operands.into_iter().collect::<Result<Vec<_>, _>>()?;
        Node::of(Attention { heads, kv_heads, dim }, operands, vec![rows, heads, dim], Dtype::F32)
    }

    /// Rows of a matrix (axis 0) by their numbers, which are i32.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn embedding(&self, ids: &Self) -> Result<Self, TensorError> {
        axis_of(0, self.shape().len())?;
        self.take(ids, 0)
    }
}
