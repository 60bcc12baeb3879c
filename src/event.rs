//! What an invalidation is: its kind, and on whose behalf it happens.

use crate::error::WouldBlock;
use crate::range::{Address, Span};
use std::hash::{BuildHasher, RandomState};

/// Why a range is invalidated; the names of `enum mmu_notifier_event`.
///
/// The library itself gives no kind a special meaning: they are for the callbacks. Only
/// [`AddressSpace::release`](crate::AddressSpace::release) does more than sending its [`EventKind::Release`].
#[doc(alias = "mmu_notifier_event")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The range goes away, or is replaced by another mapping (`munmap`, `mremap`, `mmap` over it).
    #[doc(alias = "MMU_NOTIFY_UNMAP")]
    Unmap,
    /// The pages are dropped, the range stays (`madvise(MADV_DONTNEED)`, a copy on write, reclaim).
    #[doc(alias = "MMU_NOTIFY_CLEAR")]
    Clear,
    /// The protection of the whole mapping changes (`mprotect`).
    #[doc(alias = "MMU_NOTIFY_PROTECTION_VMA")]
    ProtectVma,
    /// The protection of single pages changes.
    #[doc(alias = "MMU_NOTIFY_PROTECTION_PAGE")]
    ProtectPage,
    /// Pages become write-protected so that writes to them can be tracked.
    #[doc(alias = "MMU_NOTIFY_SOFT_DIRTY")]
    SoftDirty,
    /// The address space goes away. Sent by [`AddressSpace::release`](crate::AddressSpace::release).
    #[doc(alias = "MMU_NOTIFY_RELEASE")]
    Release,
    /// The pages move, to or from a device; see [`Event::with_owner`].
    #[doc(alias = "MMU_NOTIFY_MIGRATE")]
    Migrate,
    /// One device gets the pages for itself; see [`Event::with_owner`].
    #[doc(alias = "MMU_NOTIFY_EXCLUSIVE")]
    Exclusive,
}

/// Who causes an event, so that a mirror can tell its own migrations from those of others.
///
/// The kernel uses a pointer of the driver for it. Two values are equal only if one was copied from the other.
#[doc(alias = "mmu_notifier_range.owner")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u64);

impl Owner {
    /// A new owner, different from all others (64 random bits: nothing in this crate is shared by the whole process).
    #[expect(clippy::new_without_default, reason = "a default suggests one common value; every owner is distinct")]
    pub fn new() -> Self {
        Owner(random_u64())
    }
}

/// Kind and owner of an invalidation.
///
/// ```
/// use interval_notifier::{Event, EventKind, Owner};
/// let me = Owner::new();
/// let event = Event::new(EventKind::Migrate).with_owner(me);
/// assert_eq!((event.kind(), event.owner()), (EventKind::Migrate, Some(me)));
/// assert_eq!(Event::from(EventKind::Unmap).owner(), None);
/// assert_ne!(Owner::new(), me);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    kind: EventKind,
    owner: Option<Owner>,
}

impl Event {
    /// An event without an owner.
    pub const fn new(kind: EventKind) -> Self {
        Event { kind, owner: None }
    }

    /// The same event on behalf of `owner`. A callback that finds itself there may answer
    /// [`unaffected`](crate::Call::unaffected): a device need not drop what it migrates itself.
    pub const fn with_owner(self, owner: Owner) -> Self {
        Event { kind: self.kind, owner: Some(owner) }
    }

    /// Why the range is invalidated.
    pub const fn kind(&self) -> EventKind {
        self.kind
    }

    /// On whose behalf, if anybody's.
    pub const fn owner(&self) -> Option<Owner> {
        self.owner
    }
}

impl From<EventKind> for Event {
    fn from(kind: EventKind) -> Self {
        Event::new(kind)
    }
}

/// One invalidation, as one subscription is told of it.
#[doc(alias = "mmu_notifier_range")]
#[derive(Debug)]
pub struct Change<A: Address = u64> {
    pub(crate) range: Span<A>,
    pub(crate) overlap: Span<A>,
    pub(crate) event: Event,
    pub(crate) ticket: u64,
    pub(crate) blockable: bool,
}

impl<A: Address> Change<A> {
    /// The whole range that is invalidated. It may reach beyond the subscription at both ends.
    pub fn range(&self) -> Span<A> {
        self.range
    }

    /// The part of it that lies in the subscription.
    pub fn overlap(&self) -> Span<A> {
        self.overlap
    }

    /// Why, and on whose behalf.
    pub fn event(&self) -> Event {
        self.event
    }

    /// The number that the invalidation has drawn from the global sequence of its address space: odd, the same for all
    /// callbacks of one invalidation, and never used twice. It says nothing about the order of two invalidations.
    #[doc(alias = "cur_seq")]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// May the callback block: wait for a lock that is held for long, for the device, for memory?
    #[doc(alias = "mmu_notifier_range_blockable")]
    pub fn is_blockable(&self) -> bool {
        self.blockable
    }

    /// Refuses a non-blocking invalidation: return it as the error of the callback.
    ///
    /// # Panics
    ///
    /// If the invalidation may block: then the callback has to wait and must not refuse.
    pub fn would_block(&self) -> WouldBlock {
        assert!(!self.blockable, "would_block: an invalidation that may block must not be refused (see is_blockable)");
        WouldBlock
    }
}

/// 64 random bits from the standard library's hash keys.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn no_two_random_numbers_are_the_same() {
        let drawn: std::collections::HashSet<u64> = (0..100).map(|_| random_u64()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
