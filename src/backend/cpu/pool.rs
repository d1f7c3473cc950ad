//! A small pool of threads for many short parallel loops: workers spin briefly before they sleep.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Spins before a worker sleeps: some tens of microseconds.
const SPINS: usize = 4_000;

/// A loop body with its lifetime erased; valid while the `run` that published it has not returned.
#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: the pointee is `Sync`, and `Pool::run` keeps it alive until no worker uses it.
unsafe impl Send for Job {}

struct Shared {
    job: Mutex<Option<Job>>,
    wake: Condvar,
    /// Workers that sleep or are about to; changed under the lock of `job`.
    asleep: AtomicUsize,
    generation: AtomicUsize,
    next: AtomicUsize,
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// Threads that share the iterations of a loop. Which thread does which iteration is left to chance.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads`, the calling one included.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            wake: Condvar::new(),
            asleep: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads.max(1))
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("samebits-{i}")).spawn(move || worker(&shared)).ok()
            })
            .collect();
        Self { shared, workers }
    }

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(i)` for every `i` below `tasks`, on any thread, and returns when all are done.
    ///
    /// # Panics
    /// If `body` panicked on a worker.
    pub fn run(&mut self, tasks: usize, body: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(body);
            return;
        }
        let shared = &*self.shared;
        let body: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: only the lifetime changes. `run` returns, also by unwinding (see `Finish`), only after every worker
        // has left the job, so no worker sees a dangling pointer.
        let body: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(body) };
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        {
            let mut job = shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            *job = Some(Job { body, tasks });
            shared.generation.fetch_add(1, Ordering::Release);
        }
        // A worker counts itself under the lock, before it looks at the generation for the last time.
        if shared.asleep.load(Ordering::Relaxed) > 0 {
            shared.wake.notify_all();
        }
        let finish = Finish(shared);
        // SAFETY: `body` is the caller's closure, alive here.
        work(shared, unsafe { &*body }, tasks);
        drop(finish);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a worker thread panicked");
        }
    }
}

impl Pool {
    /// Calls `f` for each row of `width` elements of `out` with its place and itself; one row stays on this thread.
    pub(super) fn rows(
        &mut self,
        out: &mut [f32],
        width: usize,
        rows: Range<usize>,
        f: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let cells = Disjoint::new(out);
        self.run(rows.len(), |i| {
            let at = (rows.start + i) * width..(rows.start + i + 1) * width;
            // SAFETY: each task has its own row.
            let out = unsafe { cells.slice(at.clone()) };
            f(at, out);
        });
    }
}

/// Waits until every worker has left the job.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.0.busy.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

fn work(shared: &Shared, body: &(dyn Fn(usize) + Sync), tasks: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            return;
        }
        body(i);
    }
}

fn worker(shared: &Shared) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.generation.load(Ordering::Acquire) == seen && spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        }
        let job = {
            let mut guard = shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            shared.asleep.fetch_add(1, Ordering::Relaxed);
            while shared.generation.load(Ordering::Acquire) == seen && !shared.stop.load(Ordering::Relaxed) {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            shared.asleep.fetch_sub(1, Ordering::Relaxed);
            seen = shared.generation.load(Ordering::Acquire);
            *guard
        };
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Some(job) = job {
            // SAFETY: `run` waits for `busy` to reach 0 before its closure dies.
            let body = unsafe { &*job.body };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(shared, body, job.tasks)));
            if result.is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
            shared.busy.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _guard = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.generation.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// A pointer that tasks of a pool write disjoint elements through.
#[derive(Clone, Copy)]
pub(super) struct Disjoint<T>(*mut T, usize);

// SAFETY: every use gives each task its own elements.
unsafe impl<T: Send> Send for Disjoint<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// An element, where there is one.
    ///
    /// # Safety
    /// As [`Self::slice`].
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self, at: usize) -> Option<&mut T> {
        // SAFETY: the caller's.
        if at < self.1 { unsafe { self.slice(at..at + 1) }.first_mut() } else { None }
    }

    /// # Safety
    /// No two live slices may overlap, and the slice that `self` was made from must outlive them.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.1);
        // SAFETY: in bounds; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Pool;

    #[test]
    fn every_task_runs_once() {
        for threads in 1..5 {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }
}
