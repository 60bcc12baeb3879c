//! The sequence of one subscription: which invalidation collided with it last, and which may still be active.
//!
//! # Words
//!
//! | word | meaning | written by |
//! |---|---|---|
//! | `seq` | ticket of the last collision, [`BIRTH`] before the first | callbacks, under the mirror lock |
//! | `by` | identity of the invalidation that wrote `seq` | callbacks, under the mirror lock |
//! | `also` | others that were still active when `seq` was overwritten | callbacks, under the mirror lock |
//! | `settled` | a value of `seq` for which everything that may have been active is known to have ended | readers; subscribe, with [`BIRTH`] |
//! | `flags` | removed, poisoned, released | whoever does it, once |
//!
//! # Invariants
//!
//! 1. A ticket is stored once per (invalidation, subscription) and drawn once, so no value of `seq` ever comes back.
//! 2. Whoever reads `seq == t` (Acquire) finds in `by` and `also` every invalidation that stored up to `t` and has not
//!    been seen to end: `by` and `also` are written before `seq`, and only cells of ended ones are reused.
//! 3. `settled == t` is stored only after the end of everything that 2 speaks of was seen (Acquire).
//!
//! Writers of `seq`, `by` and `also` exclude each other by the mirror lock. If a mirror breaks that rule the answers
//! are wrong but nothing is undefined: all of it is atomic.

use crate::slots::Identity;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};
use crate::sync::{OnceLock, fence_after_rmw};

/// `seq` before any collision.
pub(crate) const BIRTH: u64 = 0;
/// A value of `settled` that no `seq` ever has: the next begin takes the slow path.
pub(crate) const UNSETTLED: u64 = u64::MAX;

/// The subscription is gone, or going: no callback any more.
const REMOVED: u32 = 1;
/// A callback of it panicked, or a change of its state: begins say so, retries are true.
const POISONED: u32 = 2;
/// It has heard the release of its space: begins say so, retries are true.
const RELEASED: u32 = 4;
/// A callback of it panicked: no callback any more.
const SILENCED: u32 = 8;

/// Why a subscription takes no more readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Poisoned,
    Released,
}

/// Cells per block of `also` beyond the first one.
const MORE: usize = 7;

/// A block of `also`; blocks are only ever added.
#[derive(Debug, Default)]
struct More {
    cells: [AtomicU64; MORE],
    next: OnceLock<Box<More>>,
}

/// The words above. Its owner gives it a cache line of its own: this is all that an idle reader touches.
#[derive(Debug)]
pub(crate) struct Sequence {
    seq: AtomicU64,
    settled: AtomicU64,
    by: AtomicU64,
    also: AtomicU64,
    more: OnceLock<Box<More>>,
    flags: AtomicU32,
}

impl Sequence {
    pub(crate) fn new() -> Self {
        Sequence {
            seq: AtomicU64::new(BIRTH),
            settled: AtomicU64::new(UNSETTLED),
            by: AtomicU64::new(Identity::NONE.word()),
            also: AtomicU64::new(Identity::NONE.word()),
            more: OnceLock::new(),
            flags: AtomicU32::new(0),
        }
    }

    // ---- readers

    /// The whole of an idle `read_begin`: the present `seq`, if all it speaks of has ended. Two loads, no store.
    #[inline]
    pub(crate) fn idle(&self) -> Option<u64> {
        let seq = self.current();
        // Acquire: pairs with the Release in `settle`; the reader that settled had seen the ends (invariant 3), so
        // what the primary side changed before them is visible to our build too.
        (self.settled.load(Acquire) == seq).then_some(seq)
    }

    /// The present `seq`.
    #[inline]
    pub(crate) fn current(&self) -> u64 {
        // Acquire: pairs with the Release of `seq` in `set`; it makes `by` and `also` those of this value (invariant 2).
        self.seq.load(Acquire)
    }

