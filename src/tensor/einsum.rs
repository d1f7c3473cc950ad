//! Einstein's sums, with NumPy's meaning.
//!
//! Operands are taken from left to right. Indices that stand twice in an operand read its diagonal. An index that neither the result nor
//! another operand has is summed before its operand is multiplied; an index that two have, and nothing behind them, is summed by their
//! product.

use super::contract::Contract;
use super::graph::Node;
use super::map::{Function, Map};
use super::view::View;
use super::{Dtype, MAX_AXES, Space, Tensor, TensorError};

/// An index: a letter, or an axis that an ellipsis stands for, counted from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Letter(char),
    Ellipsis(usize),
}

/// A tensor with an index for each axis, none twice.
struct Indexed {
    tensor: Tensor,
    indices: Vec<Index>,
}

/// What is wrong with a text.
struct Wrong<'a>(&'a str);

impl Wrong<'_> {
    fn because(&self, reason: impl std::fmt::Display) -> TensorError {
        TensorError::shape(format!("einsum \"{}\": {reason}", self.0))
    }
}

/// The letters of a term, and where its ellipsis stands.
fn term(text: &str, wrong: &Wrong<'_>) -> Result<(Vec<char>, Option<usize>), TensorError> {
    let mut letters = Vec::new();
    let mut ellipsis = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("...") {
            if ellipsis.replace(letters.len()).is_some() {
                return Err(wrong.because("an operand has one ellipsis at most"));
            }
            rest = behind;
        } else if c.is_ascii_alphabetic() {
            letters.push(c);
            rest = &rest[1..];
        } else if c == ' ' {
            rest = &rest[1..];
        } else {
            return Err(wrong.because(format!("{c:?} is no index; indices are letters")));
        }
    }
    Ok((letters, ellipsis))
}

/// The indices of a term for so many axes behind its ellipsis.
fn indices((letters, ellipsis): &(Vec<char>, Option<usize>), axes: usize) -> Vec<Index> {
    let mut all: Vec<Index> = letters.iter().map(|c| Index::Letter(*c)).collect();
    if let Some(at) = ellipsis {
        all.splice(at..at, (0..axes).rev().map(Index::Ellipsis));
    }
    all
}

impl Space {
    /// Einstein's sum of any number of tensors, as NumPy's `einsum` means it: `ij,jk->ik`. Indices are letters; an ellipsis stands for axes
    /// that are broadcast; without an arrow the result has the ellipsis, and then every letter that stands once, sorted.
    ///
    /// Each product of two operands is summed by S8 in blocks of 32 and S8 over blocks, in row-major order of the indices that are summed, in the
    /// order in which the left operand has them.
    ///
    /// # Errors
    /// If the text is none of that, or the shapes do not fit.
    pub fn einsum(&self, text: &str, operands: &[&Tensor]) -> Result<Tensor, TensorError> {
        let wrong = Wrong(text);
        let (left, right) = text.split_once("->").map_or((text, None), |(left, right)| (left, Some(right)));
        let terms: Vec<_> = left.split(',').map(|text| term(text, &wrong)).collect::<Result<_, _>>()?;
        if terms.len() != operands.len() || operands.is_empty() {
            return Err(wrong.because(format!("it has {} operands, {} are given", terms.len(), operands.len())));
        }
        let mut widest = 0;
        let mut all = Vec::new();
        for (i, (term, tensor)) in terms.iter().zip(operands).enumerate() {
            let (shape, letters) = (tensor.shape(), term.0.len());
            let axes = shape.len().checked_sub(letters).filter(|axes| *axes == 0 || term.1.is_some());
            let Some(axes) = axes else {
                return Err(wrong.because(format!("operand {} has {letters} indices for the axes {shape:?}", i + 1)));
            };
            widest = widest.max(axes);
            all.push(diagonal(tensor, &indices(term, axes), &wrong)?);
        }
        let result = match right {
            Some(text) => term(text, &wrong)?,
            None => (single_letters(&terms), (widest > 0).then_some(0)),
        };
        let result = indices(&result, widest);
        for (i, index) in result.iter().enumerate() {
            let name = |index: &Index| match index {
                Index::Letter(c) => c.to_string(),
                Index::Ellipsis(_) => "...".to_owned(),
            };
            if result[..i].contains(index) {
                return Err(wrong.because(format!("the result has the index {} twice", name(index))));
            }
            if matches!(index, Index::Letter(_)) && !all.iter().any(|t| t.indices.contains(index)) {
                return Err(wrong.because(format!("no operand has the index {} of the result", name(index))));
            }
        }
        if widest > 0 && !result.contains(&Index::Ellipsis(0)) {
            return Err(wrong.because("the result has no ellipsis, but an operand has axes behind one"));
        }
        check_lengths(&all, &wrong)?;
        let mut all = all.into_iter();
        let Some(mut product) = all.next() else { return Err(wrong.because("no operands")) };
        let mut rest: Vec<Indexed> = all.collect();
        rest.reverse();
        let needed =
            |index: &Index, rest: &[Indexed]| result.contains(index) || rest.iter().any(|t| t.indices.contains(index));
        product = product.summed(|index| needed(index, &rest))?;
        while let Some(next) = rest.pop() {
            let next = next.summed(|index| needed(index, &rest) || product.indices.contains(index))?;
            product = product.times(next, |index| needed(index, &rest))?;
        }
        product.ordered(&result)
    }
}

