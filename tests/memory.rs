//! Memory does not grow with the tokens. The only test of its process, whose size it looks at.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{on_gpu, tiny};
use samebits::backend::Sampling;
use samebits::numerics::Precision;

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}

#[test]
fn of_a_gpu_backend() {
    let mut session = on_gpu(&tiny("tiny-q4_k.gguf"), Precision::Fast, 1000, 32);
    let prompt: Vec<u32> = (0..50).map(|i| (i * 53 + 7) % 259).collect();
    let mut run = || {
        session.clear();
        session.feed(&prompt, false).unwrap();
        session.run(7, 900, Sampling::Greedy, true, &mut |_, _| true).unwrap();
        resident()
    };
    // In the first run kernels meet every length of the cache; a driver may compile them only then.
    let (first, second) = (run(), run());
    assert!(second < first + (1 << 20), "{first} bytes after 900 tokens, {second} after 900 more");
}
