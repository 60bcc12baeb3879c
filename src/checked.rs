//! For programs under test: locks of your own are watched, and rare events are forced (feature `checked`).
//!
//! # What is watched without this
//!
//! In debug builds, and with this feature in all, threads that wait for each other in a circle are told so by a panic of one
//! of them, with the names of all, instead of hanging: through starts and ends, begins, removals of subscriptions and the
//! locks of [`Mirror`](crate::Mirror)s; not through waits for the callbacks of [`Notifier`](crate::Notifier)s. Where a panic
//! unwinds already the circle is printed. Waiting for oneself is an error in every build.
//!
//! # Locks of your own
//!
//! The library sees such a lock only when [`set_seq`](crate::Call::set_seq) or
//! [`read_retry`](crate::Subscription::read_retry) is called under it. Declare where you hold it. Once it was seen, waiting
//! under it for callbacks of the space panics, whether one runs just then or not: a begin, the end of a subscription,
//! registering a notifier; and so does an invalidation that is about to call back who takes it:
//!
//! ```should_panic
//! use interval_notifier::{checked, Ack, AddressSpace, Call, EventKind, Invalidate, WouldBlock};
//! use std::sync::{Arc, Mutex};
//!
//! struct Driver(Arc<Mutex<u64>>);
//! impl Invalidate for Driver {
//!     type Locked = u64;
//!     fn invalidate(&self, call: &Call<'_, u64>) -> Result<Ack, WouldBlock> {
//!         Ok(call.set_seq(&mut self.0.lock().unwrap()))
//!     }
//! }
//!
//! let (space, lock) = (AddressSpace::new(), Arc::new(Mutex::new(0)));
//! let subscription = space.subscribe(0..8, Driver(lock.clone())).unwrap();
//! space.invalidate(0..8, EventKind::Clear).end();
//!
//! let guard = lock.lock().unwrap();
//! let _held = checked::holding(&*guard);
//! let _ = subscription.unsubscribe(); // A callback may be running, and want that lock.
//! ```
//!
//! # Rare events
//!
//! [`AddressSpace::faults`] forces retries and refusals, and delays ends, so that the code for them runs in tests.

use crate::primary::AddressSpace;
use crate::range::{Address, Span};
use crate::seq::Sequence;
use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

thread_local! {
    /// The locks that this thread has declared, and where.
    static DECLARED: RefCell<Vec<(usize, &'static Location<'static>)>> = const { RefCell::new(Vec::new()) };
}

/// Where a lock protects `locked`, as a number; 0 if it protects nothing that has an address.
fn address_of<L: ?Sized>(locked: &L) -> usize {
    if size_of_val(locked) == 0 { 0 } else { std::ptr::from_ref(locked).cast::<()>().addr() }
}

/// This thread holds a lock, until this is dropped; see [`holding`].
#[derive(Debug)]
#[must_use = "the lock counts as held until this is dropped"]
pub struct Held<'a> {
    address: usize,
    of_this_thread: PhantomData<(*const (), &'a ())>,
}

/// Declares that this thread holds the lock which protects `locked`, until what is returned is dropped. `locked` is what
/// callbacks give to [`set_seq`](crate::Call::set_seq): `&*guard` of the same lock. It is known by its address, so it must be
/// what the lock itself contains, and not what a `Vec` in it does. Where it protects nothing that has a size, nothing is
/// watched.
#[track_caller]
pub fn holding<L: ?Sized>(locked: &L) -> Held<'_> {
    let (address, location) = (address_of(locked), Location::caller());
    DECLARED.with_borrow_mut(|declared| declared.push((address, location)));
    Held { address, of_this_thread: PhantomData }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        DECLARED.with_borrow_mut(|declared| {
            let at = declared.iter().rposition(|(address, _)| *address == self.address);
            declared.remove(at.expect("declared by `holding`, and taken back once"));
        });
    }
}

/// The locks that callbacks of a space were seen to take: one for each subscription, by the address of its sequence.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<HashMap<usize, usize>>);

impl Taken {
    fn locks(&self) -> MutexGuard<'_, HashMap<usize, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Callbacks of that subscription take the lock which protects `locked`.
    pub(crate) fn note<L: ?Sized>(&self, sequence: &Sequence, locked: &L) {
        let address = address_of(locked);
        if address != 0 {
            self.locks().insert(std::ptr::from_ref(sequence).addr(), address);
        }
    }

    /// That subscription ends.
    pub(crate) fn forget(&self, sequence: &Sequence) {
        self.locks().remove(&std::ptr::from_ref(sequence).addr());
    }

