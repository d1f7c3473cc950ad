//! What the machine around the program gives: a clock, threads, memory in one piece, and ways to wait.
//!
//! In a browser (wasm32) there are no threads, and nothing may block: a program waits there by giving the page's event loop a
//! turn. The page supplies that as `suspend` of the module `./host.js`, which is WebAssembly's JavaScript
//! Promise Integration; `docs/web.md` has it. Everything else is written once.

#[cfg(not(target_arch = "wasm32"))]
pub use native::*;
#[cfg(target_arch = "wasm32")]
pub use web::*;

/// Threads that are worth starting.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `work` on `count` more threads while `meanwhile` runs on this one; where there are no threads, one after the other.
pub fn beside<T>(count: usize, work: impl Fn() + Sync, meanwhile: impl FnOnce() -> T) -> T {
    if threads() == 1 {
        work();
        return meanwhile();
    }
    std::thread::scope(|scope| {
        (0..count).for_each(|_| drop(scope.spawn(&work)));
        meanwhile()
    })
}

/// Calls `work` for each of a few tasks, each on a thread of its own where there are threads.
pub fn each<T: Send>(tasks: impl Iterator<Item = T>, work: impl Fn(T) + Sync) {
    if threads() == 1 {
        return tasks.for_each(work);
    }
    let work = &work;
    std::thread::scope(|scope| tasks.for_each(|task| drop(scope.spawn(move || work(task)))));
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::io;
    use std::sync::mpsc::{Receiver, RecvError};

    pub use memmap2::MmapMut as Memory;
    pub use pollster::block_on;
    pub use std::time::Instant;

    /// Waits for what another thread, or a device that was polled, sends.
    pub fn recv<T>(from: &Receiver<T>) -> Result<T, RecvError> {
        from.recv()
    }

    /// So many bytes of memory of its own, all zero.
    pub fn zeroed(bytes: usize) -> io::Result<Memory> {
        let memory = Memory::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        // Large pages: fewer faults, and fewer misses of the address cache; only a wish.
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(memory)
    }
}

#[cfg(target_arch = "wasm32")]
mod web {
    use std::io;
    use std::pin::pin;
    use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
    use std::task::{Context, Poll, Waker};

    pub use web_time::Instant;

    /// A page maps no memory: it has one heap.
    pub type Memory = Vec<u8>;

    #[link(wasm_import_module = "./host.js")]
    unsafe extern "C" {
        safe fn suspend();
    }

    /// Waits for a future.
    pub fn block_on<F: Future>(future: F) -> F::Output {
        let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return value,
                Poll::Pending => suspend(),
            }
        }
    }

    /// Waits for what a callback sends.
    pub fn recv<T>(from: &Receiver<T>) -> Result<T, RecvError> {
        loop {
            match from.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => suspend(),
            }
        }
    }

    /// So many bytes of memory, all zero.
    pub fn zeroed(bytes: usize) -> io::Result<Memory> {
        let mut memory = Memory::new();
        memory.try_reserve_exact(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        memory.resize(bytes, 0);
        Ok(memory)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn every_task_is_done_once_and_what_runs_meanwhile_has_the_result() {
        let mut cells = [0; 5];
        each(cells.iter_mut().enumerate(), |(i, cell)| *cell += i);
        assert_eq!(cells, [0, 1, 2, 3, 4]);
        let calls = AtomicUsize::new(0);
        let work = || {
            calls.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(beside(3, work, || "result"), "result");
        assert_eq!(calls.into_inner(), if threads() == 1 { 1 } else { 3 });
    }

    #[test]
    fn memory_is_zero_and_can_be_written() -> std::io::Result<()> {
        let mut memory = zeroed(1 << 22)?;
        assert!(memory.iter().all(|byte| *byte == 0));
        memory.fill(7);
        assert_eq!((memory[0], memory[memory.len() - 1]), (7, 7));
        Ok(())
    }

    #[test]
    fn a_sender_that_is_gone_ends_the_wait() {
        let (send, answer) = channel();
        send.send(7).unwrap_or_default();
        drop(send);
        assert_eq!(recv(&answer), Ok(7));
        assert!(recv(&answer).is_err());
        assert_eq!(block_on(async { 8 }), 8);
    }
}
