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

    /// Publishes `value` and retires the one before.
    pub(super) fn replace(&self, value: T) {
        let next = Box::into_raw(Box::new(value));
        // Release: publishes what `next` points to. Acquire: we free the old one, so what its publisher did comes first.
        let old = Retired(self.current.swap(next, AcqRel));
        let guard = epoch::pin();
        // SAFETY: `old` came from a `Box` and was swapped out, so no later pin can load it and nobody else frees it;
        // `T: Send`, so it may be dropped by whichever thread the epoch chooses.
        unsafe { guard.defer_unchecked(move || old.free()) };
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // Relaxed: `&mut self`, whoever had access before is ordered by whatever gave us this.
        Retired(self.current.load(Relaxed)).free();
    }
}

/// A box that waits to be freed.
struct Retired<T>(*mut T);

impl<T> Retired<T> {
    fn free(self) {
        // SAFETY: made from `Box::into_raw` and freed once, by `Published`, which has given up every other access.
        drop(unsafe { Box::from_raw(self.0) });
    }
}
