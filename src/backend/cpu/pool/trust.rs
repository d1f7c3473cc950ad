//! When a helper that makes others wait sits out, and for how long.

use std::time::Duration;

/// The longest time that a helper sits out.
const LONGEST: Duration = Duration::from_millis(250);
/// The most time that a helper may cost without sitting out.
const CREDIT: Duration = Duration::from_millis(10);

/// Whether a helper is worth what it costs. Of `n` threads it does an `n`th of the work. For a quarter of that it may make
/// the others wait; then it sits out, first for twice the time that was too much, then each time twice as long as before.
pub(super) struct Trust {
    threads: u32,
    /// Time that it may cost.
    credit: Duration,
    /// How long it sat out the last time.
    away: Duration,
    /// Since when it has been back.
    back: Duration,
    /// Up to when it was paid.
    paid: Duration,
}

impl Trust {
    pub fn new(threads: usize) -> Self {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        Self { threads, credit: Duration::ZERO, away: Duration::ZERO, back: Duration::ZERO, paid: Duration::ZERO }
    }

    /// How long the helper sits out, as it has now cost the others the time `lost`.
    pub fn lose(&mut self, lost: Duration, now: Duration) -> Duration {
        let earned = now.saturating_sub(self.paid).saturating_sub(lost) / self.threads / 4;
        self.credit = (self.credit + earned).min(CREDIT);
        self.paid = now;
        let Some(debt) = lost.checked_sub(self.credit) else {
            self.credit -= lost;
            return Duration::ZERO;
        };
        let again = now.saturating_sub(self.back) < self.away.saturating_mul(self.threads.saturating_mul(4));
        self.away = (2 * if again { debt.max(self.away) } else { debt }).min(LONGEST);
        (self.credit, self.back) = (Duration::ZERO, now + self.away);
        self.paid = self.back;
        self.away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The share of `time` that a helper costs, if it is late after every `good` by `lost`; and how often that is.
    fn cost(threads: usize, good: Duration, lost: Duration, time: Duration) -> (f64, u32) {
        let mut trust = Trust::new(threads);
        let (mut now, mut times) = (Duration::ZERO, 0);
        while now < time {
            now += good + lost;
            now += trust.lose(lost, now);
            times += 1;
        }
        ((lost * times).as_secs_f64() / now.as_secs_f64(), times)
    }

    #[test]
    fn rare_and_short_delays_are_forgiven() {
        let mut trust = Trust::new(2);
        for i in 1..100 {
            assert_eq!(trust.lose(MS / 10, 20 * i * MS), Duration::ZERO);
        }
    }

    #[test]
    fn a_helper_that_shares_its_core_costs_little() {
        for threads in [2, 3, 8, 64] {
            for (good, lost) in [(3 * MS, 3 * MS), (Duration::ZERO, MS / 16), (MS / 8, 4 * MS), (20 * MS, 10 * MS)] {
                let (share, times) = cost(threads, good, lost, 10_000 * MS);
                let most = 0.05f64.max(0.26 / threads as f64);
                assert!(share < most, "{threads} threads, {good:?}, {lost:?}: {share}, {times} times");
            }
        }
    }

    #[test]
    fn a_helper_that_is_back_to_normal_is_trusted_again() {
        let mut trust = Trust::new(2);
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            now += 6 * MS;
            now += trust.lose(3 * MS, now);
        }
        assert_eq!(trust.away, LONGEST);
        now += 5_000 * MS;
        assert_eq!(trust.lose(9 * MS, now), Duration::ZERO);
        now += 5_000 * MS;
        assert_eq!(trust.lose(12 * MS, now), 4 * MS);
    }

    #[test]
    fn no_clock_makes_it_panic() {
        let mut trust = Trust::new(usize::MAX);
        for (lost, now) in [(0, 0), (u64::MAX, 0), (0, u64::MAX / 2), (u64::MAX, 1), (1, u64::MAX / 2)] {
            assert!(trust.lose(Duration::from_nanos(lost), Duration::from_nanos(now)) <= LONGEST);
        }
    }
}
