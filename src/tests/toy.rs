//! The cast of the scenarios: an owner's words, and a mirror of them that says what happens to it.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, Address, AddressSpace, Call, EventKind, Invalidate, ReadSeq, Subscription, WouldBlock};
use std::ops::{Deref, RangeBounds};

/// The range that the scenarios are about.
pub(super) const PAGE: std::ops::Range<u64> = 0x1000..0x2000;
/// A range that does not overlap it.
pub(super) const ELSEWHERE: std::ops::Range<u64> = 0x8000..0x9000;
/// The event of an invalidation whose kind does not matter.
pub(super) const CLEAR: EventKind = EventKind::Clear;

/// What an address translates to, on the primary side: even at rest, odd while it is being changed, below 256.
///
/// Every access is Relaxed: only the protocol can make a change visible to a build.
#[derive(Clone)]
pub(super) struct Word(Arc<AtomicU64>);

impl Word {
    pub(super) fn new(value: u64) -> Self {
        Word(Arc::new(AtomicU64::new(value)))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// The values of all `words` in one.
pub(super) fn together(words: &[Word]) -> u64 {
    words.iter().fold(0, |all, word| all << 8 | word.get())
}

type Hook<A> = Box<dyn Fn(&Call<'_, Option<u64>, A>) -> Result<(), WouldBlock> + Send + Sync>;

/// A mirror: one copied value under a lock of its own.
pub(super) struct Toy<A: Address = u64> {
    pub(super) copy: Mutex<Option<u64>>,
    /// Counted by the callback without any lock: what makes it visible must be the library.
    calls: AtomicU64,
    hook: Hook<A>,
}

impl<A: Address> Toy<A> {
    pub(super) fn new() -> Arc<Self> {
        Self::meeting(|_| Ok(()))
    }

    /// Its callback runs `hook` first, under no lock, and is refused if the hook refuses.
    pub(super) fn meeting(
        hook: impl Fn(&Call<'_, Option<u64>, A>) -> Result<(), WouldBlock> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Toy { copy: Mutex::new(None), calls: AtomicU64::new(0), hook: Box::new(hook) })
    }

    pub(super) fn copy(&self) -> Option<u64> {
        *lock(&self.copy)
    }

    /// How many callbacks have begun, as far as this thread can know.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl<A: Address> Invalidate<A> for Toy<A> {
    type Locked = Option<u64>;

    fn invalidate(&self, call: &Call<'_, Option<u64>, A>) -> Result<Ack, WouldBlock> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        (self.hook)(call)?;
        let mut copy = lock(&self.copy);
        let ack = call.set_seq(&mut copy);
        *copy = None;
        Ok(ack)
    }
}

/// A toy's subscription, to be shared by threads.
pub(super) struct Sub<A: Address = u64>(Subscription<Arc<Toy<A>>, A>);

impl<A: Address> Deref for Sub<A> {
    type Target = Subscription<Arc<Toy<A>>, A>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<A: Address> Sub<A> {
    pub(super) fn new(space: &AddressSpace<A>, range: impl RangeBounds<A>, toy: &Arc<Toy<A>>) -> Arc<Self> {
        Arc::new(Sub(space.subscribe(range, toy.clone()).expect("the space is not released")))
    }

    /// Begins, builds from what `read` finds, and commits. `None`: it had to be thrown away.
    pub(super) fn build(&self, read: impl Fn() -> u64) -> Option<u64> {
        let seq = self.read_begin().expect("nothing keeps this thread from waiting");
        self.commit(seq, read())
    }

    pub(super) fn commit(&self, seq: ReadSeq<A>, value: u64) -> Option<u64> {
        let mut copy = lock(&self.ops().copy);
        if self.read_retry(seq, &copy) {
            return None;
        }
        assert_eq!(value & 0x0101_0101, 0, "a build from the middle of a change was accepted");
        *copy = Some(value);
        Some(value)
    }

    /// At rest: what the mirror holds, if anything, is what the owner has.
    pub(super) fn assert_fresh(&self, now: u64) {
        if let Some(value) = self.ops().copy() {
            assert_eq!(value, now, "the mirror holds a stale copy");
        }
    }

    /// The only handle that is left, to be unsubscribed.
    pub(super) fn unshared(self: Arc<Self>) -> Subscription<Arc<Toy<A>>, A> {
        Arc::into_inner(self).expect("no other thread has it any more").0
    }
}

/// A space, a subscription to [`PAGE`] in it, and a word.
pub(super) fn one() -> (AddressSpace, Arc<Sub>, Word) {
    let space = AddressSpace::new();
    let sub = Sub::new(&space, PAGE, &Toy::new());
    (space, sub, Word::new(10))
}

/// Invalidates [`PAGE`] and gives `word` the value `new` meanwhile.
pub(super) fn change(space: &AddressSpace, word: &Word, new: u64) {
    space.invalidate_while(PAGE, CLEAR, || {
        word.set(new + 1);
        word.set(new);
    });
}

/// As [`change`]; the subscription of `toy` was there before, so nothing may be mapped inside (P2).
pub(super) fn change_heard(space: &AddressSpace, toy: &Toy, word: &Word, new: u64) {
    let open = space.invalidate(PAGE, CLEAR);
    word.set(new + 1);
    assert_eq!(toy.copy(), None, "mapped inside an invalidation");
    word.set(new);
    open.end();
}
