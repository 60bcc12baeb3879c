//! The primary side: whoever changes the owner's ranges, and brackets each change with start and end.

use crate::error::WouldBlock;
use crate::event::Event;
use crate::range::{Address, Span};
use crate::shared::{Opened, Shared, Start};
use crate::sync::Arc;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeBounds;

/// An owner's ranges, and everything that is subscribed to them.
///
/// Handles are cheap to clone and all name the same space. Spaces know nothing of each other; nothing in this crate is
/// shared by the whole process (but the collector of `crossbeam-epoch`).
///
/// The primary side calls [`invalidate_while`](Self::invalidate_while) around every change. The mirror side is
/// [`mirror`](Self::mirror), or [`subscribe`](Self::subscribe) where one lock covers many ranges.
///
/// ```
/// use interval_notifier::{AddressSpace, EventKind};
/// let space = AddressSpace::new(); // of `u64`; `AddressSpace::<usize>::default()` for others
/// let unmapped = space.invalidate_while(0x1000..0x2000, EventKind::Unmap, || "the range changes here");
/// assert_eq!(unmapped, "the range changes here");
/// ```
#[doc(alias = "mmu_notifier_subscriptions")]
#[doc(alias = "mm_struct")]
pub struct AddressSpace<A: Address = u64> {
    pub(crate) shared: Arc<Shared<A>>,
}

impl<A: Address> Clone for AddressSpace<A> {
    fn clone(&self) -> Self {
        AddressSpace { shared: Arc::clone(&self.shared) }
    }
}

impl<A: Address> Default for AddressSpace<A> {
    fn default() -> Self {
        AddressSpace { shared: Arc::new(Shared::new()) }
    }
}

impl<A: Address> fmt::Debug for AddressSpace<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("subscriptions", &self.shared.registry.len())
            .field("invalidations", &self.shared.registry.slots.in_flight())
            .field("notifiers", &self.shared.notifiers.len())
            .finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// A space of `u64` addresses with nothing in it. For other addresses: `AddressSpace::<usize>::default()`.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<A: Address> AddressSpace<A> {
    /// Invalidates `range`, makes the change, and ends the invalidation, also when `change` panics.
    ///
    /// This is the form to prefer: start and end cannot be forgotten. What `change` returns is returned.
    ///
    /// Before `change` runs, every overlapping mirror has dropped what it held for the range; until the call returns
    /// none can hold anything for it again.
    ///
    /// # Blocking
    ///
    /// As [`invalidate`](Self::invalidate).
    ///
    /// # Panics
    ///
    /// As [`invalidate`](Self::invalidate); the change is not made then.
    pub fn invalidate_while<R>(
        &self,
        range: impl RangeBounds<A>,
        event: impl Into<Event>,
        change: impl FnOnce() -> R,
    ) -> R {
        let _open = self.invalidate(range, event);
        change()
    }

    /// Starts an invalidation. The change is made between this call and the end of what it returns.
    ///
    /// Calls back every overlapping subscription, in ascending order of `(first, last)`, those with equal ranges in
    /// the order in which they were subscribed. When it returns, no mirror holds anything for the range. An empty
    /// range hits nothing.
    ///
    /// Invalidations may be nested and may overlap, on one thread or on many. **Keep the result:**
    /// `let _ = space.invalidate(..)` ends at once; [`invalidate_while`](Self::invalidate_while) has no such trap. If it
    /// is leaked (`mem::forget`) overlapping readers wait for ever, as after an unpaired start in the kernel.
    ///
    /// # Blocking
    ///
    /// Waits for the callbacks, which may wait for their mirror locks. It never waits for a reader beyond that, nor for
    /// another invalidation. Values of subscriptions that were dropped where that had to be put off (see
    /// [`Subscription`](crate::Subscription)) may be dropped here. Apart from that the library itself waits for no lock;
    /// when it allocates is told on the [front page](crate#cost-and-progress).
    ///
    /// # Panics
    ///
    /// If a callback panics: the panic goes on, the invalidation has ended, those who were told of it build again, and
    /// that one subscription is poisoned. If a value whose drop was put off panics when it is dropped. If 65,520
    /// invalidations are open in the space.
    #[doc(alias = "mmu_notifier_invalidate_range_start")]
    pub fn invalidate(&self, range: impl RangeBounds<A>, event: impl Into<Event>) -> Invalidation<'_, A> {
        match self.start(range, event.into(), true) {
            Ok(invalidation) => invalidation,
            Err(WouldBlock) => unreachable!("a blocking start is not refused"),
        }
    }

    /// Starts an invalidation without ever blocking, or not at all.
    ///
    /// No value of anybody is dropped here. As [`invalidate`](Self::invalidate) otherwise, but callbacks are told not to block
    /// ([`Change::is_blockable`](crate::Change::is_blockable)), and each of them may refuse.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`] if a callback refused. The later ones have not been called, for the earlier ones the invalidation
    /// has ended: their readers build once more and nothing else is left behind. There is nothing to end.
    ///
    /// # Panics
    ///
    /// As [`invalidate`](Self::invalidate).
    #[doc(alias = "mmu_notifier_invalidate_range_start_nonblock")]
    pub fn try_invalidate(
        &self,
        range: impl RangeBounds<A>,
        event: impl Into<Event>,
    ) -> Result<Invalidation<'_, A>, WouldBlock> {
        self.start(range, event.into(), false)
    }

    fn start(
        &self,
        range: impl RangeBounds<A>,
        event: Event,
        blockable: bool,
    ) -> Result<Invalidation<'_, A>, WouldBlock> {
        let span = Span::new(range);
        let start = |span| self.shared.start(Start { span, event, blockable, release: None });
        let opened = span.map(start).transpose()?;
        Ok(Invalidation { space: self, open: Open { span, opened }, bound: PhantomData })
    }

    /// The space goes away: sends [`EventKind::Release`](crate::EventKind::Release) over everything to every
    /// subscription, exactly once, and refuses new ones from now on.
    ///
    /// Afterwards begins say [`BeginError::Released`](crate::BeginError::Released) and every retry is true.
    /// Subscriptions stay until their owners drop them, and invalidations still call them back. A second call does
    /// nothing; if it runs beside the first one it does not wait for it.
    ///
    /// [Notifiers](crate::Notifier) hear it after all subscriptions, newest first, exactly once each too. When this returns
    /// they have let go, whoever has told them, and none of their callbacks runs.
    ///
    /// # Blocking
    ///
    /// As [`invalidate`](Self::invalidate). Then for the callbacks of notifiers that run just now; not inside a callback of
    /// the space, nor under a mirror lock of it.
    ///
    /// # Panics
    ///
    /// If a callback panics, with the first panic, after everybody has heard of the release.
    #[doc(alias = "mmu_notifier_release")]
    pub fn release(&self) {
        self.shared.release();
    }
}

