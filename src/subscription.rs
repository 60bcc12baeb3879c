//! The mirror side, low level: the caller's own lock, over as many subscriptions as it likes.
//!
//! ```text
//!  reader                                  owner                        callback
//!    seq = read_begin()
//!    build from the range, no lock held    start ────────────────────►  lock the mirror
//!    lock the mirror                                                    set_seq, drop the stale part
//!      [Required: if the callback was here, read_retry == true]         unlock
//!      read_retry(seq)? again : install    change the range
//!    unlock                                end
//! ```
//!
//! Either the reader has the lock first: then the callback finds what it installed and drops it. Or the callback has
//! it first: then the reader finds another sequence and builds again.

use crate::error::{BeginError, InsideCallback, SubscribeError, SubscribeErrorKind, WouldBlock};
use crate::event::Change;
use crate::finish::Finish;
use crate::primary::AddressSpace;
use crate::range::{Address, Span};
use crate::rcu::{Answer, Context, Handle, Inserted, Listener};
use crate::seq::{BIRTH, Closed, PoisonOnUnwind};
use crate::shared::Patience;
use crate::slots::Identity;
use crate::sync::Arc;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, RangeBounds};
use std::time::{Duration, Instant};

/// What a mirror does when a part of its range is invalidated.
///
/// The callback takes the **mirror lock**, the lock under which builds are committed, calls [`Call::set_seq`] with what
/// the lock protects as the witness that it is held, and drops everything it holds for
/// [`change.overlap()`](Change::overlap) before it returns.
///
/// ```
/// use interval_notifier::{Ack, Call, Invalidate, WouldBlock};
/// use std::{collections::BTreeMap, ops::RangeBounds, sync::Mutex};
///
/// struct Pages(Mutex<BTreeMap<u64, u64>>);
///
/// impl Invalidate for Pages {
///     type Locked = BTreeMap<u64, u64>;
///
///     fn invalidate(&self, call: &Call<'_, Self::Locked>) -> Result<Ack, WouldBlock> {
///         let mut pages = if call.is_blockable() {
///             self.0.lock().unwrap()
///         } else {
///             self.0.try_lock().map_err(|_| call.would_block())?
///         };
///         let ack = call.set_seq(&mut pages);
///         pages.retain(|page, _| !call.overlap().contains(page));
///         Ok(ack)
///     }
/// }
/// ```
///
/// # Rules
///
/// * A callback may begin, subscribe, invalidate other ranges, and drop subscriptions, its own included: such a drop is
///   carried out later. It may not wait for itself: [`Subscription::unsubscribe`] is an error here, and so is a begin
///   of the same subscription that would wait.
/// * It runs on the thread that invalidates, under no lock of the library. Callbacks of one subscription may run at the
///   same time, for different invalidations.
/// * The value must not own its own [`Subscription`], directly or through an `Arc`: neither would ever be dropped. If a
///   callback is to end subscriptions, let it set a flag or send a message.
/// * If it panics, the start unwinds and this subscription is poisoned: it is not called again, so what it still holds
///   it holds for good; its begins say [`BeginError::Poisoned`], and its retries are true.
///
/// What must not compile: an answer without a call, a `set_seq` under a shared guard, an answer kept for later.
///
/// ```compile_fail,E0596
/// use interval_notifier::*;
/// use std::sync::RwLock;
/// struct M(RwLock<Vec<u8>>);
/// impl Invalidate for M {
///     type Locked = Vec<u8>;
///     fn invalidate(&self, call: &Call<'_, Vec<u8>>) -> Result<Ack, WouldBlock> {
///         let mut guard = self.0.read().unwrap(); // builds may be committed under a shared guard, this may not
///         Ok(call.set_seq(&mut guard))
///     }
/// }
/// ```
/// ```compile_fail,E0277
/// use interval_notifier::Ack;
/// static KEPT: std::sync::Mutex<Option<Ack>> = std::sync::Mutex::new(None);
/// ```
#[doc(alias = "mmu_interval_notifier_ops")]
pub trait Invalidate<A: Address = u64>: Send + Sync + 'static {
    /// What the mirror lock protects. `&mut` to it is the witness that the lock is held exclusively, `&` that it is
    /// held at all; so it should be a type that nobody can make out of nothing.
    type Locked: ?Sized;

    /// A part of the range is about to change. See the trait.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`], from [`Change::would_block`], if the invalidation [may not block](Change::is_blockable) and the
    /// callback would have to. Nothing may have been dropped then, or all of it: a refused invalidation does not happen.
    /// To return one from elsewhere, such as from a `try_invalidate` of its own, when this invalidation may block is a
    /// panic.
    #[doc(alias = "invalidate_start")]
    fn invalidate(&self, call: &Call<'_, Self::Locked, A>) -> Result<Ack, WouldBlock>;
}

