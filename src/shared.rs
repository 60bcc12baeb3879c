//! What both sides of an address space touch, and the two operations in which they meet: start and begin.
//!
//! ```text
//!  start                                     begin
//!    claim a slot, publish the range           t = seq
//!    search, batch by batch                    settled == t?  ── yes ──►  t     (the idle path, `Sequence::idle`)
//!      call back: lock; set_seq; drop          wait for the end of by, also, births
//!  ... the change ...                          settled = t
//!  end                                         t
//!    free the slot, wake its waiters
//! ```
//!
//! Nothing here blocks but [`Shared::begin`], [`Shared::wait_for_all`] and [`Shared::release`], which waits for callbacks of
//! notifiers, and the drop of user values in [`Shared::sweep`] and [`Shared::sweep_notifiers`].
//! Callbacks run under no pin, and under no lock of ours that anything in them would wait for.

use crate::error::{BeginError, WouldBlock};
use crate::event::{Change, Event, EventKind, random_u64};
use crate::held::Holding;
use crate::notifiers::{Kind, Notifiers};
use crate::panics::Panics;
use crate::range::{Address, Span};
use crate::rcu::{Answer, Batch, Context, Cursor, Finishing, Handle, Hit, Registry};
use crate::seq::{Closed, Sequence};
use crate::slots::{Identity, Slot};
use crate::sync::atomic::{AtomicU64, Ordering::*};
use std::marker::PhantomData;
use std::time::Instant;

/// The part of a space that its handles share.
pub(crate) struct Shared<A: Address> {
    /// Names the space to [`Holding`]: random, so never the number of one that is gone.
    pub(crate) id: u64,
    pub(crate) registry: Registry<A>,
    pub(crate) notifiers: Notifiers<A>,
    /// The global invalidate sequence: the next ticket.
    invalidate_seq: AtomicU64,
    #[cfg(feature = "checked")]
    pub(crate) faults: crate::checked::Faults,
    #[cfg(feature = "checked")]
    pub(crate) taken: crate::checked::Taken,
}

/// An invalidation that has started.
#[must_use]
pub(crate) struct Opened<A: Address> {
    pub(crate) identity: Identity,
    /// Have notifiers been told of it? Whom, and what, is in its slot.
    told: bool,
    address: PhantomData<A>,
}

/// What starts.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a, A: Address> {
    pub(crate) span: Span<A>,
    pub(crate) event: Event,
    pub(crate) blockable: bool,
    /// Is it the end of the space? Then no reader may begin any more, and a panic keeps nobody from hearing of it.
    pub(crate) release: Option<&'a Panics>,
}

/// How long a begin may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    None,
    Until(Instant),
    Forever,
}

impl<A: Address> Shared<A> {
    pub(crate) fn new() -> Self {
        Shared {
            id: random_u64() | 1,
            registry: Registry::new(),
            notifiers: Notifiers::new(),
            invalidate_seq: AtomicU64::new(1),
            #[cfg(feature = "checked")]
            faults: crate::checked::Faults::default(),
            #[cfg(feature = "checked")]
            taken: crate::checked::Taken::default(),
        }
    }

    // ---- primary side

    /// Publishes the invalidation and calls everybody back whom it hits. If that fails or panics it has ended.
    pub(crate) fn start(&self, start: Start<'_, A>) -> Result<Opened<A>, WouldBlock> {
        #[cfg(feature = "checked")]
        if !start.blockable && self.faults.refusal() {
            return Err(WouldBlock);
        }
        let (identity, slot) = self.registry.slots.claim();
        let open = EndOnDrop { shared: self, identity };
        slot.open(start.span);

        let mut batch = Batch::new(&self.registry, slot);
        let mut cursor = Cursor::new(start.span);
        // What only hits and notifiers need is out of the way of an invalidation that meets neither.
        let hit = batch.fill_first(&mut cursor);
        let ticket = if hit { self.call_all(&start, identity, &mut batch, &mut cursor)? } else { None };
        // That a notifier is not missed is the fences' work, see `Notifiers::load`.
        let may_tell = self.notifiers.len() != 0 && start.release.is_none();
        let told = may_tell && self.tell(&start, ticket, slot)?;
        if start.blockable && !told {
            self.sweep();
        }
        Ok(Opened { identity: open.keep(), told, address: PhantomData })
    }

    /// Calls everybody back: those of the batch, and of those that follow. The ticket, if one was drawn.
    #[inline(never)]
    fn call_all(
        &self,
        start: &Start<'_, A>,
        identity: Identity,
        batch: &mut Batch<'_, A>,
        cursor: &mut Cursor<A>,
    ) -> Result<Option<u64>, WouldBlock> {
        // Dropped in the reverse order, whatever happens: let go of the batch, finish.
        let mut finishing = Finishing::new(batch.slot());
        let mut batch = batch.let_go_on_drop();
        let mut ticket = None;
        loop {
            for hit in batch.hits().filter(|hit| !hit.sequence().is_silent()) {
                let ticket = *ticket.get_or_insert_with(|| self.draw_ticket());
                let answer = match start.release {
                    None => self.call(&hit, start, ticket, identity),
                    Some(panics) => self.call_at_release(&hit, start, ticket, identity, panics),
                };
                if let Some(finish) = answer? {
                    finishing.push(&hit, finish);
                }
            }
            if !batch.fill(cursor) {
                break;
            }
        }
        drop(batch);
        finishing.run();
        Ok(ticket)
    }

