//! The only switch between the standard library, loom and Shuttle. Nothing else in the crate names any of them, but what
//! drives a checked run: the tests, the model, and the conformance harness.
//!
//! `--cfg loom` explores memory orderings, `--cfg shuttle` explores interleavings. Both replace the primitives below;
//! what only they need (scheduling points, an epoch of their own) is here too, so that no other file knows of them.

#[cfg(all(loom, shuttle))]
compile_error!("choose one of --cfg loom and --cfg shuttle");

/// Is one of the model checkers in charge?
pub(crate) const CHECKED: bool = cfg!(any(loom, shuttle));

#[cfg(not(any(loom, shuttle)))]
mod arm {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard, TryLockError, atomic};
    #[cfg(test)]
    pub(crate) use std::thread;
    pub(crate) use std::thread_local;

    /// Retires through the process's epoch.
    pub(crate) mod epoch {
        pub(crate) use crossbeam_epoch::{Guard, pin};
    }

    pub(crate) fn spin_loop() {
        std::hint::spin_loop();
    }

    /// Waits on `condvar`, at most until `deadline`.
    pub(crate) fn wait_until<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        deadline: Option<std::time::Instant>,
    ) -> MutexGuard<'a, T> {
        match deadline {
            None => condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner),
            Some(at) => {
                let left = at.saturating_duration_since(std::time::Instant::now());
                condvar.wait_timeout(guard, left).unwrap_or_else(std::sync::PoisonError::into_inner).0
            }
        }
    }

    std::thread_local! { static HERE: u8 = const { 0 } }

    /// A number for this thread, unlike that of every other living thread; never 0.
    pub(crate) fn thread_token() -> usize {
        HERE.with(|here| std::ptr::from_ref(here).addr())
    }

    /// Where this thread begins to look for something of its own among many.
    pub(crate) fn thread_hint() -> usize {
        // Thread-local blocks are pages apart; the middle bits differ most.
        let token = thread_token();
        (token >> 6) ^ (token >> 12) ^ (token >> 18)
    }
}

#[cfg(shuttle)]
mod arm {
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard, atomic};
    #[cfg(any(test, fuzzing))]
    pub(crate) use shuttle::thread;
    pub(crate) use shuttle::thread_local;
    pub(crate) use std::sync::TryLockError;

    /// One collector an execution and one participant a pin: all tasks share one OS thread, and with the process's
    /// epoch they would share one participant, and leave their garbage to later executions.
    pub(crate) mod epoch {
        pub(crate) use crossbeam_epoch::Guard;
        shuttle::lazy_static! { static ref COLLECTOR: crossbeam_epoch::Collector = crossbeam_epoch::Collector::new(); }
        pub(crate) fn pin() -> Guard {
            COLLECTOR.register().pin()
        }
    }

    pub(crate) fn spin_loop() {
        shuttle::hint::spin_loop();
    }

    /// Shuttle has no time: there is no deadline.
    pub(crate) fn wait_until<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _deadline: Option<std::time::Instant>,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    shuttle::thread_local! { static HERE: usize = super::next_token() }

    pub(crate) fn thread_token() -> usize {
        HERE.with(|here| *here)
    }

    /// The same in every execution, or a schedule could not be replayed.
    pub(crate) fn thread_hint() -> usize {
        0
    }
}

#[cfg(loom)]
mod arm {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard, atomic};
    #[cfg(test)]
    pub(crate) use loom::thread;
    pub(crate) use loom::thread_local;
    pub(crate) use std::sync::TryLockError;

    /// The real epoch, instrumented: exact, but its own fences hide missing ones of ours, and it is slow.
    #[cfg(crossbeam_loom)]
    pub(crate) mod epoch {
        pub(crate) use crossbeam_epoch::Guard;
        loom::lazy_static! { static ref COLLECTOR: crossbeam_epoch::Collector = crossbeam_epoch::Collector::new(); }
        pub(crate) fn pin() -> Guard {
            COLLECTOR.register().pin()
        }
    }

    /// An epoch that never ends: no fence of it can stand in for one of ours. What is retired is freed with the execution.
    #[cfg(not(crossbeam_loom))]
    pub(crate) mod epoch {
        type Deferred = Box<dyn FnOnce()>;
        struct Heap(std::sync::Mutex<Vec<Deferred>>);
        // SAFETY: loom runs every thread of an execution on one OS thread; nothing is sent anywhere.
        #[expect(unsafe_code, reason = "see SAFETY")]
        unsafe impl Send for Heap {}
        // SAFETY: as for Send.
        #[expect(unsafe_code, reason = "see SAFETY")]
        unsafe impl Sync for Heap {}
        impl Drop for Heap {
            fn drop(&mut self) {
                for free in self.0.get_mut().expect("nobody panics while it is locked").drain(..) {
                    free();
                }
            }
        }
        loom::lazy_static! { static ref HEAP: Heap = Heap(std::sync::Mutex::new(Vec::new())); }

        #[derive(Debug)]
        pub(crate) struct Guard(());
        pub(crate) fn pin() -> Guard {
            Guard(())
        }
        /// The end of a pin is a moment that matters, as with the real one.
        impl Drop for Guard {
            fn drop(&mut self) {}
        }
        impl Guard {
            /// # Safety
            /// As `crossbeam_epoch::Guard::defer_unchecked`.
            #[expect(unsafe_code, reason = "the same signature as the real one")]
            pub(crate) unsafe fn defer_unchecked<F: FnOnce() -> R, R>(&self, free: F) {
                let free: Box<dyn FnOnce() + '_> = Box::new(move || drop(free()));
                // SAFETY: as with the real one, the caller answers for what `free` refers to.
                let free: Deferred = unsafe { std::mem::transmute(free) };
                HEAP.0.lock().expect("nobody panics while it is locked").push(free);
            }
        }
    }

    pub(crate) fn spin_loop() {
        loom::hint::spin_loop();
    }

    /// loom has no time: there is no deadline.
    pub(crate) fn wait_until<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _deadline: Option<std::time::Instant>,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    loom::thread_local! { static HERE: usize = super::next_token() }

    pub(crate) fn thread_token() -> usize {
        HERE.with(|here| *here)
    }

    /// The same in every execution.
    pub(crate) fn thread_hint() -> usize {
        0
    }
}

#[cfg(any(loom, shuttle))]
fn next_token() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

pub(crate) use arm::*;

/// Locks a mutex that guards nothing a panic could leave half-changed.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The same if nobody holds it.
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// `fence(SeqCst)` of a thread whose last access was a read-modify-write of an atomic.
///
/// On x86 that was a locked instruction, which is a full barrier itself: only the compiler must not move anything over it.
/// (The language does not say so, hence the fence elsewhere, and under the checkers.)
#[inline]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
    atomic::fence(atomic::Ordering::SeqCst);
}

// `Arc` and `OnceLock` are std's in every arm. Counting references is not part of the protocol, and the order that
// `OnceLock` gives is the standard library's to prove.
pub(crate) use std::sync::{Arc, OnceLock};
