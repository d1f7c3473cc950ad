//! A small pool of threads for many short parallel loops.
//!
//! The calling thread hands out the iterations of a loop and takes part itself. It waits for nobody who has not begun
//! one: where a helper does not run, because other programs have its core, the caller does everything alone. A helper that
//! stops in the middle of an iteration does hold everybody up. It then sits out for a while, longer each time it happens
//! again. Time decides which thread does what, never what is done.

mod trust;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use trust::Trust;

use crate::host::Instant;

/// How long a thread that waits keeps its core for itself. Then it lets others run in between.
const SPIN: Duration = Duration::from_micros(10);
/// How long a helper waits for the next loop before it sleeps.
const AWAKE: Duration = Duration::from_micros(100);
/// Who makes others wait longer than this, and longer than they worked, was not running.
const LATE: Duration = Duration::from_micros(50);
/// A loop body with its lifetime erased, and its iterations.
#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// On a cache line of its own, or two.
#[repr(align(128))]
struct Line<T>(T);

/// What a helper looks at to begin a task.
struct Front {
    /// Tasks that nobody has taken; 0 or less if there are none.
    open: AtomicIsize,
    /// What the tasks are. The caller writes it while no task is unfinished; a thread reads it while it has one.
    job: UnsafeCell<Job>,
    /// Grows when the calling thread begins a loop and when it finds no more to do: odd while it works.
    caller: AtomicUsize,
    /// Whether helpers sleep until a task is open, or are about to.
    helpers_sleep: AtomicBool,
}

/// What a thread looks at when it has no more tasks.
struct Back {
    /// Tasks that are not done, or whose threads have not said so.
    unfinished: AtomicUsize,
    /// Whether the calling thread sleeps until no task is unfinished, or is about to.
    caller_sleeps: AtomicBool,
    /// Whether a task has panicked.
    panicked: AtomicBool,
}

struct Shared {
    front: Line<Front>,
    back: Line<Back>,
    /// Held while the two signs of sleep change, and between a last look and sleep.
    bed: Mutex<()>,
    opened: Condvar,
    finished: Condvar,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The loop, by its number, in which a helper has given way to the caller.
    given_way: AtomicUsize,
    helpers: Vec<Line<Helper>>,
    /// What times are counted from.
    epoch: Instant,
}

// SAFETY: `job` is what is not `Sync`. The caller writes it while `unfinished` is 0, which it has read with `Acquire`;
// a thread reads it after it has taken a task (`Acquire`, after the caller's store to `open`) and before it takes the
// task off `unfinished` (`Release`). What `body` points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// What others know of a helper.
#[derive(Default)]
struct Helper {
    /// Whether it has a task.
    works: AtomicBool,
    /// Since when (nanoseconds after the epoch) the caller has waited for it in vain; 0 if it has not.
    late: AtomicU64,
}

