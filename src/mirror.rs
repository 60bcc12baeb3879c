//! The mirror side, high level: the library owns the lock, so that the classic mistakes cannot be written.
//!
//! A callback that forgets `set_seq`, one that calls it under another lock, a build that is installed without a retry:
//! none of them can be expressed here. [`Mirror`] is a [`Subscription`] whose value is the state behind its lock.

use crate::error::{BeginError, Collision, InsideCallback, Poisoned, SubscribeError, UpdateError, WouldBlock};
use crate::event::Change;
use crate::held::Holding;
use crate::primary::AddressSpace;
use crate::range::{Address, Span};
use crate::subscription::{Ack, Call, Invalidate, ReadSeq, Subscription};
use crate::sync::atomic::{AtomicUsize, Ordering::*};
use crate::sync::{Mutex, MutexGuard, thread_token, try_lock};
use crate::waits::lock_watched;
use std::fmt;
use std::ops::{Deref, RangeBounds};
use std::time::{Duration, Instant};

/// The state of a [`Mirror`]: what is derived from the owner's range, and dropped when the range changes.
///
/// All methods run under the mirror's lock.
#[doc(alias = "mmu_interval_notifier_ops")]
pub trait MirrorState<A: Address = u64>: Send + Sync + 'static {
    /// Drops everything that is derived from [`change.overlap()`](Change::overlap). It may block if
    /// [`change.is_blockable()`](Change::is_blockable), and only then.
    fn invalidate(&mut self, change: &Change<A>);

    /// The same for an invalidation that may not block. If dropping means waiting for the device, refuse.
    ///
    /// That the lock is held at the moment needs no code: the library refuses then.
    ///
    /// # Errors
    ///
    /// [`change.would_block()`](Change::would_block): the invalidation does not happen.
    fn try_invalidate(&mut self, change: &Change<A>) -> Result<(), WouldBlock> {
        self.invalidate(change);
        Ok(())
    }

    /// Does this change concern the mirror at all? If not, nothing is dropped and nobody builds again: so a device
    /// ignores its own migrations (see [`Event::with_owner`](crate::Event::with_owner)).
    fn concerns(&self, change: &Change<A>) -> bool {
        let _ = change;
        true
    }
}

/// The value of the subscription: the state and its lock.
///
/// The lock prefers callbacks. Mutexes are not fair, so a reader that comes again and again could keep the owner out
/// for seconds; instead a callback that has to wait holds `door`, at which readers queue up behind it.
struct Locked<S> {
    state: Mutex<S>,
    door: Mutex<()>,
    /// How many callbacks wait; readers need not look at the door otherwise.
    waiting: AtomicUsize,
    /// The thread that holds the lock; 0: none. Only that thread may conclude anything from it; `waits` looks again and again.
    owner: AtomicUsize,
}

impl<S> Locked<S> {
    fn new(state: S) -> Self {
        Locked {
            state: Mutex::new(state),
            door: Mutex::new(()),
            waiting: AtomicUsize::new(0),
            owner: AtomicUsize::new(0),
        }
    }

    /// Locks it after the callbacks that wait for it, or says that this thread has it already.
    fn lock(&self, space: u64) -> Result<LockedGuard<'_, S>, Relocked> {
        if self.is_mine() {
            return Err(Relocked);
        }
        // Relaxed: a matter of turns; what the lock protects is ordered by the lock.
        if self.waiting.load(Relaxed) != 0 {
            drop(lock_watched(&self.door, &self.owner, "its turn at the lock of a Mirror"));
        }
        Ok(LockedGuard::new(self.lock_state(), &self.owner, space))
    }

    /// Locks it for a callback, before the readers that come meanwhile.
    fn lock_first(&self, space: u64) -> Result<LockedGuard<'_, S>, Relocked> {
        if self.is_mine() {
            return Err(Relocked);
        }
        if let Some(guard) = self.try_lock(space) {
            return Ok(guard);
        }
        let _waiter = Waiter::new(&self.waiting);
        let _door = lock_watched(&self.door, &self.owner, "its turn at the lock of a Mirror");
        Ok(LockedGuard::new(self.lock_state(), &self.owner, space))
    }

    fn lock_state(&self) -> MutexGuard<'_, S> {
        lock_watched(&self.state, &self.owner, "the lock of a Mirror")
    }

    /// Locks it if it is free.
    fn try_lock(&self, space: u64) -> Option<LockedGuard<'_, S>> {
        Some(LockedGuard::new(try_lock(&self.state)?, &self.owner, space))
    }

    fn is_mine(&self) -> bool {
        // Relaxed: a thread that reads its own token has written it, and not yet taken it back.
        self.owner.load(Relaxed) == thread_token()
    }
}

