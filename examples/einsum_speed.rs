//! How fast `bhid,bhjd->bhij` of 32 x 512 x 64 is, on the CPU and on a GPU. NumPy's on this machine:
//!
//!     python3 -m timeit -s "import numpy as np; a, b = np.random.rand(2, 4, 8, 512, 64).astype('f')" "np.einsum('bhid,bhjd->bhij', a, b)"

use std::time::{Duration, Instant};

use samebits::backend::gpu::AdapterOptions;
use samebits::tensor::{Space, TensorError};

/// The time of one of `n` sums, the best of a few rounds.
fn time(space: &Space, n: u32) -> Result<Duration, TensorError> {
    let (a, b) = (space.random(&[4, 8, 512, 64], 1)?, space.random(&[4, 8, 512, 64], 2)?);
    let mut best = Duration::MAX;
    for _ in 0..6 {
        let start = Instant::now();
        for _ in 0..n {
            space.einsum("bhid,bhjd->bhij", &[&a, &b])?.compute()?;
        }
        space.wait()?;
        best = best.min(start.elapsed() / n);
    }
    Ok(best)
}

fn main() -> Result<(), TensorError> {
    let operations = 2.0 * 32.0 * 512.0 * 512.0 * 64.0;
    let show = |name: &str, time: Duration| {
        println!("{name}: {time:.3?}, {:.1} GFLOP/s", operations / time.as_secs_f64() / 1e9);
    };
    show("CPU", time(&Space::cpu()?, 1)?);
    match Space::gpu(&AdapterOptions { hardware_only: true, ..AdapterOptions::default() }) {
        Ok(space) => show(&space.device().unwrap_or_default(), time(&space, 50)?),
        Err(error) => println!("no GPU: {error}"),
    }
    Ok(())
}