    /// Tells the notifiers of the start, and sweeps. Was anybody there to be told of the end too?
    #[cold]
    fn tell(&self, start: &Start<'_, A>, ticket: Option<u64>, slot: &Slot<A>) -> Result<bool, WouldBlock> {
        let Start { span, event, blockable, .. } = *start;
        let ticket = || ticket.unwrap_or_else(|| self.draw_ticket());
        let change = || Change { range: span, overlap: span, event, ticket: ticket(), blockable };
        let Some(told) = self.notifiers.start(change, self.id)? else { return Ok(false) };
        if blockable {
            self.sweep();
            self.sweep_notifiers();
        }
        // After what may panic: until here `told` tells them of the end when it is dropped.
        slot.keep_told(told);
        Ok(true)
    }

    fn draw_ticket(&self) -> u64 {
        // Relaxed: only its being drawn once matters.
        self.invalidate_seq.fetch_add(2, Relaxed)
    }

    #[cold]
    fn call_at_release(
        &self,
        hit: &Hit<'_, A>,
        start: &Start<'_, A>,
        ticket: u64,
        identity: Identity,
        panics: &Panics,
    ) -> Answer {
        let call = || {
            let answer = self.call(hit, start, ticket, identity);
            hit.sequence().close(Closed::Released);
            answer
        };
        panics.catch(call).unwrap_or(Ok(None))
    }

    #[inline(always)] // It is a quarter of what a hit costs: as a function of its own it would be half as much again.
    fn call(&self, hit: &Hit<'_, A>, start: &Start<'_, A>, ticket: u64, identity: Identity) -> Answer {
        let Start { span, event, blockable, .. } = *start;
        let overlap = hit.key().span().overlap(&span).expect("the search finds what overlaps");
        let change = Change { range: span, overlap, event, ticket, blockable };
        let sequence = hit.sequence();
        #[cfg(feature = "checked")]
        if blockable {
            self.taken.assert_not_held_by_caller(span, sequence);
        }
        let context = Context {
            change,
            sequence,
            identity,
            slots: &self.registry.slots,
            #[cfg(feature = "checked")]
            taken: &self.taken,
        };
        let unwinding = SilenceOnDrop(sequence);
        let answer = hit.call(&context);
        assert!(answer.is_ok() || !blockable, "a callback must not refuse an invalidation that may block");
        std::mem::forget(unwinding);
        answer
    }

    /// Ends an invalidation: tells the notifiers, then lets the readers go on.
    pub(crate) fn end(&self, opened: Opened<A>) {
        let Opened { identity, told, .. } = opened;
        #[cfg(feature = "checked")]
        self.faults.before_end();
        // It ends, even if a notifier panics.
        let _open = EndOnDrop { shared: self, identity };
        if told {
            drop(self.registry.slots.slot(identity).take_told());
        }
    }

    /// Release: calls everybody back once, and refuses subscriptions from now on. Nothing if it was so already.
    /// All hear it, also if one of them panics; the first panic goes on afterwards.
    pub(crate) fn release(&self) {
        if !self.registry.release() {
            return;
        }
        self.notifiers.close();
        let panics = Panics::default();
        let span = everything();
        let event = Event::new(EventKind::Release);
        let start = Start { span, event, blockable: true, release: Some(&panics) };
        panics.catch(|| match self.start(start) {
            Ok(opened) => self.end(opened),
            Err(WouldBlock) => unreachable!("a blocking start is not refused"),
        });
        self.notifiers.release(self.id, self.may_wait(), &panics);
        panics.catch(|| self.sweep_notifiers());
        panics.resume();
    }