impl<A: Address, T: Invalidate<A> + ?Sized> Invalidate<A> for Arc<T> {
    type Locked = T::Locked;
    fn invalidate(&self, call: &Call<'_, T::Locked, A>) -> Result<Ack, WouldBlock> {
        (**self).invalidate(call)
    }
}

impl<A: Address, T: Invalidate<A> + ?Sized> Invalidate<A> for Box<T> {
    type Locked = T::Locked;
    fn invalidate(&self, call: &Call<'_, T::Locked, A>) -> Result<Ack, WouldBlock> {
        (**self).invalidate(call)
    }
}

/// One call of one callback: what [`Change`]s, and how to answer.
///
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// fn check<T: Sync>() {}
/// check::<interval_notifier::Call<'static, ()>>();
/// ```
pub struct Call<'a, L: ?Sized, A: Address = u64> {
    context: &'a Context<'a, A>,
    /// `set_seq` stores once: if it stored twice, a collision in between could be hidden.
    collided: Cell<bool>,
    locked: PhantomData<fn(&mut L)>,
    bound: PhantomData<*const ()>,
}

impl<L: ?Sized, A: Address> Deref for Call<'_, L, A> {
    type Target = Change<A>;
    fn deref(&self) -> &Change<A> {
        &self.context.change
    }
}

impl<L: ?Sized, A: Address> Call<'_, L, A> {
    /// Marks the collision: builds that have begun before will be built again, and begins wait for the end.
    ///
    /// To be called under the mirror lock, of which `locked` is the witness. A second call changes nothing.
    #[doc(alias = "mmu_interval_set_seq")]
    pub fn set_seq(&self, locked: &mut L) -> Ack {
        #[cfg(feature = "checked")]
        self.context.taken.note(self.context.sequence, locked);
        let _ = locked;
        if !self.collided.replace(true) {
            let Context { change, sequence, identity, slots, .. } = self.context;
            sequence.set(change.ticket, *identity, |other| slots.is_active(other));
        }
        self.ack(true)
    }

    /// Says that this change does not concern the mirror, such as its own migration. Nobody builds again for it, and
    /// nobody waits for it.
    pub fn unaffected(&self) -> Ack {
        self.ack(false)
    }

    /// For what the callback does under its lock: if it panics, the poison must be seen by whoever has the lock next.
    pub(crate) fn poison_on_unwind(&self) -> PoisonOnUnwind<'_> {
        PoisonOnUnwind::new(self.context.sequence)
    }

    fn ack(&self, collided: bool) -> Ack {
        Ack { call: self.id(), collided, finish: None, bound: PhantomData }
    }

    /// Which call it is: an invalidation calls a subscription once.
    fn id(&self) -> (u64, usize) {
        (self.context.change.ticket, std::ptr::from_ref(self.context.sequence).addr())
    }
}

impl<L: ?Sized, A: Address> fmt::Debug for Call<'_, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("change", &**self).field("collided", &self.collided.get()).finish()
    }
}

/// The answer of a callback: [`Call::set_seq`] or [`Call::unaffected`] was called. There is no other way to get one.
#[must_use = "return it: it is the answer of the callback"]
pub struct Ack {
    call: (u64, usize),
    collided: bool,
    finish: Option<Box<dyn Finish>>,
    bound: PhantomData<*const ()>,
}

