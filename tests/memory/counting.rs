//! An allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What a thread has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// A block that was moved to another size is one allocation and one free.
    pub(crate) allocations: usize,
    pub(crate) frees: usize,
}

impl Sub for Counts {
    type Output = Counts;
    fn sub(self, before: Counts) -> Counts {
        Counts { allocations: self.allocations - before.allocations, frees: self.frees - before.frees }
    }
}

/// Counts what this thread does in `run`.
pub(crate) fn count<R>(run: impl FnOnce() -> R) -> (R, Counts) {
    let before = MINE.get();
    let result = run();
    (result, MINE.get() - before)
}

/// What all threads have allocated and not yet freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) blocks: usize,
    pub(crate) bytes: usize,
}

pub(crate) fn live() -> Live {
    Live { blocks: BLOCKS.load(Relaxed), bytes: BYTES.load(Relaxed) }
}

/// Runs one test at a time, each on a thread of its own: when this returns the thread has gone, and what it had retired
/// through the epoch is in the epoch's common queue.
pub(crate) fn alone(test: impl FnOnce() + Send) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = std::thread::scope(|scope| scope.spawn(test).join()); // `join`, as a scope waits less long
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

thread_local! {
    // Without a destructor and without lazy initialisation: the allocator may be called before and after everything.
    static MINE: Cell<Counts> = const { Cell::new(Counts { allocations: 0, frees: 0 }) };
}
static BLOCKS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocated(layout: Layout) {
    MINE.set(Counts { allocations: MINE.get().allocations + 1, ..MINE.get() });
    BLOCKS.fetch_add(1, Relaxed);
    BYTES.fetch_add(layout.size(), Relaxed);
}

fn freed(layout: Layout) {
    MINE.set(Counts { frees: MINE.get().frees + 1, ..MINE.get() });
    BLOCKS.fetch_sub(1, Relaxed);
    BYTES.fetch_sub(layout.size(), Relaxed);
}

// SAFETY: it hands everything to `System` and only counts. `realloc` and `alloc_zeroed` are the trait's own, which are
// made of these two.
#[expect(unsafe_code, reason = "an allocator cannot be had without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout);
        // SAFETY: our caller's promises are those of the callee.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        freed(layout);
        // SAFETY: as in `alloc`; every block came from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}
