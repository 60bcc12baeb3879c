//! One notifier of the list, and what is known of it.
//!
//! The list, and every invalidation that has started with that list, refer to members by `Arc`. The notifier itself is
//! behind a lock for reading while it is called; whoever waits for its callbacks takes the lock for writing. Callers
//! never wait for that lock: if it cannot be had at once, the notifier has let go of everything or is being taken out,
//! and is not called any more.
//!
//! # Invariants
//!
//! 1. A notifier leaves its member once, after the member has left the list.
//! 2. `telling` says whether its `release` has been called, and is locked while that runs: so it is called at most once,
//!    and has returned when somebody else has got the lock.
//! 3. The lock is taken for writing only when `released` is set, or when the member has left the list: a start that
//!    is to be told is never kept from it by somebody who waits.

use super::Kind;
use crate::range::Address;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use crate::sync::{Mutex, RwLock, RwLockWriteGuard, lock, try_lock};
use std::sync::PoisonError;

/// See the module.
pub(crate) struct Member<N, A: Address> {
    notifier: RwLock<Option<N>>,
    kind: for<'a> fn(&'a N) -> Kind<'a, A>,
    /// Has it been told that the space is released, or that it was unregistered?
    telling: Mutex<bool>,
    /// It has been told, and has let go of everything: from now on it is not called. Until then it still is: what it has
    /// not let go of yet must not be changed behind its back.
    released: AtomicBool,
    /// A callback of it panicked: it is not called any more.
    poisoned: AtomicBool,
    /// How many handles there are of one that is shared by its type; changed under the writer's lock.
    pub(crate) users: AtomicUsize,
    /// Has its registration waited for the invalidations that were active?
    pub(crate) ready: AtomicBool,
}

impl<N, A: Address> Member<N, A> {
    pub(crate) fn new(notifier: N, kind: for<'a> fn(&'a N) -> Kind<'a, A>) -> Self {
        Member {
            notifier: RwLock::new(Some(notifier)),
            kind,
            telling: Mutex::new(false),
            released: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            users: AtomicUsize::new(1),
            ready: AtomicBool::new(false),
        }
    }

    /// Shows the notifier to `look`, if it is still there and nobody waits for its callbacks.
    fn with(&self, look: impl FnOnce(&N)) {
        if let Some(notifier) = self.notifier.try_read().ok().as_deref().and_then(Option::as_ref) {
            look(notifier);
        }
    }

    /// Waits for its callbacks, and keeps others from beginning.
    fn lock_alone(&self) -> RwLockWriteGuard<'_, Option<N>> {
        self.notifier.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the notifier out, after its callbacks. The member has left the list.
    pub(crate) fn take(&self) -> Option<N> {
        self.lock_alone().take()
    }
}

/// A member whose type is forgotten.
pub(crate) trait AnyMember<A: Address>: Send + Sync {
    /// Calls it back, if it is to be called at all.
    fn call(&self, call: &mut dyn FnMut(Kind<'_, A>));
    /// Tells it of the release, unless it has been told. If somebody else is telling it just now, waits until they have,
    /// or does nothing if `may_wait` is false.
    fn release(&self, may_wait: bool);
    /// Waits for its callbacks. It has been told of the release.
    fn wait_uncalled(&self);
    /// Drops the notifier, after its callbacks. The member has left the list.
    fn bury(&self);
    /// Drops the notifier if nobody calls it just now. The member has left the list.
    fn try_bury(&self) -> bool;
}

impl<N: Send + Sync + 'static, A: Address> AnyMember<A> for Member<N, A> {
    fn call(&self, call: &mut dyn FnMut(Kind<'_, A>)) {
        self.with(|notifier| {
            // Relaxed: a hint; whoever must know is told by the panic, or by `release` having been called.
            if !self.poisoned.load(Relaxed) && !self.released.load(Relaxed) {
                let unwinding = SetOnDrop(&self.poisoned);
                call((self.kind)(notifier));
                std::mem::forget(unwinding);
            }
        });
    }

    fn release(&self, may_wait: bool) {
        let telling = if may_wait { Some(lock(&self.telling)) } else { try_lock(&self.telling) };
        let Some(mut told) = telling else { return };
        if !std::mem::replace(&mut *told, true) {
            let _released = SetOnDrop(&self.released);
            // Relaxed: as in `call`.
            if !self.poisoned.load(Relaxed) {
                self.with(|notifier| (self.kind)(notifier).release());
            }
        }
    }

    fn wait_uncalled(&self) {
        drop(self.lock_alone());
    }

    fn bury(&self) {
        drop(self.take());
    }

    fn try_bury(&self) -> bool {
        let taken = self.notifier.try_write().map(|mut notifier| notifier.take());
        taken.is_ok()
    }
}

/// Sets a flag when a callback is over, or when it unwinds.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