    /// Shows the notifiers to `call`, newest first, until it is content.
    pub(crate) fn visit(&self, call: impl FnMut(Kind<'_, A>) -> bool) -> bool {
        self.notifiers.visit(self.id, call)
    }

    // ---- mirror side

    /// The slow part of a begin: waits for everything that may be active over the subscription, as far as `patience`
    /// allows, and returns the `seq` it all belongs to.
    #[cold]
    pub(crate) fn begin(
        &self,
        id: u64,
        sequence: &Sequence,
        births: &[Identity],
        patience: Patience,
    ) -> Result<u64, BeginError> {
        sequence.open().map_err(refusal)?;
        let seq = sequence.current();
        self.each_blocker(sequence, births, |identity| {
            if !self.registry.slots.is_active(identity) {
                return Ok(());
            }
            let deadline = match patience {
                Patience::None => return Err(BeginError::Active),
                Patience::Until(at) => Some(at),
                Patience::Forever => None,
            };
            self.may_wait_for_blockers(id, sequence, births)?;
            if self.registry.slots.wait_end(identity, deadline) { Ok(()) } else { Err(BeginError::Active) }
        })?;
        // Whatever could have been active when `seq` was current has ended; what came later has changed `seq`.
        sequence.settle(seq).map_err(refusal)?;
        Ok(seq)
    }

    fn each_blocker(
        &self,
        sequence: &Sequence,
        births: &[Identity],
        visit: impl Fn(Identity) -> Result<(), BeginError>,
    ) -> Result<(), BeginError> {
        sequence.try_for_each_blocker(&visit)?;
        births.iter().copied().try_for_each(visit)
    }

    /// May this thread wait for what blocks the subscription? All are looked at before one is waited for: behind somebody
    /// else's there may be one of our own, and that somebody may be waiting for it.
    fn may_wait_for_blockers(&self, id: u64, sequence: &Sequence, births: &[Identity]) -> Result<(), BeginError> {
        let slots = &self.registry.slots;
        if slots.inside_call(Some(id)) || Holding::any(self.id) {
            return Err(BeginError::InsideCallback);
        }
        if !slots.any_is_mine() {
            return Ok(());
        }
        self.each_blocker(sequence, births, |other| {
            let own = slots.is_active(other) && slots.slot(other).is_mine();
            if own { Err(BeginError::InsideInvalidation) } else { Ok(()) }
        })
    }

    /// May this thread wait for callbacks? Not inside one, nor under a lock that one may want.
    pub(crate) fn may_wait(&self) -> bool {
        !self.registry.slots.inside_call(None) && !Holding::any(self.id)
    }

    /// May this thread wait for everything that is active? As [`may_wait`](Self::may_wait), and not if it holds some of
    /// that itself.
    pub(crate) fn may_wait_for_all(&self) -> Result<(), BeginError> {
        #[cfg(feature = "checked")]
        self.taken.assert_none_held("register", everything::<A>());
        if !self.may_wait() {
            Err(BeginError::InsideCallback)
        } else if self.registry.slots.any_is_mine() {
            Err(BeginError::InsideInvalidation)
        } else {
            Ok(())
        }
    }

    /// Waits for the end of everything that was active at some moment since the call.
    pub(crate) fn wait_for_all(&self) {
        for &identity in &self.registry.slots.active_over(everything()) {
            self.registry.slots.wait_end(identity, None);
        }
    }

    /// Ends a subscription and gives its value back, after its callbacks.
    pub(crate) fn remove<T>(&self, handle: Handle<T, A>) -> T {
        #[cfg(feature = "checked")]
        self.taken.forget(handle.sequence());
        self.registry.remove(handle)
    }

    /// Ends a subscription where nobody may wait: a later sweep drops its value.
    pub(crate) fn bury<T>(&self, handle: Handle<T, A>) {
        #[cfg(feature = "checked")]
        self.taken.forget(handle.sequence());
        self.registry.bury(handle);
    }

    /// Drops the values of subscriptions that were dropped where nobody may wait. It runs code of the user, and so does
    /// nothing where `may_wait` forbids that too, nor while a panic unwinds.
    #[inline]
    pub(crate) fn sweep(&self) {
        if self.registry.has_buried() {
            self.sweep_buried();
        }
    }

    #[cold]
    fn sweep_buried(&self) {
        if self.may_wait() && !std::thread::panicking() {
            // What is dropped may own subscriptions: those are buried in their turn, so that nobody waits here.
            let _inside = Holding::new(self.id);
            self.registry.sweep();
        }
    }

    /// The same for notifiers that were put. What they owned goes with them.
    pub(crate) fn sweep_notifiers(&self) {
        if self.notifiers.has_buried() && self.may_wait() && !std::thread::panicking() {
            self.notifiers.sweep(self.id);
            self.sweep();
        }
    }
}

fn everything<A: Address>() -> Span<A> {
    Span::new(..).expect("everything is not empty")
}

fn refusal(why: Closed) -> BeginError {
    match why {
        Closed::Poisoned => BeginError::Poisoned,
        Closed::Released => BeginError::Released,
    }
}

/// Ends an invalidation whose start does not come to its end.
struct EndOnDrop<'a, A: Address> {
    shared: &'a Shared<A>,
    identity: Identity,
}

impl<A: Address> EndOnDrop<'_, A> {
    fn keep(self) -> Identity {
        let identity = self.identity;
        std::mem::forget(self);
        identity
    }
}

impl<A: Address> Drop for EndOnDrop<'_, A> {
    fn drop(&mut self) {
        self.shared.registry.slots.end(self.identity);
    }
}

/// Poisons a subscription whose callback unwinds, and calls it no more: an owner that goes on after the panic is not to
/// meet the same panic at every change.
struct SilenceOnDrop<'a>(&'a Sequence);

impl Drop for SilenceOnDrop<'_> {
    fn drop(&mut self) {
        self.0.silence();
    }
}
