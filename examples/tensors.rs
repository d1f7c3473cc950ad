//! Grouped-query attention by einsum on the CPU and on a GPU: every op is compared bit by bit.
//!
//!     cargo run --release --example tensors

use samebits::backend::gpu::AdapterOptions;
use samebits::tensor::{Space, Tensor, TensorError};

/// Queries `[rows, 32, 64]` over keys and values `[rows, 4, 64]`.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TensorError> {
    let (space, rows) = (q.space(), q.shape()[0]);
    // Each of the four heads serves eight query heads; nothing is copied.
    let repeated = |x: &Tensor| x.unsqueeze(2)?.broadcast_to(&[rows, 4, 8, 64])?.reshape(&[rows as isize, 32, 64]);
    let scores = space.einsum("ihd,jhd->ihj", &[q, &repeated(k)?])?.mul(&space.scalar(0.125))?;
    let (i, j) = (space.arange(rows)?.reshape(&[-1, 1, 1])?, space.arange(rows)?);
    let seen = j.less_equal(&i)?.select_from(&scores, &space.scalar(-1e30))?;
    space.einsum("ihj,jhd->ihd", &[&seen.softmax(2)?, &repeated(v)?])
}

fn main() -> Result<(), TensorError> {
    // `Space::cpu()` and `Space::gpu(…)` run on one side only.
    let space = Space::both(&AdapterOptions::default())?;
    let random = |heads, seed| space.random(&[9, heads, 64], seed)?.sub(&space.scalar(0.5));
    let out = attention(&random(32, 1)?, &random(4, 2)?, &random(4, 3)?)?;
    println!("{:?} on the CPU and on {}: the same bits", out.shape(), space.device().unwrap_or_default());
    println!("{:?}", &out.to_vec()?[..4]);
    Ok(())
}