    /// Did a callback collide since `seq` was read? Exact under the mirror lock; without it only `true` is reliable.
    #[inline]
    pub(crate) fn changed_since(&self, seq: u64) -> bool {
        // Relaxed, both: under the mirror lock the lock orders them, without it the answer is a hint.
        self.seq.load(Relaxed) != seq || self.flags.load(Relaxed) != 0
    }

    /// Hands every invalidation that may still be active for the present `seq` to `visit`, until it fails.
    pub(crate) fn try_for_each_blocker<E>(&self, mut visit: impl FnMut(Identity) -> Result<(), E>) -> Result<(), E> {
        // Acquire, `by` and cells alike: each pairs with the Release in `set`. A newer value than the one that belongs
        // to our `seq` was stored by a callback that had seen the older one end; it hands that end on to us.
        visit(Identity::from_word(self.by.load(Acquire)))?;
        self.cells().try_for_each(|cell| visit(Identity::from_word(cell.load(Acquire))))
    }

    /// States that everything that belonged to `seq` has ended (the caller saw it), and says why not to go on, if so.
    /// Subscribe says it of [`BIRTH`], never of the present `seq`: a callback may have changed that already.
    pub(crate) fn settle(&self, seq: u64) -> Result<(), Closed> {
        // Release: hands on what the caller saw end, to `idle` and to `set`.
        self.settled.store(seq, Release);
        // The other end is in `close`.
        // - If its fence comes first, we read its flag here, and take our `settled` back.
        // - If ours comes first, its store to `settled` comes after ours.
        fence(SeqCst);
        // Relaxed: UNSETTLED hands nothing on.
        self.open().inspect_err(|_| self.settled.store(UNSETTLED, Relaxed))
    }

    /// `Err` once the subscription takes no more readers.
    pub(crate) fn open(&self) -> Result<(), Closed> {
        // Acquire: what the callback that panicked did is visible to whoever hears of it.
        let flags = self.flags.load(Acquire);
        match flags {
            _ if flags & POISONED != 0 => Err(Closed::Poisoned),
            _ if flags & RELEASED != 0 => Err(Closed::Released),
            _ => Ok(()),
        }
    }

    // ---- callbacks

    /// `mmu_interval_set_seq`: invalidation `me` collides with this subscription. Under the mirror lock, once per call.
    pub(crate) fn set(&self, ticket: u64, me: Identity, is_active: impl Fn(Identity) -> bool) {
        // Acquire: what the reader that settled saw end is handed on through our Release of `seq` below.
        // Relaxed for `seq` and `by`: only callbacks write them, and the mirror lock excludes those.
        if self.settled.load(Acquire) != self.seq.load(Relaxed) {
            let previous = Identity::from_word(self.by.load(Relaxed));
            // One that had our slot ended before we began, and the claim of the slot has acquired that end.
            if !previous.shares_slot_with(me) && is_active(previous) {
                self.remember(previous, is_active);
            }
        }
        // Release: `by` alone may be read too (by a begin that saw the older `seq`): it waits for us as well.
        self.by.store(me.word(), Release);
        // Release: publishes `by` and `also` with it (invariant 2).
        self.seq.store(ticket, Release);
    }

    /// Puts an active invalidation that is about to be overwritten in `by` where readers look for it.
    fn remember(&self, previous: Identity, is_active: impl Fn(Identity) -> bool) {
        let free = |cell: &&AtomicU64| !is_active(Identity::from_word(cell.load(Relaxed)));
        let cell = self.cells().find(free).unwrap_or_else(|| self.grow());
        // Release: whoever reads the new value knows that what the cell held before has ended: `is_active` was Acquire.
        cell.store(previous.word(), Release);
    }

    /// A fresh cell. It allocates: the one place on the notify path that does, and only when more than two overlapping
    /// invalidations are active over one subscription at once, for the first time.
    #[cold]
    fn grow(&self) -> &AtomicU64 {
        let mut link = &self.more;
        while let Some(more) = link.get() {
            link = &more.next;
        }
        &link.get_or_init(Default::default).cells[0]
    }