/// The lock is this thread's already.
#[derive(Debug)]
struct Relocked;

impl Relocked {
    fn panic(self, what: &str) -> ! {
        panic!("{what}: this thread holds the lock of this Mirror already, it would wait for itself")
    }
}

/// A callback that waits for the lock, until it has it or panics because it never will.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Relaxed);
        Waiter(waiting)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The lock of a mirror, held.
struct LockedGuard<'a, S> {
    state: MutexGuard<'a, S>,
    owner: &'a AtomicUsize,
    _holding: Holding,
}

impl<'a, S> LockedGuard<'a, S> {
    fn new(state: MutexGuard<'a, S>, owner: &'a AtomicUsize, space: u64) -> Self {
        owner.store(thread_token(), Relaxed);
        LockedGuard { state, owner, _holding: Holding::new(space) }
    }
}

impl<S> Drop for LockedGuard<'_, S> {
    fn drop(&mut self) {
        self.owner.store(0, Relaxed);
    }
}

/// What the mirror's subscription calls back.
struct Callback<S> {
    locked: Locked<S>,
    space: u64,
}

impl<S: MirrorState<A>, A: Address> Invalidate<A> for Callback<S> {
    type Locked = S;

    fn invalidate(&self, call: &Call<'_, S, A>) -> Result<Ack, WouldBlock> {
        let mut guard = if call.is_blockable() {
            self.locked.lock_first(self.space).unwrap_or_else(|relocked| relocked.panic("invalidate"))
        } else {
            self.locked.try_lock(self.space).ok_or_else(|| call.would_block())?
        };
        // Dropped before the guard.
        let unwinding = call.poison_on_unwind();
        let answer = guard.state.answer(call);
        unwinding.disarm();
        answer
    }
}

/// What the library makes of a [`MirrorState`].
trait Answer<A: Address>: MirrorState<A> + Sized {
    fn answer(&mut self, call: &Call<'_, Self, A>) -> Result<Ack, WouldBlock> {
        if !self.concerns(call) {
            return Ok(call.unaffected());
        }
        if call.is_blockable() {
            self.invalidate(call);
        } else {
            self.try_invalidate(call)?;
        }
        Ok(call.set_seq(self))
    }
}

impl<S: MirrorState<A>, A: Address> Answer<A> for S {}

/// A secondary copy or translation of a range, that drops what has become wrong and never installs what is stale.
///
/// ```
/// use interval_notifier::{AddressSpace, Change, EventKind, MirrorState, Retry};
/// use std::convert::Infallible;
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
///
/// struct Copy(Option<u32>);
/// impl MirrorState for Copy {
///     fn invalidate(&mut self, _: &Change) {
///         self.0 = None;
///     }
/// }
///
/// let page = AtomicU32::new(1); // the owner's page, at 0x1000
/// let space = AddressSpace::new();
/// let mirror = space.mirror(0x1000..0x2000, Copy(None))?;
///
/// let update = || mirror.update(Retry::forever(), |_| Ok::<_, Infallible>(page.load(Relaxed)), |copy, now| copy.0 = Some(now));
/// update()?;
/// assert_eq!(mirror.with(|copy| copy.0)?, Some(1));
///
/// space.invalidate_while(0x1800..0x1900, EventKind::Clear, || page.store(2, Relaxed));
/// assert_eq!(mirror.with(|copy| copy.0)?, None);
/// update()?;
/// assert_eq!(mirror.with(|copy| copy.0)?, Some(2));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Blocking
///
/// Dropping it ends the subscription and waits as [`Subscription`] does.
#[must_use = "dropping it ends the mirror"]
pub struct Mirror<S, A: Address = u64> {
    subscription: Subscription<Callback<S>, A>,
}

/// Shared access to a mirror's state; while it is held, invalidations of the mirror wait (or are refused). An
/// invalidation that waits comes before the next reader. To invalidate the mirror's range on the thread that holds the
/// guard would be waiting for oneself: it panics, saying so, and poisons the mirror as any panic in a callback does.
///
/// A thread that holds more than eight of them counts as holding locks of every space: what may not be done under a
/// lock of one is then refused in all.
///
/// What was built can be used here, but not installed: `&mut S` exists only in [`Mirror::update`], [`Mirror::commit`],
/// [`Mirror::evict`] and [`MirrorState::invalidate`].
///
/// ```compile_fail,E0596
/// use interval_notifier::*;
/// struct Pages(Vec<u64>);
/// impl MirrorState for Pages { fn invalidate(&mut self, _: &Change) { self.0.clear() } }
/// fn install(mirror: &Mirror<Pages>) { mirror.lock().unwrap().0.push(7) }
/// ```
#[must_use = "the lock is released when it is dropped"]
pub struct MirrorGuard<'a, S>(LockedGuard<'a, S>);