impl Ack {
    /// Answers that the rest is done by `finish`, after the callbacks of all other subscriptions have run: two passes,
    /// see [`Finish`]. Each call may have one of its own.
    ///
    /// ```
    /// use interval_notifier::*;
    /// use std::sync::{Mutex, mpsc};
    ///
    /// struct Engine;
    /// impl Engine {
    ///     /// Asks the device to let go of everything; it says when it has.
    ///     fn start_flush(&mut self) -> mpsc::Receiver<()> {
    ///         let (done, wait) = mpsc::channel();
    ///         done.send(()).unwrap();
    ///         wait
    ///     }
    /// }
    ///
    /// struct Device(Mutex<Engine>);
    /// impl Invalidate for Device {
    ///     type Locked = Engine;
    ///     fn invalidate(&self, call: &Call<'_, Engine>) -> Result<Ack, WouldBlock> {
    ///         if !call.is_blockable() {
    ///             return Err(call.would_block()); // the finish waits
    ///         }
    ///         let mut engine = self.0.lock().unwrap();
    ///         let flushed = engine.start_flush();
    ///         Ok(call.set_seq(&mut engine).with_finish(Box::new(move || flushed.recv().unwrap())))
    ///     }
    /// }
    /// # let space = AddressSpace::new();
    /// # let _device = space.subscribe(.., Device(Mutex::new(Engine))).unwrap();
    /// # space.invalidate(.., EventKind::Unmap).end();
    /// ```
    ///
    /// # Panics
    ///
    /// If the answer is `unaffected`: the sequence must be set in the first pass. If it has a finish already.
    #[doc(alias = "mmu_interval_notifier_finish")]
    pub fn with_finish(mut self, finish: Box<dyn Finish>) -> Self {
        assert!(self.collided, "with_finish: set_seq must be called in the first pass, under the mirror lock");
        assert!(self.finish.is_none(), "with_finish: a call has one finish (which may return a further one)");
        self.finish = Some(finish);
        self
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("collided", &self.collided).field("finish", &self.finish.is_some()).finish()
    }
}

impl<T: Invalidate<A>, A: Address> Listener<A> for T {
    fn hear(&self, context: &Context<'_, A>) -> Answer {
        let call = Call { context, collided: Cell::new(false), locked: PhantomData, bound: PhantomData };
        let ack = self.invalidate(&call)?;
        assert_eq!(ack.call, call.id(), "a callback must answer with an Ack of its own Call");
        Ok(ack.finish)
    }
}

/// Where a build began: what [`Subscription::read_begin`] returns and [`Subscription::read_retry`] uses up.
///
/// A build without a retry would be a bug, hence neither `Clone` nor `Copy`.
#[must_use = "a build must be checked with read_retry or committed before it is used"]
#[derive(Debug)]
pub struct ReadSeq<A: Address = u64> {
    seq: u64,
    /// The subscription it is of.
    of: u64,
    address: PhantomData<A>,
}

/// A range, and a value that is called back when a part of the range is invalidated. Dropping it ends it.
///
/// # Blocking
///
/// Dropping it waits, as [`unsubscribe`](Self::unsubscribe) does, and drops the value before it returns. Inside a
/// callback of the space, or under a lock of a [`Mirror`](crate::Mirror) of it, it does not wait: no callback begins any
/// more, and the value is dropped later, by whoever next ends its callbacks in [`invalidate`](AddressSpace::invalidate)
/// (not in `try_invalidate`), subscribes, or ends a subscription; or with the space. A value that is dropped so late is
/// dropped as if inside a callback: what it does must not wait for callbacks.
#[doc(alias = "mmu_interval_notifier")]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription<T, A: Address = u64> {
    /// There until it ends.
    handle: Option<Handle<T, A>>,
    births: Box<[Identity]>,
    space: AddressSpace<A>,
}