    /// All cells of `also`.
    fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        let blocks = std::iter::successors(self.more.get(), |more| more.next.get());
        std::iter::once(&self.also).chain(blocks.flat_map(|more| &more.cells))
    }

    // ---- ends of life

    /// Marks it removed. The caller then looks which batches hold it.
    pub(crate) fn mark_removed(&self) {
        // Release: pairs with `is_silent`.
        self.flags.fetch_or(REMOVED, Release);
        // The other end is in `Slot::hold`.
        // - If our fence comes first, the batch reads the flag and drops the subscription.
        // - If its fence comes first, we find the subscription among what it calls, and wait for it.
        fence_after_rmw();
    }

    /// Is no callback to run any more?
    pub(crate) fn is_silent(&self) -> bool {
        // Acquire: an owner whom nobody tells to wait for a mirror, as it is gone, sees all that was done before it went.
        self.flags.load(Acquire) & (REMOVED | SILENCED) != 0
    }

    /// Calls it back no more: its callback panicked.
    pub(crate) fn silence(&self) {
        // Release: pairs with `is_silent`.
        self.flags.fetch_or(SILENCED, Release);
        self.close(Closed::Poisoned);
    }

    /// Turns readers away from now on.
    pub(crate) fn close(&self, why: Closed) {
        let flag = match why {
            Closed::Poisoned => POISONED,
            Closed::Released => RELEASED,
        };
        // Release: pairs with `open`.
        self.flags.fetch_or(flag, Release);
        // The other end is in `settle`.
        fence(SeqCst);
        // Relaxed: whoever finds it looks at the flag next.
        self.settled.store(UNSETTLED, Relaxed);
    }
}

/// Poisons a subscription if it is dropped by a panic: what the panic left half-changed is not to be built upon.
#[must_use]
pub(crate) struct PoisonOnUnwind<'a>(&'a Sequence);

impl<'a> PoisonOnUnwind<'a> {
    pub(crate) fn new(sequence: &'a Sequence) -> Self {
        PoisonOnUnwind(sequence)
    }

    /// It went well.
    pub(crate) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.close(Closed::Poisoned);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn blockers(sequence: &Sequence) -> Vec<u64> {
        let mut found = Vec::new();
        let visit = |identity: Identity| {
            found.extend((identity != Identity::NONE).then(|| identity.word()));
            Ok::<_, ()>(())
        };
        sequence.try_for_each_blocker(visit).unwrap();
        found
    }

    #[test]
    fn what_is_settled_is_not_waited_for_again() {
        let sequence = Sequence::new();
        assert_eq!(sequence.idle(), None);
        assert_eq!(sequence.settle(BIRTH), Ok(()));
        assert_eq!(sequence.idle(), Some(BIRTH));
        sequence.set(3, Identity::from_word(1), |_| true);
        assert_eq!(sequence.idle(), None);
        assert_eq!(sequence.settle(3), Ok(()));
        assert_eq!(sequence.idle(), Some(3));
        sequence.close(Closed::Released);
        assert_eq!((sequence.idle(), sequence.settle(3)), (None, Err(Closed::Released)));
        assert_eq!(sequence.idle(), None);
    }

    #[test]
    fn what_is_active_is_remembered_and_nothing_else() {
        // The words of identities: those of one slot differ above bit 16.
        let [first, second, again] = [1 << 16, 1 << 16 | 1, 2 << 16 | 1].map(Identity::from_word);
        let sequence = Sequence::new();
        sequence.set(1, first, |_| false);
        assert_eq!(blockers(&sequence), [first.word()]);
        sequence.set(3, second, |other| other == first);
        assert_eq!(blockers(&sequence), [second.word(), first.word()]);
        // The second one has ended: its slot is used again. The look at it is spared.
        sequence.set(5, again, |other| {
            assert_ne!(other, second);
            true
        });
        assert_eq!(blockers(&sequence), [again.word(), first.word()]);
        // Nothing is active any more, so nobody new is remembered.
        sequence.set(7, Identity::from_word(1 << 16 | 2), |_| false);
        assert_eq!(blockers(&sequence), [1 << 16 | 2, first.word()]);
    }
}
