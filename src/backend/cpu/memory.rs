//! Whether there is memory for what a user asks for, before it is taken: an allocation that fails ends the process.

use super::super::{BackendError, Sizes};
use super::panels::ROWS;
use crate::memory;
use crate::plan::{BufferKind, Plan};

/// Fails where buffers, cache and angles for these sizes, and the weights once more where they are repacked, do not fit.
pub(super) fn check(plan: &Plan, sizes: Sizes, repacked: bool) -> Result<(), BackendError> {
    let needed = needed(plan, sizes, repacked);
    match needed {
        Some(bytes) if memory::fits(bytes) => Ok(()),
        _ => {
            let size = needed.map_or("too much".to_owned(), memory::size);
            let what = format!("{size} for a context of {} and {} tokens at once", sizes.context, sizes.batch);
            Err(BackendError::Memory { what })
        }
    }
}

/// Bytes in all; `None` beyond what a number holds.
fn needed(plan: &Plan, sizes: Sizes, repacked: bool) -> Option<u64> {
    let mut bytes = 0u64;
    let mut add = |count: usize, width: usize, size: u64| {
        let all = (count as u64).checked_mul(width as u64)?.checked_mul(size)?;
        bytes = bytes.checked_add(all)?;
        Some(())
    };
    for buffer in &plan.buffers {
        // Integers have their sums beside them.
        add(sizes.rows(buffer), buffer.width, if matches!(buffer.kind, BufferKind::Float) { 4 } else { 3 })?;
    }
    // Keys and values are halves; cosine and sine of each angle are floats.
    for cache in &plan.caches {
        add(cache.kept(sizes.context).checked_next_multiple_of(ROWS)?, cache.width(), 4)?;
    }
    add(sizes.context, plan.angles.iter().map(|a| a.frequencies.len()).sum(), 8)?;
    if repacked {
        for w in &plan.weights {
            add(w.rows, w.format.row_bytes(w.cols), 1)?;
        }
    }
    Some(bytes)
}