impl<A: Address> AddressSpace<A> {
    /// Subscribes `ops` to the invalidations of `range`.
    ///
    /// Every overlapping invalidation that starts after this has returned calls [`Invalidate::invalidate`]; those that
    /// are active already are waited for by [`read_begin`](Subscription::read_begin). Subscriptions may overlap and may
    /// be equal. It may be called anywhere, also inside a callback.
    ///
    /// # Blocking
    ///
    /// Takes a short lock against other subscribers; waits for no callback and no invalidation. Values whose drop was put
    /// off (see [`Subscription`]) may be dropped here.
    ///
    /// # Errors
    ///
    /// If the range is empty or the space has been [released](Self::release); `ops` are given back.
    #[doc(alias = "mmu_interval_notifier_insert")]
    pub fn subscribe<T: Invalidate<A>>(
        &self,
        range: impl RangeBounds<A>,
        ops: T,
    ) -> Result<Subscription<T, A>, SubscribeError<T>> {
        let Some(span) = Span::new(range) else {
            return Err(SubscribeError { ops, kind: SubscribeErrorKind::Empty });
        };
        match self.shared.registry.insert(span, ops) {
            Ok(Inserted { handle, births }) => {
                let subscription = Subscription { handle: Some(handle), births, space: self.clone() };
                self.shared.sweep();
                Ok(subscription)
            }
            Err(ops) => {
                self.shared.sweep();
                Err(SubscribeError { ops, kind: SubscribeErrorKind::Released })
            }
        }
    }
}

impl<T: Invalidate<A>, A: Address> Subscription<T, A> {
    /// Begins a build: what is read from the range from now on is good if [`read_retry`](Self::read_retry) says so.
    ///
    /// # Blocking
    ///
    /// Waits until the overlapping invalidations that are active now have ended; not for later ones (but perhaps for one
    /// that starts while it looks), nor for any that does not overlap. While there are none it is wait-free: two loads and no store. To be called under no lock that
    /// a callback takes.
    ///
    /// # Errors
    ///
    /// [`BeginError::InsideCallback`] and [`BeginError::InsideInvalidation`] if it would wait for itself,
    /// [`BeginError::Poisoned`], [`BeginError::Released`].
    #[doc(alias = "mmu_interval_read_begin")]
    #[inline]
    pub fn read_begin(&self) -> Result<ReadSeq<A>, BeginError> {
        self.begin(|| Patience::Forever)
    }

    /// [`read_begin`](Self::read_begin) that never waits.
    ///
    /// # Errors
    ///
    /// [`BeginError::Active`] where `read_begin` would wait, or would refuse to wait for itself.
    #[inline]
    pub fn try_read_begin(&self) -> Result<ReadSeq<A>, BeginError> {
        self.begin(|| Patience::None)
    }

    /// [`read_begin`](Self::read_begin) that waits no longer than `limit`.
    ///
    /// # Errors
    ///
    /// [`BeginError::Active`] when the time is up, and those of `read_begin`.
    #[inline]
    pub fn read_begin_timeout(&self, limit: Duration) -> Result<ReadSeq<A>, BeginError> {
        self.begin(|| Instant::now().checked_add(limit).map_or(Patience::Forever, Patience::Until))
    }

    /// Has the range been invalidated since `seq`? Asked without the mirror lock, to give a long build up early.
    ///
    /// | | without the lock | under the lock |
    /// |---|---|---|
    /// | `check_retry` is true | the build is stale | the build is stale |
    /// | `check_retry` is false | says nothing | as [`read_retry`](Self::read_retry) |
    ///
    /// # Panics
    ///
    /// If `seq` is of another subscription.
    #[doc(alias = "mmu_interval_check_retry")]
    #[must_use]
    #[inline]
    pub fn check_retry(&self, seq: &ReadSeq<A>) -> bool {
        assert!(seq.of == self.handle().key().id, "a ReadSeq must be given back to the subscription it is of");
        self.handle().sequence().changed_since(seq.seq)
    }

    /// Has the range been invalidated since `seq`? Asked under the mirror lock, before what was built is installed.
    ///
    /// True: drop what was built, begin again. False: install it before the lock is released. `locked` is the witness
    /// that the lock is held; a shared guard will do.
    ///
    /// ```compile_fail,E0061
    /// # use interval_notifier::*;
    /// # struct Ops; impl Invalidate for Ops {
    /// #     type Locked = u8; fn invalidate(&self, c: &Call<'_, u8>) -> Result<Ack, WouldBlock> { Ok(c.unaffected()) } }
    /// fn commit(subscription: &Subscription<Ops>) {
    ///     let seq = subscription.read_begin().unwrap();
    ///     if subscription.read_retry(seq) {} // without the lock
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// If `seq` is of another subscription.
    #[doc(alias = "mmu_interval_read_retry")]
    #[must_use = "true means that what was built is stale"]
    #[inline]
    pub fn read_retry(&self, seq: ReadSeq<A>, locked: &T::Locked) -> bool {
        #[cfg(feature = "checked")]
        self.space.shared.taken.note(self.handle().sequence(), locked);
        let _ = locked;
        self.check_retry(&seq)
    }

