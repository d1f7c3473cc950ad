//! Whether there is memory for what a user asks for, before it is taken: an allocation that fails ends the process.

use super::super::{BackendError, Sizes};
use super::panels::ROWS;
use crate::plan::{BufferId, BufferKind, CacheSpec, Plan};

/// Fails where buffers, cache and angles for these sizes, and the weights once more where they are repacked, do not fit.
pub(super) fn check(plan: &Plan, sizes: Sizes, repacked: bool) -> Result<(), BackendError> {
    let needed = needed(plan, sizes, repacked);
    let fits = |bytes: u64| {
        let most = most().is_none_or(|most| bytes <= most);
        // The system's limits for this process are only known to the system.
        most && usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
    };
    match needed {
        Some(bytes) if fits(bytes) => Ok(()),
        _ => {
            let size =
                needed.map_or("too much".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64));
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
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let rows = if BufferId(i) == plan.logits { sizes.logits_rows } else { sizes.batch };
        // Integers have their sums beside them.
        add(rows, buffer.width, if matches!(buffer.kind, BufferKind::Float) { 4 } else { 3 })?;
    }
    let positions = sizes.context.checked_next_multiple_of(ROWS)?;
    // Keys and values are halves; cosine and sine of each angle are floats.
    add(positions, plan.caches.iter().map(CacheSpec::width).sum(), 4)?;
    add(sizes.context, plan.angles.iter().map(Vec::len).sum(), 8)?;
    if repacked {
        for w in &plan.weights {
            add(w.rows, w.format.row_bytes(w.cols), 1)?;
        }
    }
    Some(bytes)
}

/// Bytes of memory and swap that this process can have at most, where the system tells.
fn most() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let number = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let machine = number("MemTotal:")? + number("SwapTotal:").unwrap_or(0);
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse().ok());
    Some(group.map_or(machine, |group: u64| machine.min(group)))
}