impl<S> Deref for MirrorGuard<'_, S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.0.state
    }
}

impl<S: fmt::Debug> fmt::Debug for MirrorGuard<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MirrorGuard").field(&**self).finish()
    }
}

/// How often, and for how long, [`Mirror::update`] builds again.
///
/// ```
/// use interval_notifier::Retry;
/// use std::time::Duration;
/// let policy = Retry::times(8).and_within(Duration::from_millis(100)); // whichever comes first
/// # let _ = policy;
/// ```
#[doc(alias = "HMM_RANGE_DEFAULT_TIMEOUT")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    times: Option<u32>,
    within: Option<Duration>,
}

impl Retry {
    /// Until it succeeds.
    pub const fn forever() -> Self {
        Retry { times: None, within: None }
    }

    /// At most `n` builds.
    pub const fn times(n: u32) -> Self {
        Retry { times: Some(n), within: None }
    }

    /// After `limit` no build but the first, and no waiting for one. A build that runs is not interrupted.
    pub const fn within(limit: Duration) -> Self {
        Retry { times: None, within: Some(limit) }
    }

    /// The same, and within `limit`.
    pub const fn and_within(self, limit: Duration) -> Self {
        Retry { times: self.times, within: Some(limit) }
    }
}

/// One attempt of [`Mirror::update`].
pub struct Attempt<'a, A: Address = u64> {
    number: u32,
    collided_with: Option<u64>,
    seq: &'a ReadSeq<A>,
    check_retry: &'a dyn Fn(&ReadSeq<A>) -> bool,
}

impl<A: Address> Attempt<'_, A> {
    /// Which one: 1, 2, ...
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What overtook the attempt before: the [ticket](Change::ticket) of the last invalidation that collided with it.
    /// `None` in the first one.
    pub fn collided_with(&self) -> Option<u64> {
        self.collided_with
    }

    /// Has the range been invalidated since this attempt began? True is reliable, so a long build can be given up: any
    /// error that it then returns is not passed on, there will be another attempt. False says nothing.
    pub fn is_stale(&self) -> bool {
        (self.check_retry)(self.seq)
    }
}

impl<A: Address> fmt::Debug for Attempt<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("number", &self.number)
            .field("collided_with", &self.collided_with)
            .field("is_stale", &self.is_stale())
            .finish()
    }
}

impl<A: Address> AddressSpace<A> {
    /// Mirrors `range` with `state`: [`subscribe`](Self::subscribe) with a lock of the library's own.
    ///
    /// # Errors
    ///
    /// As `subscribe`; `ops` is the state.
    pub fn mirror<S: MirrorState<A>>(
        &self,
        range: impl RangeBounds<A>,
        state: S,
    ) -> Result<Mirror<S, A>, SubscribeError<S>> {
        let callback = Callback { locked: Locked::new(state), space: self.shared.id };
        match self.subscribe(range, callback) {
            Ok(subscription) => Ok(Mirror { subscription }),
            Err(SubscribeError { ops, kind }) => Err(SubscribeError { ops: ops.into_state(), kind }),
        }
    }
}