/// Threads that share the iterations of a loop. Which thread does which iteration is left to chance.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads`, the calling one included; of fewer, if the system gives no more.
    pub fn new(threads: usize) -> Self {
        let nothing: *const (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            front: Line(Front {
                open: AtomicIsize::new(0),
                job: UnsafeCell::new(Job { body: nothing, tasks: 0 }),
                caller: AtomicUsize::new(0),
                helpers_sleep: AtomicBool::new(false),
            }),
            back: Line(Back {
                unfinished: AtomicUsize::new(0),
                caller_sleeps: AtomicBool::new(false),
                panicked: AtomicBool::new(false),
            }),
            bed: Mutex::new(()),
            opened: Condvar::new(),
            finished: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            given_way: AtomicUsize::new(0),
            helpers: (1..threads).map(|_| Line(Helper::default())).collect(),
            epoch: Instant::now(),
        });
        let start = |i: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("samebits-{}", i + 1)).spawn(move || shared.help(i)).ok()
        };
        let workers = (0..shared.helpers.len()).map_while(start).collect();
        Self { shared, workers }
    }

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(i)` for every `i` below `tasks`, on any thread, and returns when all are done.
    ///
    /// # Panics
    /// As `body` did. Iterations that had not begun by then are left out.
    pub fn run(&mut self, tasks: usize, body: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(body);
            return;
        }
        let (Line(front), Line(back)) = (&self.shared.front, &self.shared.back);
        let body: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: only the lifetime changes. This function returns only after every task is done, and nobody uses the
        // body without having one.
        let body: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(body) };
        // SAFETY: no task is unfinished, so nobody reads it.
        unsafe { *front.job.get() = Job { body, tasks } };
        back.unfinished.store(tasks, Ordering::Relaxed);
        let number = front.caller.load(Ordering::Relaxed).wrapping_add(1);
        front.caller.store(number, Ordering::Relaxed);
        let start = Instant::now();
        // Either a helper sees the tasks before it sleeps, or they see here that it does: both sides write, then read.
        front.open.store(tasks as isize, Ordering::SeqCst);
        if front.helpers_sleep.load(Ordering::SeqCst) {
            let _bed = self.shared.bed();
            front.helpers_sleep.store(false, Ordering::Relaxed);
            self.shared.opened.notify_all();
        }
        let done = self.shared.work();
        front.caller.store(number.wrapping_add(1), Ordering::Relaxed);
        if back.unfinished.fetch_sub(done, Ordering::AcqRel) != done {
            self.shared.wait(start);
        }
        if back.panicked.load(Ordering::Relaxed) {
            back.panicked.store(false, Ordering::Relaxed);
            let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            resume_unwind(panic.unwrap_or_else(|| Box::new("a task panicked")));
        }
    }

    /// Calls `f` for each row of `width` elements of `out` with its place and itself; one row stays on this thread.
    pub(super) fn rows(
        &mut self,
        out: &mut [f32],
        width: usize,
        rows: usize,
        f: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let cells = Disjoint::new(out);
        self.run(rows, |row| {
            let at = row * width..(row + 1) * width;
            // SAFETY: each task has its own row.
            let out = unsafe { cells.slice(at.clone()) };
            f(at, out);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _bed = self.shared.bed();
            self.shared.stop.store(true, Ordering::SeqCst);
            self.shared.opened.notify_all();
        }
        for worker in self.workers.drain(..) {
            // It may sit out.
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn bed(&self) -> MutexGuard<'_, ()> {
        self.bed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tasks and does them until none is open; how many. If one panics, the rest is given up and counted, too.
    fn work(&self) -> usize {
        let done = Cell::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            while let Some(open) = self.take() {
                done.set(done.get() + 1);
                // SAFETY: this thread has a task that is unfinished (see `Sync`).
                let job = unsafe { *self.front.0.job.get() };
                // SAFETY: `run` waits for the task before the body dies.
                let body = unsafe { &*job.body };
                body(job.tasks - open);
            }
        }));
        if let Err(panic) = result {
            let rest = self.front.0.open.swap(0, Ordering::Relaxed);
            done.set(done.get() + usize::try_from(rest).unwrap_or(0));
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            self.back.0.panicked.store(true, Ordering::Relaxed);
        }
        done.get()
    }

    /// Takes a task: the number of those open before.
    fn take(&self) -> Option<usize> {
        let open = &self.front.0.open;
        // Several may find one task; all but one of them find less than none then.
        if open.load(Ordering::Relaxed) <= 0 {
            return None;
        }
        usize::try_from(open.fetch_sub(1, Ordering::Acquire)).ok().filter(|open| *open > 0)
    }

    /// The caller's wait for tasks that helpers have, after it has worked from `start` on.
    fn wait(&self, start: Instant) {
        let Line(back) = &self.back;
        let unfinished = || back.unfinished.load(Ordering::SeqCst) != 0;
        for _ in 0..32 {
            if !unfinished() {
                return;
            }
            std::hint::spin_loop();
        }
        if linger(LATE + start.elapsed(), || !unfinished()) {
            return;
        }
        let now = (self.epoch.elapsed().as_nanos() as u64).max(1);
        for Line(helper) in &self.helpers {
            if helper.works.load(Ordering::Relaxed) {
                helper.late.store(now, Ordering::Relaxed);
            }
        }
        // An idle core may take over the helper.
        let mut bed = self.bed();
        back.caller_sleeps.store(true, Ordering::SeqCst);
        while unfinished() {
            bed = self.finished.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        back.caller_sleeps.store(false, Ordering::Relaxed);
    }

    /// What a helper does until the pool ends.
    fn help(&self, me: usize) {
        let Line(me) = &self.helpers[me];
        let mut trust = Trust::new(self.helpers.len() + 1);
        while self.next() {
            let start = Instant::now();
            // What was said before was about an earlier task.
            me.late.store(0, Ordering::Relaxed);
            me.works.store(true, Ordering::Relaxed);
            let done = self.work();
            me.works.store(false, Ordering::Relaxed);
            if done == 0 {
                continue;
            }
            let number = self.front.0.caller.load(Ordering::Relaxed);
            let all = self.back.0.unfinished.fetch_sub(done, Ordering::SeqCst) == done;
            if all && self.back.0.caller_sleeps.load(Ordering::SeqCst) {
                let _bed = self.bed();
                self.finished.notify_one();
            }
            let late = me.late.load(Ordering::Relaxed);
            let lost = if late > 0 {
                self.epoch.elapsed().saturating_sub(Duration::from_nanos(late))
            } else if !all && number % 2 == 1 {
                self.caller_is_late(number, start.elapsed())
            } else {
                Duration::ZERO
            };
            if !lost.is_zero() {
                self.sit_out(trust.lose(lost, self.epoch.elapsed()));
            }
        }
    }

    /// Waits for an open task; whether there will be more.
    fn next(&self) -> bool {
        let ready = || self.front.0.open.load(Ordering::SeqCst) > 0 || self.stop.load(Ordering::SeqCst);
        if !linger(AWAKE, ready) {
            let mut bed = self.bed();
            loop {
                self.front.0.helpers_sleep.store(true, Ordering::SeqCst);
                if ready() {
                    break;
                }
                bed = self.opened.wait(bed).unwrap_or_else(PoisonError::into_inner);
            }
        }
        !self.stop.load(Ordering::SeqCst)
    }

    /// After a helper has `worked` on loop `number`: how long it then waited for the caller, if that was not running. The
    /// caller may stand in line behind this very thread. One helper that gives way is enough.
    fn caller_is_late(&self, number: usize, worked: Duration) -> Duration {
        let start = Instant::now();
        let ready = || self.front.0.caller.load(Ordering::Relaxed) != number || self.stop.load(Ordering::Relaxed);
        if linger(LATE + worked, ready) || self.given_way.swap(number, Ordering::Relaxed) == number {
            return Duration::ZERO;
        }
        start.elapsed()
    }

    fn sit_out(&self, time: Duration) {
        let start = Instant::now();
        while let Some(left) = time.checked_sub(start.elapsed())
            && !self.stop.load(Ordering::SeqCst)
        {
            thread::park_timeout(left);
        }
    }
}

/// Waits for at most `time`, awake; whether `ready` was met.
fn linger(time: Duration, ready: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let waited = start.elapsed();
        if waited > time {
            return false;
        }
        if waited > SPIN {
            thread::yield_now();
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
