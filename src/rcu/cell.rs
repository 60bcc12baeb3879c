//! One published value that readers see whole and never wait for.

use crate::sync::atomic::{AtomicPtr, Ordering::*};
use crate::sync::epoch;
use std::marker::PhantomData;

/// Publishes a `T`. Readers are pinned while they look; a replaced value is freed when the last of them is gone.
#[derive(Debug)]
pub(super) struct Published<T> {
    current: AtomicPtr<T>,
    owns: PhantomData<T>,
}

impl<T: Send + Sync + 'static> Published<T> {
    pub(super) fn new(value: T) -> Self {
        Published { current: AtomicPtr::new(Box::into_raw(Box::new(value))), owns: PhantomData }
    }

    /// The present value, for as long as `guard` is pinned.
    pub(super) fn load<'g>(&self, _guard: &'g epoch::Guard) -> &'g T {
        // Acquire: pairs with the Release in `replace`; the value is there when the pointer is.
        let current = self.current.load(Acquire);
        // SAFETY: `current` came from a `Box` and is freed no earlier than the pin ends that `_guard` stands for
        // (invariant 1); nobody has `&mut` to it.
        unsafe { &*current }
    }

    /// Publishes `value`. The one before is retired when what is returned is dropped.
    pub(super) fn replace(&self, value: T) -> Retired<T> {
        let next = Box::into_raw(Box::new(value));
        // Release: publishes what `next` points to. Acquire: we free the old one, so what its publisher did comes first.
        Retired(Garbage(self.current.swap(next, AcqRel)))
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // Relaxed: `&mut self`, whoever had access before is ordered by whatever gave us this.
        Garbage(self.current.load(Relaxed)).free();
    }
}

/// A value that was replaced. Dropping it hands it to the epoch.
#[must_use]
pub(super) struct Retired<T>(Garbage<T>);

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        let garbage = Garbage(self.0.0);
        let guard = epoch::pin();
        // SAFETY: it was swapped out, so no later pin can load it, and nobody else frees it: `Retired` is made once, by
        // `replace`, and does not give it away. `T: Send` there, so it may be dropped by any thread.
        unsafe { guard.defer_unchecked(move || garbage.free()) };
    }
}

/// A box that nobody frees but us.
struct Garbage<T>(*mut T);

impl<T> Garbage<T> {
    fn free(self) {
        // SAFETY: made by `Box::into_raw` in `new` or `replace`; freed once, after `Published` gave up every access.
        drop(unsafe { Box::from_raw(self.0) });
    }
}
