//! Whether there is memory for what a user asks for, before it is taken: an allocation that fails ends the process.

/// Whether this process can have so many bytes.
pub fn fits(bytes: u64) -> bool {
    let most = most().is_none_or(|most| bytes <= most);
    // The system's limits for this process are only known to the system.
    most && usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// Bytes in words: `3.2 GiB`.
pub fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
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