    /// What is wrong if this thread waits for callbacks of the space, where it has declared a lock that they take.
    pub(crate) fn held<A: Address>(&self, what: &str, range: Span<A>) -> Option<String> {
        let location = declared(|address| self.locks().values().any(|taken| *taken == address))?;
        let thread = name();
        Some(format!(
            "{what} of {range:?}: thread `{thread}` would wait for callbacks under the lock declared at {location}, and \
             callbacks of this space take that lock"
        ))
    }

    /// # Panics
    ///
    /// With what [`held`](Self::held) says.
    pub(crate) fn assert_none_held<A: Address>(&self, what: &str, range: Span<A>) {
        if let Some(report) = self.held(what, range) {
            panic!("{report}");
        }
    }

    /// # Panics
    ///
    /// If this thread has declared to hold the lock that the callback which it is about to run takes.
    pub(crate) fn assert_not_held_by_caller<A: Address>(&self, range: Span<A>, sequence: &Sequence) {
        let taken = self.locks().get(&std::ptr::from_ref(sequence).addr()).copied();
        if let Some(location) = declared(|address| taken == Some(address)) {
            let thread = name();
            panic!(
                "invalidate of {range:?}: thread `{thread}` holds the lock declared at {location}, and is about to run a \
                 callback that takes it"
            );
        }
    }
}

/// Where this thread has declared a lock that is `such`.
fn declared(such: impl Fn(usize) -> bool) -> Option<&'static Location<'static>> {
    DECLARED.with_borrow(|declared| declared.iter().find(|(address, _)| such(*address)).map(|(_, location)| *location))
}

fn name() -> String {
    std::thread::current().name().unwrap_or("without a name").to_owned()
}

/// What is forced to happen in a space; see [`AddressSpace::faults`]. Every setting holds until the next one.
#[derive(Debug, Default)]
pub struct Faults {
    retries: Every,
    refusals: Every,
    delay: AtomicU64,
}

/// Every n-th time.
#[derive(Debug, Default)]
struct Every {
    /// 0: never.
    nth: AtomicU64,
    asked: AtomicU64,
    said_yes: AtomicU64,
}

impl Every {
    fn set(&self, nth: u64) {
        self.asked.store(0, Relaxed);
        self.nth.store(nth, Relaxed);
    }

    fn ask(&self) -> bool {
        let nth = self.nth.load(Relaxed);
        let yes = nth != 0 && (self.asked.fetch_add(1, Relaxed) + 1) % nth == 0;
        self.said_yes.fetch_add(u64::from(yes), Relaxed);
        yes
    }
}

impl Faults {
    /// Every `nth` [`read_begin`](crate::Subscription::read_begin), or attempt of an [`update`](crate::Mirror::update), begins
    /// a build that is stale, whoever asks and how often; 0: none. With 1 no build is ever accepted.
    pub fn force_retry(&self, nth: u64) {
        self.retries.set(nth);
    }

    /// Every `nth` [`try_invalidate`](AddressSpace::try_invalidate) is refused, before any callback; 0: none.
    pub fn refuse(&self, nth: u64) {
        self.refusals.set(nth);
    }

    /// Every end comes later by `delay`, which its thread sleeps: after the change is made and before readers go on.
    pub fn delay_end(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many builds were made stale so far.
    pub fn forced_retries(&self) -> u64 {
        self.retries.said_yes.load(Relaxed)
    }

    /// How many starts were refused so far.
    pub fn forced_refusals(&self) -> u64 {
        self.refusals.said_yes.load(Relaxed)
    }

    pub(crate) fn retry(&self) -> bool {
        self.retries.ask()
    }

    pub(crate) fn refusal(&self) -> bool {
        self.refusals.ask()
    }

    pub(crate) fn before_end(&self) {
        match self.delay.load(Relaxed) {
            0 => {}
            delay => std::thread::sleep(Duration::from_nanos(delay)),
        }
    }
}

impl<A: Address> AddressSpace<A> {
    /// Rare events of this space, to be forced in tests.
    ///
    /// ```
    /// use interval_notifier::{AddressSpace, EventKind};
    /// let space = AddressSpace::new();
    /// space.faults().refuse(2);
    /// assert!(space.try_invalidate(0..8, EventKind::Clear).is_ok());
    /// assert!(space.try_invalidate(0..8, EventKind::Clear).is_err());
    /// assert_eq!(space.faults().forced_refusals(), 1);
    /// ```
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }
}