    /// Which invalidation collided last with this subscription: its [ticket](Change::ticket), or `None` before the
    /// first one. For messages and statistics; whether a build is good is [`read_retry`](Self::read_retry)'s to say.
    pub fn last_collision(&self) -> Option<u64> {
        Some(self.handle().sequence().current()).filter(|&seq| seq != BIRTH)
    }

    /// Ends the subscription and gives the value back. When it returns no callback runs, and none will.
    ///
    /// # Blocking
    ///
    /// Waits for callbacks of this subscription that run just now, and for those that the same invalidations call
    /// together with it; not for the end of any invalidation. To be called under no lock that a callback of the space
    /// takes.
    ///
    /// # Errors
    ///
    /// [`InsideCallback`] inside a callback of the space, or under the lock of a [`Mirror`](crate::Mirror) of it: the
    /// callback that it would have to wait for may be this one. The subscription is given back; dropping it is legal.
    #[doc(alias = "mmu_interval_notifier_remove")]
    pub fn unsubscribe(mut self) -> Result<T, InsideCallback<Self>> {
        #[cfg(feature = "checked")]
        self.space.shared.taken.assert_none_held("unsubscribe", self.range());
        // First, so that a value which panics when it is dropped at last does not cost the caller this one.
        self.space.shared.sweep();
        match self.handle.take_if(|_| self.space.shared.may_wait()) {
            Some(handle) => Ok(self.space.shared.remove(handle)),
            None => Err(InsideCallback(self)),
        }
    }

    #[inline]
    fn begin(&self, patience: impl FnOnce() -> Patience) -> Result<ReadSeq<A>, BeginError> {
        let id = self.handle().key().id;
        let sequence = self.handle().sequence();
        #[cfg(feature = "checked")]
        let patience = self.checked(patience());
        let seq = match sequence.idle() {
            Some(seq) => seq,
            None => self.space.shared.begin(id, sequence, &self.births, patience())?,
        };
        #[cfg(feature = "checked")]
        let seq = if self.space.shared.faults.retry() { crate::seq::UNSETTLED } else { seq };
        Ok(ReadSeq { seq, of: id, address: PhantomData })
    }

    /// A begin that may wait is not made under a lock that callbacks take.
    #[cfg(feature = "checked")]
    fn checked(&self, patience: Patience) -> impl FnOnce() -> Patience {
        if !matches!(patience, Patience::None) {
            self.space.shared.taken.assert_none_held("read_begin", self.range());
        }
        move || patience
    }
}

impl<T, A: Address> Subscription<T, A> {
    #[inline]
    fn handle(&self) -> &Handle<T, A> {
        self.handle.as_ref().expect("only unsubscribe and drop take it, and both take the subscription")
    }

    /// What it covers.
    pub fn range(&self) -> Span<A> {
        self.handle().key().span()
    }

    /// The value that is called back.
    pub fn ops(&self) -> &T {
        self.handle().value()
    }

    /// For a change of the mirror's state: if it panics, no reader may begin any more.
    pub(crate) fn poison_on_unwind(&self) -> PoisonOnUnwind<'_> {
        PoisonOnUnwind::new(self.handle().sequence())
    }

    /// May no reader begin any more because of a panic?
    pub(crate) fn is_poisoned(&self) -> bool {
        self.handle().sequence().open() == Err(Closed::Poisoned)
    }
}

impl<T, A: Address> Drop for Subscription<T, A> {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let shared = &self.space.shared;
        #[cfg(feature = "checked")]
        if let Some(report) = shared.taken.held("the drop", handle.key().span()) {
            // Not even where a panic unwinds, which may be that of `unsubscribe`, does it wait.
            shared.bury(handle);
            assert!(std::thread::panicking(), "{report}");
            return;
        }
        if shared.may_wait() {
            drop(shared.remove(handle));
            shared.sweep();
        } else {
            shared.bury(handle);
        }
    }
}

impl<T, A: Address> fmt::Debug for Subscription<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("range", &self.range()).finish_non_exhaustive()
    }
}