/// The letters that stand once in all operands, sorted as NumPy sorts them.
fn single_letters(terms: &[(Vec<char>, Option<usize>)]) -> Vec<char> {
    let all: Vec<char> = terms.iter().flat_map(|(letters, _)| letters.iter().copied()).collect();
    let mut single: Vec<char> = all.iter().copied().filter(|c| all.iter().filter(|d| *d == c).count() == 1).collect();
    single.sort_unstable();
    single
}

/// Every index has one length wherever it stands; one element stands for any number.
fn check_lengths(all: &[Indexed], wrong: &Wrong<'_>) -> Result<(), TensorError> {
    let mut known: Vec<(Index, usize)> = Vec::new();
    for (index, n) in all.iter().flat_map(|t| t.indices.iter().zip(t.tensor.shape())) {
        match known.iter_mut().find(|(other, _)| other == index) {
            None => known.push((*index, *n)),
            Some((_, m)) if *m == 1 => *m = *n,
            Some((_, m)) if *m == *n || *n == 1 => {}
            Some((_, m)) => {
                let name = if let Index::Letter(c) = index { c.to_string() } else { "...".to_owned() };
                return Err(wrong.because(format!("the index {name} has the lengths {m} and {n}")));
            }
        }
    }
    Ok(())
}

/// A tensor through the view that has every index once: of an index that stands twice, the diagonal.
fn diagonal(tensor: &Tensor, indices: &[Index], wrong: &Wrong<'_>) -> Result<Indexed, TensorError> {
    let mut view = View { shape: Vec::new(), strides: Vec::new(), offset: tensor.view.offset };
    let mut once: Vec<Index> = Vec::new();
    for ((index, &n), &stride) in indices.iter().zip(tensor.shape()).zip(&tensor.view.strides) {
        match once.iter().position(|other| other == index) {
            None => {
                once.push(*index);
                view.shape.push(n);
                view.strides.push(stride);
            }
            Some(at) if view.shape[at] == n => view.strides[at] += stride,
            // One element stands for any number.
            Some(_) if n == 1 => {}
            Some(at) if view.shape[at] == 1 => (view.shape[at], view.strides[at]) = (n, stride),
            Some(at) => {
                let m = view.shape[at];
                return Err(wrong.because(format!("an index that stands twice has the lengths {m} and {n}")));
            }
        }
    }
    Ok(Indexed { tensor: tensor.with(view), indices: once })
}

impl Indexed {
    /// The axis of an index.
    fn axis(&self, index: &Index) -> Option<usize> {
        self.indices.iter().position(|other| other == index)
    }

