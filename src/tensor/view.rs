//! Where the elements of a tensor are: a shape, a stride for each axis, and an offset into a buffer.

use super::TensorError;

/// The most axes of a tensor; the length of a view in `wgsl/lib/strided.wgsl`.
pub const MAX_AXES: usize = 8;
/// Words of a view on a GPU.
pub(super) const VIEW_WORDS: usize = 2 + 2 * MAX_AXES;

/// A view of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Elements along each axis.
    pub shape: Vec<usize>,
    /// How far an element is from the next along each axis, in elements of the buffer; 0 where one is repeated.
    pub strides: Vec<isize>,
    /// Where the first element is.
    pub offset: usize,
}

/// Elements of a shape; `None` if there are too many to count.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

impl View {
    /// All of a buffer, in row-major order.
    pub fn whole(shape: &[usize]) -> Self {
        let mut strides = vec![1isize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1) as isize;
        }
        Self { shape: shape.to_vec(), strides, offset: 0 }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the elements follow each other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.folded().len() <= 1 && self.folded().iter().all(|(_, stride)| *stride == 1)
    }

    /// The axes with their strides; neighbours that one stride passes through are one, and axes of one element are left out.
    pub fn folded(&self) -> Vec<(usize, isize)> {
        let mut folded: Vec<(usize, isize)> = Vec::new();
        for (&n, &stride) in self.shape.iter().zip(&self.strides).filter(|(n, _)| **n != 1) {
            match folded.last_mut() {
                Some(last) if last.1 == stride * n as isize => *last = (last.0 * n, stride),
                _ => folded.push((n, stride)),
            }
        }
        folded
    }

    /// The words of the view on a GPU (`wgsl/lib/strided.wgsl`): the number of axes, the offset, then length and stride of each
    /// axis, the last first.
    pub(super) fn words(&self) -> [u32; VIEW_WORDS] {
        let mut words = [0; VIEW_WORDS];
        let folded = self.folded();
        (words[0], words[1]) = (folded.len() as u32, self.offset as u32);
        for (i, (n, stride)) in folded.iter().rev().enumerate() {
            (words[2 + 2 * i], words[3 + 2 * i]) = (*n as u32, *stride as u32);
        }
        words
    }

    /// The places of all elements, in row-major order.
    pub(super) fn places(&self) -> Places {
        let mut axes = self.folded();
        axes.reverse();
        Places { index: vec![0; axes.len()], axes, next: self.offset as isize, left: self.len() }
    }

    /// The view of some axes, in the order of `axes`; the others stay at their first element.
    pub(super) fn part(&self, axes: &[usize]) -> Self {
        let (shape, strides) = axes.iter().map(|&a| (self.shape[a], self.strides[a])).unzip();
        Self { shape, strides, offset: self.offset }
    }

    /// The axes in another order.
    ///
    /// # Errors
    /// If `axes` does not name every axis once.
    pub fn permuted(&self, axes: &[usize]) -> Result<Self, TensorError> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if sorted != (0..self.shape.len()).collect::<Vec<_>>() {
            return Err(TensorError::shape(format!("permute: {axes:?} is no order of {} axes", self.shape.len())));
        }
        Ok(self.part(axes))
    }

    /// The same elements in another shape, where strides can say so.
    pub(super) fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        if self.is_empty() || shape.iter().all(|n| *n == 1) {
            return Some(Self { offset: self.offset, ..Self::whole(shape) });
        }
        // Every folded axis is split into axes of the new shape, the last first.
        let mut folded = self.folded();
        let mut strides = vec![0; shape.len()];
        let (mut left, mut stride) = (1, 0);
        for (axis, &n) in shape.iter().enumerate().rev() {
            if n == 1 {
                continue;
            }
            if left == 1 {
                (left, stride) = folded.pop()?;
            }
            if !left.is_multiple_of(n) {
                return None;
            }
            strides[axis] = stride;
            (left, stride) = (left / n, stride * n as isize);
        }
        Some(Self { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// Repeated to a shape by NumPy's rule: axes are compared from the last on, and one element stands for any number.
    ///
    /// # Errors
    /// If an axis has another length than the shape, and is not 1.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self, TensorError> {
        let refuse = || TensorError::shape(format!("cannot broadcast {:?} to {shape:?}", self.shape));
        let missing = shape.len().checked_sub(self.shape.len()).ok_or_else(refuse)?;
        let mut strides = vec![0; shape.len()];
        for (axis, (&n, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            match shape[missing + axis] {
                wanted if wanted == n => strides[missing + axis] = stride,
                _ if n == 1 => {}
                _ => return Err(refuse()),
            }
        }
        Ok(Self { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// The elements `start`, `start + step`, … before `end` of an axis; backwards where `step` is negative. The caller has made sure
    /// that there are `n` of them.
    pub(super) fn sliced(&self, axis: usize, start: usize, n: usize, step: isize) -> Self {
        let mut view = self.clone();
        if n > 0 {
            view.offset = (view.offset as isize + start as isize * self.strides[axis]) as usize;
        }
        view.shape[axis] = n;
        view.strides[axis] *= step;
        view
    }
}

/// The shape that two shapes are broadcast to.
///
/// # Errors
/// If an axis has different lengths, none of which is 1.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, TensorError> {
    let axes = a.len().max(b.len());
    let at = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(axes).map_or(1, |i| shape[i]);
    let length = |axis| match (at(a, axis), at(b, axis)) {
        (1, n) | (n, 1) => Ok(n),
        (n, m) if n == m => Ok(n),
        _ => Err(TensorError::shape(format!("shapes {a:?} and {b:?} do not fit: axes must be equal, or 1"))),
    };
    (0..axes).map(length).collect()
}

/// An iterator over the places of a view.
pub(super) struct Places {
    /// Length and stride, the last axis first.
    axes: Vec<(usize, isize)>,
    index: Vec<usize>,
    next: isize,
    left: usize,
}

impl Iterator for Places {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let place = self.next as usize;
        for (&(n, stride), index) in self.axes.iter().zip(&mut self.index) {
            *index += 1;
            self.next += stride;
            if *index < n {
                break;
            }
            *index = 0;
            self.next -= n as isize * stride;
        }
        Some(place)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Places {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    /// Where an element is, axis by axis.
    fn place(view: &View, index: &[usize]) -> usize {
        let steps = index.iter().zip(&view.strides).map(|(i, s)| *i as isize * s).sum::<isize>();
        (view.offset as isize + steps) as usize
    }

    fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new()];
        for n in shape {
            all = all.iter().flat_map(|index| (0..*n).map(|i| [index.clone(), vec![i]].concat())).collect();
        }
        all
    }

    proptest! {
        /// Folding and reshaping change no place, and a view reads what its axes say.
        #[test]
        fn views_read_what_their_axes_say(
            shape in proptest::collection::vec(0usize..5, 0..5),
            order in any::<u64>(),
            backwards in any::<[bool; 5]>(),
        ) {
            let mut axes: Vec<usize> = (0..shape.len()).collect();
            axes.sort_by_key(|a| order.rotate_left(11 * *a as u32) % 97);
            let mut view = View::whole(&shape).permuted(&axes).unwrap();
            for (axis, back) in backwards.iter().enumerate().take(shape.len()) {
                let n = view.shape[axis];
                if *back && n > 0 {
                    view = view.sliced(axis, n - 1, n, -1);
                }
            }
            let places: Vec<usize> = view.places().collect();
            let wanted: Vec<usize> = indices(&view.shape).iter().map(|index| place(&view, index)).collect();
            prop_assert_eq!(&places, &wanted);
            let flat = view.reshaped(&[view.len()]);
            if view.is_contiguous() {
                prop_assert!(flat.is_some());
            }
            if let Some(flat) = flat {
                prop_assert_eq!(&flat.places().collect::<Vec<_>>(), &places);
            }
            // Split every axis in two, and put it together again.
            let split: Vec<usize> = view.shape.iter().flat_map(|n| if n % 2 == 0 { [2, n / 2] } else { [1, *n] }).collect();
            let again = view.reshaped(&split).unwrap();
            prop_assert_eq!(again.places().collect::<Vec<_>>(), places);
        }
    }
}
