//! How many threads are worth starting.

use std::collections::HashSet;
use std::fs;

/// Processors that this process may use: on Linux after its affinity and the quota of its cgroups.
pub fn usable() -> usize {
    crate::host::threads()
}

/// The physical cores among them: two threads of one core share its vector units.
pub fn physical() -> usize {
    let cores = if cfg!(target_os = "linux") { allowed_cores() } else { None };
    cores.unwrap_or_else(num_cpus::get_physical).clamp(1, usable())
}

/// The cores that this thread's affinity allows, as Linux tells.
fn allowed_cores() -> Option<usize> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    distinct(list, |cpu| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    })
}

/// How many cores the processors of a list (`0-3,8`) belong to. The `siblings` of a processor name its core; one that
/// is switched off has none.
fn distinct(list: &str, siblings: impl Fn(usize) -> Option<String>) -> Option<usize> {
    let mut cores = HashSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cores.extend((first..=last).filter_map(&siblings));
    }
    if cores.is_empty() { None } else { Some(cores.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_count_once_and_missing_processors_not_at_all() {
        // Eight processors, of which two neighbours are a core, or n and n + 4; 6 and 7 are switched off.
        let pairs = |cpu: usize| (cpu < 6).then(|| format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1));
        let halves = |cpu: usize| (cpu < 6).then(|| format!("{},{}", cpu % 4, cpu % 4 + 4));
        for (list, by_pairs, by_halves) in [
            ("\t0-7\n", Some(3), Some(4)),
            ("0-1", Some(1), Some(2)),
            ("0,4", Some(2), Some(1)),
            ("0,2-3,5", Some(3), Some(4)),
            ("3", Some(1), Some(1)),
            ("6-7", None, None),
            ("", None, None),
            ("0-x", None, None),
        ] {
            assert_eq!((distinct(list, pairs), distinct(list, halves)), (by_pairs, by_halves), "{list:?}");
        }
    }

    #[test]
    fn a_process_may_use_a_core() {
        assert!(1 <= physical() && physical() <= usable());
    }
}