impl<S> Callback<S> {
    fn into_state(self) -> S {
        self.locked.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<S: MirrorState<A>, A: Address> Mirror<S, A> {
    /// Builds until nothing collides, then installs: the whole loop of begin, build, lock, retry.
    ///
    /// `build` runs without any lock and may sleep; it starts from nothing in every attempt. `install` runs once, under
    /// the lock, and only if no overlapping invalidation has been called back since that attempt began. What `install`
    /// returns is returned. An error of `build` from an attempt that has become stale is not the caller's: a pin fails
    /// *because* the range is being remapped. Such an attempt is repeated like any other collision.
    ///
    /// (If `build` is bound by `let` before the call, the compiler needs its argument's type: `|_: Attempt<'_>| ..`.)
    ///
    /// # Blocking
    ///
    /// Waits in every attempt as [`read_begin`](Self::read_begin) does, and then for the lock.
    ///
    /// # Errors
    ///
    /// [`UpdateError::Build`] with the builder's own error, [`UpdateError::Exhausted`] when the policy allows no further
    /// attempt, [`UpdateError::Begin`] if there is no use in one: inside its own callback, under its own
    /// [`MirrorGuard`], in an own open invalidation, or when the mirror is poisoned or released.
    ///
    /// # Panics
    ///
    /// If `build` or `install` does. A panic in `install` poisons the mirror: readers are turned away, and it is still
    /// called back, so that nothing stale stays in it.
    #[doc(alias = "hmm_range_fault")]
    pub fn update<B, E, R>(
        &self,
        policy: Retry,
        mut build: impl FnMut(Attempt<'_, A>) -> Result<B, E>,
        install: impl FnOnce(&mut S, B) -> R,
    ) -> Result<R, UpdateError<E>> {
        if self.locked().is_mine() {
            return Err(UpdateError::Begin(BeginError::InsideCallback));
        }
        let deadline = policy.within.and_then(|limit| Instant::now().checked_add(limit));
        let is_late = || deadline.is_some_and(|at| Instant::now() >= at);
        let check_retry = |seq: &ReadSeq<A>| self.check_retry(seq);
        let (mut attempts, mut collided_with) = (0, None);
        while policy.times.is_none_or(|times| attempts < times) {
            if attempts > 0 && is_late() {
                break;
            }
            let seq = match self.begin_until(deadline) {
                Ok(seq) => seq,
                Err(BeginError::Active) => break,
                Err(error) => return Err(UpdateError::Begin(error)),
            };
            attempts = attempts.saturating_add(1);
            match build(Attempt { number: attempts, collided_with, seq: &seq, check_retry: &check_retry }) {
                Err(_) if self.check_retry(&seq) => {}
                Err(error) => return Err(UpdateError::Build(error)),
                // What was built for nothing is dropped here, after the lock.
                Ok(built) => match self.try_commit(&seq, built) {
                    Ok((guard, built)) => return Ok(self.install(guard, |state| install(state, built))),
                    Err(Collision(built)) => drop(built),
                },
            }
            collided_with = self.last_collision();
        }
        Err(UpdateError::Exhausted { attempts })
    }

    fn begin_until(&self, deadline: Option<Instant>) -> Result<ReadSeq<A>, BeginError> {
        match deadline {
            None => self.read_begin(),
            Some(at) => self.read_begin_timeout(at.saturating_duration_since(Instant::now())),
        }
    }

    /// Begins a build that is committed elsewhere or later; see [`Subscription::read_begin`].
    ///
    /// # Errors
    ///
    /// As there; [`BeginError::InsideCallback`] also if it would wait under a lock of a mirror of the space.
    #[doc(alias = "mmu_interval_read_begin")]
    #[inline]
    pub fn read_begin(&self) -> Result<ReadSeq<A>, BeginError> {
        self.subscription.read_begin()
    }

    /// See [`Subscription::try_read_begin`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn try_read_begin(&self) -> Result<ReadSeq<A>, BeginError> {
        self.subscription.try_read_begin()
    }

    /// See [`Subscription::read_begin_timeout`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn read_begin_timeout(&self, limit: Duration) -> Result<ReadSeq<A>, BeginError> {
        self.subscription.read_begin_timeout(limit)
    }

    /// See [`Subscription::check_retry`].
    ///
    /// # Panics
    ///
    /// As there.
    #[doc(alias = "mmu_interval_check_retry")]
    #[must_use]
    #[inline]
    pub fn check_retry(&self, seq: &ReadSeq<A>) -> bool {
        self.subscription.check_retry(seq)
    }

    /// See [`Subscription::last_collision`].
    pub fn last_collision(&self) -> Option<u64> {
        self.subscription.last_collision()
    }

    /// Installs what was built since `seq`, unless the range was invalidated meanwhile.
    ///
    /// # Blocking
    ///
    /// Waits for the mirror's lock.
    ///
    /// # Errors
    ///
    /// [`Collision`] gives `built` back, outside the lock: undo it, begin again.
    ///
    /// # Panics
    ///
    /// If `seq` is of another mirror, or under this mirror's own guard. If `install` panics, the mirror is poisoned.
    #[doc(alias = "mmu_interval_read_retry")]
    pub fn commit<B, R>(
        &self,
        seq: ReadSeq<A>,
        built: B,
        install: impl FnOnce(&mut S, B) -> R,
    ) -> Result<R, Collision<B>> {
        let (guard, built) = self.try_commit(&seq, built)?;
        Ok(self.install(guard, |state| install(state, built)))
    }

    /// The lock, if nothing has collided since `seq`.
    fn try_commit<B>(&self, seq: &ReadSeq<A>, built: B) -> Result<(LockedGuard<'_, S>, B), Collision<B>> {
        let guard = self.locked().lock(self.space()).unwrap_or_else(|relocked| relocked.panic("commit"));
        // Under the lock this is `read_retry`.
        if self.check_retry(seq) { Err(Collision(built)) } else { Ok((guard, built)) }
    }

    /// Changes the state; if that panics, the mirror is poisoned.
    fn install<R>(&self, mut guard: LockedGuard<'_, S>, change: impl FnOnce(&mut S) -> R) -> R {
        // Dropped before the guard.
        let unwinding = self.subscription.poison_on_unwind();
        let result = change(&mut guard.state);
        unwinding.disarm();
        result
    }

    /// Locks the state for shared access. While the guard lives no invalidation of the range goes on, so what is
    /// installed is good.
    ///
    /// # Blocking
    ///
    /// Waits for the lock. Keep it short: the owner waits for you.
    ///
    /// # Errors
    ///
    /// [`Poisoned`] if a callback, an `install` or an `evict` panicked.
    ///
    /// # Panics
    ///
    /// If this thread has the lock already.
    pub fn lock(&self) -> Result<MirrorGuard<'_, S>, Poisoned> {
        self.guard("lock").map(MirrorGuard)
    }