    /// Summed over the indices that nobody needs.
    fn summed(self, needed: impl Fn(&Index) -> bool) -> Result<Self, TensorError> {
        let (kept, gone): (Vec<_>, Vec<_>) = self.indices.iter().partition(|index| needed(index));
        if gone.is_empty() {
            return Ok(self);
        }
        let axes: Vec<isize> = gone.iter().filter_map(|index| self.axis(index)).map(|axis| axis as isize).collect();
        Ok(Self { tensor: self.tensor.sum(&axes, false)?, indices: kept })
    }

    /// The view with these indices for axes; those that it does not have repeat it.
    fn view(&self, indices: &[Index], lengths: &[usize]) -> View {
        let axis = |index: &Index| self.axis(index).filter(|axis| self.tensor.shape()[*axis] != 1);
        let strides = indices.iter().map(|index| axis(index).map_or(0, |axis| self.tensor.view.strides[axis]));
        View { shape: lengths.to_vec(), strides: strides.collect(), offset: self.tensor.view.offset }
    }

    /// The product with another, summed over the indices that nobody behind it needs.
    fn times(self, other: Self, needed: impl Fn(&Index) -> bool) -> Result<Self, TensorError> {
        let only_there = other.indices.iter().filter(|index| self.axis(index).is_none());
        let all: Vec<Index> = self.indices.iter().chain(only_there).copied().collect();
        let length = |index: &Index| {
            let of = |t: &Self| t.axis(index).map(|axis| t.tensor.shape()[axis]);
            match (of(&self), of(&other)) {
                (Some(1), Some(n)) | (Some(n), _) | (None, Some(n)) => n,
                (None, None) => 1,
            }
        };
        let lengths = |indices: &[Index]| indices.iter().map(length).collect::<Vec<_>>();
        let (kept, summed): (Vec<Index>, Vec<Index>) = all.iter().partition(|index| needed(index));
        let integers = self.tensor.dtype() == Dtype::I32 && other.tensor.dtype() == Dtype::I32;
        if summed.is_empty() || integers {
            // Integers have one sum in any order: the product, then its sum.
            let shape = lengths(&all);
            let operand = |t: &Self| Tensor { view: t.view(&all, &shape), ..t.tensor.clone() };
            let (a, b) = (operand(&self), operand(&other));
            let tensor = match integers {
                true => Node::of(Map(Function::MulInt), vec![a, b], shape, Dtype::I32)?,
                false => a.mul(&b)?,
            };
            return Self { tensor, indices: all }.summed(|index| kept.contains(index));
        }
        let only = |t: &Self, u: &Self| -> Vec<Index> {
            kept.iter().filter(|index| t.axis(index).is_some() && u.axis(index).is_none()).copied().collect()
        };
        let (rows, columns) = (only(&self, &other), only(&other, &self));
        let in_both = |index: &&Index| self.axis(index).is_some() && other.axis(index).is_some();
        let batch: Vec<Index> = kept.iter().filter(in_both).copied().collect();
        let order: Vec<Index> = [&batch[..], &rows, &columns].concat();
        let operand = |t: &Self, own: &[Index]| {
            let indices = [&batch[..], own, &summed].concat();
            Tensor { view: t.view(&indices, &lengths(&indices)), ..t.tensor.clone() }
        };
        let (a, b) = (operand(&self, &rows), operand(&other, &columns));
        let (a, b) = (a.real()?, b.real()?);
        let op = Contract { name: "einsum", batch: batch.len(), rows: rows.len(), columns: columns.len() };
        let tensor = Node::of(op, vec![a, b], lengths(&order), Dtype::F32)?;
        Ok(Self { tensor, indices: order })
    }

    /// The tensor with its axes in an order; what it lacks has one element.
    fn ordered(self, indices: &[Index]) -> Result<Tensor, TensorError> {
        if indices.len() > MAX_AXES {
            return Err(TensorError::shape(format!("einsum: a result of more than {MAX_AXES} axes")));
        }
        let lengths = indices.iter().map(|index| self.axis(index).map_or(1, |axis| self.tensor.shape()[axis]));
        let view = self.view(indices, &lengths.collect::<Vec<_>>());
        Ok(Tensor { view, ..self.tensor })
    }
}
