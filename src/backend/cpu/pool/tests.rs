#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::Pool;

/// What a task does besides being counted, so that threads meet in many orders.
fn delay(kind: u8, i: usize) {
    match (usize::from(kind) + i) % 7 {
        0 => thread::yield_now(),
        1 => (0..500).for_each(|_| std::hint::spin_loop()),
        2 if kind > 250 => thread::sleep(Duration::from_micros(200)),
        _ => {}
    }
}

fn on_helper() -> bool {
    thread::current().name().is_some_and(|n| n.starts_with("samebits-"))
}

/// Runs `tasks` tasks, of which `broken` panics: how often each was done, and the panic.
fn counted(pool: &mut Pool, tasks: usize, kind: u8, broken: Option<usize>) -> (Vec<usize>, Option<String>) {
    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    let run = AssertUnwindSafe(|| {
        pool.run(tasks, |i| {
            delay(kind, i);
            counts[i].fetch_add(1, Ordering::Relaxed);
            // Not `panic!`, which would write a line to stderr for each.
            if broken == Some(i) {
                std::panic::resume_unwind(Box::new(format!("task {i}")));
            }
        });
    });
    let panic = catch_unwind(run).err().and_then(|p| p.downcast::<String>().ok()).map(|s| *s);
    (counts.into_iter().map(AtomicUsize::into_inner).collect(), panic)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_task_is_done_once_whatever_came_before(
        threads in 1usize..12,
        loops in prop::collection::vec((0usize..70, any::<u8>(), prop::option::weighted(0.1, 0usize..70)), 1..60),
    ) {
        let mut pool = Pool::new(threads);
        for (tasks, kind, broken) in loops {
            let broken = broken.filter(|i| *i < tasks);
            let (counts, panic) = counted(&mut pool, tasks, kind, broken);
            prop_assert_eq!(panic, broken.map(|i| format!("task {i}")));
            match broken {
                None => prop_assert!(counts.iter().all(|c| *c == 1), "{:?}", counts),
                Some(i) => prop_assert!(counts[i] == 1 && counts.iter().all(|c| *c <= 1), "{:?}", counts),
            }
        }
    }
}

#[test]
fn short_loops_lose_no_task_and_leave_none_behind() {
    // A task of the loop before, run late, would be seen by its number.
    for threads in [2, 3, 7] {
        let mut pool = Pool::new(threads);
        let end = Instant::now() + Duration::from_millis(300);
        let mut round = 0usize;
        while Instant::now() < end {
            let tasks = 2 + round % 5;
            let sum = AtomicUsize::new(0);
            let own = round;
            pool.run(tasks, |i| {
                sum.fetch_add(own * 10 + i + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), tasks * own * 10 + tasks * (tasks + 1) / 2);
            round += 1;
        }
        assert!(round > 100, "{round} loops in 0.3 s with {threads} threads");
    }
}

#[test]
fn loops_after_a_pause_find_the_helpers_asleep() {
    let mut pool = Pool::new(4);
    for pause in [0, 50, 99, 100, 101, 150, 1_000, 5_000].map(Duration::from_micros) {
        for _ in 0..20 {
            thread::sleep(pause);
            let (counts, _) = counted(&mut pool, 9, 1, None);
            assert_eq!(counts, [1; 9]);
        }
    }
}

#[test]
fn helpers_take_part() {
    let mut pool = Pool::new(3);
    let helped = AtomicUsize::new(0);
    for _ in 0..20 {
        // The caller waits for its own task, so that helpers have all the time they need.
        pool.run(6, |_| {
            helped.fetch_add(usize::from(on_helper()), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        });
    }
    assert!(helped.into_inner() > 20);
}

#[test]
fn a_helper_that_stops_in_its_tasks_sits_out() {
    let mut pool = Pool::new(2);
    let stops = AtomicUsize::new(0);
    let (start, mut loops) = (Instant::now(), 0);
    while stops.load(Ordering::Relaxed) < 10 && start.elapsed() < Duration::from_secs(10) {
        pool.run(8, |_| {
            if on_helper() {
                stops.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(4));
            } else {
                (0..200).for_each(|_| std::hint::spin_loop());
            }
        });
        loops += 1;
    }
    // Without sitting out it stops in every loop.
    assert!(loops > 200, "{loops} loops, {stops:?} stops");
}

#[test]
fn many_more_threads_than_cores_do_not_stand_still() {
    let mut pool = Pool::new(64);
    let start = Instant::now();
    for _ in 0..500 {
        let (counts, _) = counted(&mut pool, 128, 1, None);
        assert!(counts.iter().all(|c| *c == 1));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_pool_ends_at_once_whatever_its_helpers_do() {
    for pause in [0, 30, 90, 120, 500, 3_000].map(Duration::from_micros) {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads);
            // Late helpers, which sit out then.
            pool.run(8, |_| thread::sleep(Duration::from_micros(if on_helper() { 3_000 } else { 10 })));
            thread::sleep(pause);
            let start = Instant::now();
            drop(pool);
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
    }
}

#[test]
fn a_pool_may_move_between_threads() {
    let mut pool = Pool::new(3);
    for _ in 0..20 {
        pool = thread::spawn(move || {
            let (counts, _) = counted(&mut pool, 30, 3, None);
            assert_eq!(counts, [1; 30]);
            pool
        })
        .join()
        .unwrap();
    }
}