    /// [`lock`](Self::lock) for the time of `look`.
    ///
    /// # Errors
    ///
    /// As `lock`.
    ///
    /// # Panics
    ///
    /// As `lock`.
    pub fn with<R>(&self, look: impl FnOnce(&S) -> R) -> Result<R, Poisoned> {
        Ok(look(&*self.lock()?))
    }

    /// Takes something out of the state, such as the least recently used entry. It may only remove: what is added
    /// outside [`update`](Self::update) and [`commit`](Self::commit) may be stale.
    ///
    /// # Blocking
    ///
    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Panics
    ///
    /// As `lock`; and if `remove` does, which poisons the mirror.
    pub fn evict<R>(&self, remove: impl FnOnce(&mut S) -> R) -> Result<R, Poisoned> {
        let guard = self.guard("evict")?;
        Ok(self.install(guard, remove))
    }

    fn guard(&self, what: &str) -> Result<LockedGuard<'_, S>, Poisoned> {
        let guard = self.locked().lock(self.space()).unwrap_or_else(|relocked| relocked.panic(what));
        if self.subscription.is_poisoned() { Err(Poisoned) } else { Ok(guard) }
    }

    /// Ends the mirror and gives its state back, poisoned or not; see [`Subscription::unsubscribe`].
    ///
    /// # Blocking
    ///
    /// As there.
    ///
    /// # Errors
    ///
    /// As there: inside a callback of the space, or under a lock of a mirror of it.
    #[doc(alias = "mmu_interval_notifier_remove")]
    pub fn unsubscribe(self) -> Result<S, InsideCallback<Self>> {
        match self.subscription.unsubscribe() {
            Ok(callback) => Ok(callback.into_state()),
            Err(InsideCallback(subscription)) => Err(InsideCallback(Mirror { subscription })),
        }
    }

    /// What it covers.
    pub fn range(&self) -> Span<A> {
        self.subscription.range()
    }

    fn locked(&self) -> &Locked<S> {
        &self.subscription.ops().locked
    }

    fn space(&self) -> u64 {
        self.subscription.ops().space
    }
}

impl<S, A: Address> fmt::Debug for Mirror<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("range", &self.subscription.range()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::EventKind;
    use std::thread;

    /// Who had the lock, in order.
    struct Log(Vec<&'static str>);
    impl MirrorState for Log {
        fn invalidate(&mut self, _: &Change) {
            self.0.push("callback");
        }
    }

    #[test]
    fn a_callback_that_waits_comes_before_the_next_reader() {
        let space = AddressSpace::new();
        let mirror = space.mirror(.., Log(Vec::new())).unwrap();
        let first = mirror.lock().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| space.invalidate(.., EventKind::Clear).end());
            while mirror.locked().waiting.load(Relaxed) == 0 {
                thread::yield_now();
            }
            // It waits for the lock with the door in its hand, or is just about to take the door.
            while mirror.locked().door.try_lock().is_ok() {
                thread::yield_now();
            }
            // Nobody could be quicker: the callback has yet to wake up.
            drop(first);
            mirror.evict(|log| log.0.push("reader")).unwrap();
        });
        assert_eq!(mirror.unsubscribe().unwrap().0, ["callback", "reader"]);
    }
}
