//! How fast this machine reads memory, to compare decoding with.

use super::pool::Pool;
use crate::host::{self, Instant};

/// Bytes read per run: more than caches hold.
const BYTES: usize = 1 << 29;

/// Bytes per second that `threads` threads read in a plain loop over half a gibibyte; the best of three runs. `None`
/// without that much memory.
pub fn read_bandwidth(threads: usize) -> Option<f64> {
    let mut memory = host::zeroed(BYTES).ok()?;
    memory.fill(1);
    let words: &[u64] = bytemuck::try_cast_slice(&memory[..]).ok()?;
    let mut pool = Pool::new(threads);
    let pieces: Vec<_> = words.chunks(words.len() / 64).collect();
    let mut best = 0.0f64;
    for _ in 0..3 {
        let start = Instant::now();
        pool.run(pieces.len(), |i| {
            let mut sums = [0u64; 32];
            for line in pieces[i].as_chunks::<32>().0 {
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            std::hint::black_box(sums);
        });
        best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
    }
    Some(best)
}
