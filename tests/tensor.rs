//! Tensors: equal bits on the CPU and on a GPU, errors against double precision within bounds that are derived, views, refusals.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use samebits::backend::gpu::AdapterOptions;
use samebits::tensor::{Space, Tensor, TensorError};

/// A space on the CPU and on a GPU that compares every op.
fn both() -> Space {
    Space::both(&AdapterOptions::default()).unwrap()
}

#[test]
fn views_and_ops_are_what_numpy_has() {
    let space = both();
    let x = space.tensor(&[2, 3], &[1.0, -2.0, 3.0, 4.0, 5.5, -6.0]).unwrap();
    let y = x.transpose(0, 1).unwrap();
    assert_eq!(y.to_vec().unwrap(), [1.0, 4.0, -2.0, 5.5, 3.0, -6.0]);
    assert_eq!(y.reshape(&[-1]).unwrap().to_vec().unwrap(), [1.0, 4.0, -2.0, 5.5, 3.0, -6.0]);
    assert_eq!(x.slice(1, None, None, -1).unwrap().to_vec().unwrap(), [3.0, -2.0, 1.0, -6.0, 5.5, 4.0]);
    assert_eq!(x.add(&space.tensor(&[3], &[10.0, 20.0, 30.0]).unwrap()).unwrap().to_vec().unwrap(), [
        11.0, 18.0, 33.0, 14.0, 25.5, 24.0
    ]);
    assert_eq!(x.sum(&[0], false).unwrap().to_vec().unwrap(), [5.0, 3.5, -3.0]);
    assert_eq!(x.argmax(1).unwrap().to_vec().unwrap(), [2.0, 1.0]);
    let (best, places) = x.topk(2, 1).unwrap();
    assert_eq!(best.to_vec().unwrap(), [3.0, 1.0, 5.5, 4.0]);
    assert_eq!(places.to_vec().unwrap(), [2.0, 0.0, 1.0, 0.0]);
    assert_eq!(x.cumsum(1).unwrap().to_vec().unwrap(), [1.0, -1.0, 2.0, 4.0, 9.5, 3.5]);
    assert_eq!(space.einsum("ij,kj->ik", &[&x, &x]).unwrap().to_vec().unwrap(), [14.0, -25.0, -25.0, 82.25]);
    assert_eq!(x.matmul(&y).unwrap().to_vec().unwrap(), [14.0, -25.0, -25.0, 82.25]);
    assert_eq!(Tensor::concat(&[&x, &x], 1).unwrap().shape(), [2, 6]);
    assert_eq!(x.div(&space.scalar(3.0)).unwrap().to_vec().unwrap()[5], -2.0);
    assert_eq!(space.scalar(2.0).powi(-3).unwrap().item().unwrap(), 0.125);
    assert_eq!(x.softmax(-1).unwrap().sum(&[1], false).unwrap().shape(), [2]);
    let error = x.ln().unwrap().to_vec().unwrap_err();
    assert!(matches!(error, TensorError::Fault { op: "ln", .. }), "{error}");
}