/// What is open: nothing, if the range was empty.
struct Open<A: Address> {
    span: Option<Span<A>>,
    /// Taken when it ends, or moves.
    opened: Option<Opened<A>>,
}

impl<A: Address> Open<A> {
    fn range(&self) -> Span<A> {
        self.span.expect("range: the invalidation was started over an empty range and covers nothing")
    }

    fn end(&mut self, shared: &Shared<A>) {
        if let Some(opened) = self.opened.take() {
            shared.end(opened);
        }
    }
}

impl<A: Address> fmt::Debug for Open<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.span {
            Some(span) => span.fmt(f),
            None => f.write_str("nothing"),
        }
    }
}

/// An invalidation between its start and its end. Dropping it ends it.
///
/// It is bound to its thread, so that a begin on this thread which would wait for it is an error and not a hang:
///
/// ```compile_fail,E0277
/// fn check<T: Send>() {}
/// check::<interval_notifier::Invalidation<'static>>();
/// ```
///
/// [`into_owned`](Self::into_owned) unties it.
#[must_use = "dropping it ends the invalidation: keep it until the change is done"]
pub struct Invalidation<'a, A: Address = u64> {
    space: &'a AddressSpace<A>,
    open: Open<A>,
    bound: PhantomData<*const ()>,
}

impl<A: Address> Invalidation<'_, A> {
    /// Ends it: readers that waited for it go on, and see the change. It wakes nobody else.
    ///
    /// # Blocking
    ///
    /// Never, but for what [`Notifier::end`](crate::Notifier::end) does, if notifiers are registered.
    #[doc(alias = "mmu_notifier_invalidate_range_end")]
    pub fn end(self) {}

    /// What it covers.
    ///
    /// # Panics
    ///
    /// If it was started over an empty range: then it covers nothing.
    pub fn range(&self) -> Span<A> {
        self.open.range()
    }

    /// Unties it from its thread and from the borrow of the space, to be kept across calls and ended anywhere.
    ///
    /// Whoever waits for it is no longer told that he waits for himself, neither by a begin nor by
    /// [`register`](AddressSpace::register): that is the caller's affair from now on.
    pub fn into_owned(mut self) -> OwnedInvalidation<A> {
        let open = Open { span: self.open.span, opened: self.open.opened.take() };
        if let Some(opened) = &open.opened {
            self.space.shared.registry.slots.disown(opened.identity);
        }
        OwnedInvalidation { space: self.space.clone(), open }
    }
}

impl<A: Address> Drop for Invalidation<'_, A> {
    fn drop(&mut self) {
        self.open.end(&self.space.shared);
    }
}

impl<A: Address> fmt::Debug for Invalidation<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Invalidation").field(&self.open).finish()
    }
}

/// An [`Invalidation`] that is kept across calls and threads: for owners whose start and end are two messages.
///
/// ```
/// use interval_notifier::{AddressSpace, EventKind};
/// let space = AddressSpace::new();
/// let open = space.invalidate(0..4096, EventKind::Unmap).into_owned();
/// std::thread::spawn(move || open.end()).join().unwrap();
/// ```
#[must_use = "dropping it ends the invalidation: keep it until the change is done"]
pub struct OwnedInvalidation<A: Address = u64> {
    space: AddressSpace<A>,
    open: Open<A>,
}

impl<A: Address> OwnedInvalidation<A> {
    /// Ends it; see [`Invalidation::end`].
    pub fn end(self) {}

    /// What it covers; see [`Invalidation::range`].
    ///
    /// # Panics
    ///
    /// If it was started over an empty range.
    pub fn range(&self) -> Span<A> {
        self.open.range()
    }
}

impl<A: Address> Drop for OwnedInvalidation<A> {
    fn drop(&mut self) {
        self.open.end(&self.space.shared);
    }
}

impl<A: Address> fmt::Debug for OwnedInvalidation<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedInvalidation").field(&self.open).finish()
    }
}
