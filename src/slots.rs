//! One slot per invalidation in flight: who it is, what it covers, whom it calls, and who waits for it.
//!
//! # State
//!
//! | bits | meaning | set by | cleared by |
//! |---|---|---|---|
//! | generation | which use of the slot this is; one up with every claim | the claim | never |
//! | `CLAIMED` | an invalidation has the slot | the claim | its end |
//! | `ACTIVE` | its range is published | its start | its end |
//! | `FINISHING` | subscriptions are held in `finishing` too | its start | its start, when all have finished |
//! | `WAIT` | somebody sleeps, or is about to, until something happens to it | waiters, under the slot's lock | its batches and its end, which then wake |
//!
//! # Invariants
//!
//! 1. Once `CLAIMED`, the state changes by read-modify-write only: no `WAIT` is ever lost.
//! 2. `owner` is a thread's token only while that thread holds the claim, so a thread that reads its own token there
//!    reads the truth, whatever the ordering.
//! 3. `calling` is not 0 only while its owner runs callbacks.
//! 4. Blocks of slots are added in order and never freed while the space lives; all but the first on demand.
//! 5. A slot of the first block has its bit in `used` from its first use on, set before the fence of that use. A scan that
//!    does not find the bit has its fence before that one, and nothing to find in the slot: see the fences in `open`.

use crate::notifiers::Started;
use crate::range::{Address, Span};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*, fence};
use crate::sync::{
    CHECKED, Condvar, Mutex, OnceLock, fence_after_rmw, lock, spin_loop, thread_hint, thread_token, wait_until,
};
use crate::waits::Waiting;
use crossbeam_utils::CachePadded;
use std::mem::ManuallyDrop;
use std::time::Instant;

/// How many subscriptions are called back between two searches.
pub(crate) const BATCH: usize = if CHECKED { 2 } else { 32 };
/// Slots allocated with the space; later blocks double.
const FIRST_BLOCK: usize = if CHECKED { 2 } else { 16 };
/// 16 * (2^12 - 1) = 65,520 slots: their numbers fit into [`Identity::SLOT_BITS`].
const BLOCKS: usize = 12;
/// Looks at a slot before sleeping on it: a wake-up costs some 20 us, most callbacks less.
const SPINS: usize = if CHECKED { 0 } else { 100 };

const CLAIMED: u64 = 1;
const ACTIVE: u64 = 2;
const WAIT: u64 = 4;
const FINISHING: u64 = 8;
/// One step of the generation.
const GENERATION: u64 = 16;
const GENERATION_BITS: u64 = !(GENERATION - 1);
/// The generation of a slot's first use: no slot is ever used in generation 0, and the free one has a generation too.
const FIRST_USE: u64 = 2 * GENERATION;

/// Names one invalidation for ever: its slot, and the slot's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64);

impl Identity {
    /// Nobody. No slot is ever used in generation 0.
    pub(crate) const NONE: Self = Identity(0);
    const SLOT_BITS: u32 = 16;

    fn new(state: u64, slot: usize) -> Self {
        Identity((state / GENERATION) << Self::SLOT_BITS | slot as u64)
    }
    pub(crate) fn word(self) -> u64 {
        self.0
    }
    pub(crate) fn from_word(word: u64) -> Self {
        Identity(word)
    }
    /// Do both have the same slot? Then one of them ended before the other began, if they are not the same.
    pub(crate) fn shares_slot_with(self, other: Self) -> bool {
        self.slot() == other.slot()
    }
    fn slot(self) -> usize {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) as usize
    }
    /// Is `state` one of this invalidation's, not yet ended? (A generation returns after 2^48 uses of one slot.)
    fn is_in(self, state: u64) -> bool {
        state & CLAIMED != 0 && Self::new(state, self.slot()) == self
    }
}

/// See the module.
pub(crate) struct Slot<A: Address> {
    state: AtomicU64,
    first: A::Cell,
    last: A::Cell,
    /// The thread that started it and must not wait for it; 0: none, or it may end on another thread.
    owner: AtomicUsize,
    /// Number of the subscription whose callback runs; 0: none.
    calling: AtomicU64,
    /// Addresses of the subscriptions of the present batch; 0: none.
    current: [AtomicUsize; BATCH],
    /// Addresses of those whose finish has yet to run (two-pass).
    finishing: Mutex<Vec<usize>>,
    lock: Mutex<()>,
    woken: Condvar,
    told: Told<A>,
}

/// Whom it has told of its start and is to tell of its end. Here, as a guard that is moved about should be small.
/// Where the guard is leaked nobody is told.
struct Told<A: Address>(Mutex<Option<ManuallyDrop<Started<A>>>>);

impl<A: Address> Slot<A> {
    fn new() -> Self {
        Slot {
            state: AtomicU64::new(GENERATION),
            first: A::Cell::default(),
            last: A::Cell::default(),
            owner: AtomicUsize::new(0),
            calling: AtomicU64::new(0),
            current: std::array::from_fn(|_| AtomicUsize::new(0)),
            finishing: Mutex::new(Vec::new()),
            lock: Mutex::new(()),
            woken: Condvar::new(),
            told: Told(Mutex::new(None)),
        }
    }

    /// Takes the slot if it is free; the new state.
    fn try_claim(&self) -> Option<u64> {
        // Relaxed: only a guess for the exchange.
        let state = self.state.load(Relaxed);
        if state & CLAIMED != 0 {
            return None;
        }
        let claimed = ((state & GENERATION_BITS) + GENERATION) | CLAIMED;
        // Acquire: pairs with the Release in `Slots::end`. Our range is stored after what the previous user did, so
        // whoever reads our range instead of its range sees its end (`active_over`).
        // Release is not needed: nothing of ours is published before `open`.
        self.state.compare_exchange(state, claimed, Acquire, Relaxed).ok()?;
        // Relaxed: only its own thread may conclude anything from it (invariant 2).
        self.owner.store(thread_token(), Relaxed);
        Some(claimed)
    }

    /// Publishes the range: from here on subscribers and readers reckon with this invalidation.
    pub(crate) fn open(&self, span: Span<A>) {
        // Release: pairs with the Acquire in `active_over`, see `try_claim`.
        A::store(&self.first, span.first(), Release);
        A::store(&self.last, span.last(), Release);
        // Release: the range is there when ACTIVE is seen. A plain store would do, as nobody sleeps on the slot yet; but
        // this spares the fence on x86, and loom does not know how the store stands to a WAIT.
        self.state.fetch_or(ACTIVE, AcqRel);
        // The other end is in `active_over`.
        // - If our fence comes first, a subscriber's scan sees this slot ACTIVE.
        // - If the subscriber's fence comes first, our search sees its subscription.
        fence_after_rmw();
    }

    fn range(&self) -> Option<Span<A>> {
        // Acquire: see `try_claim`.
        Span::new(A::load(&self.first, Acquire)..=A::load(&self.last, Acquire))
    }

    /// Lets removers know whom the batch is about to call.
    #[inline]
    pub(crate) fn hold(&self, entries: impl Iterator<Item = usize>) {
        for (cell, entry) in self.current.iter().zip(entries) {
            // Release: a remover that finds this instead of what the last batch held here concludes that the last batch
            // is over, so it must see what its callbacks did. (That this batch is seen at all is the fence's work.)
            cell.store(entry, Release);
        }
        // The other end is in `Sequence::mark_removed`.
        fence(SeqCst);
    }

    /// The batch is over: nobody of the first `held` cells is called any more.
    pub(crate) fn let_go(&self, held: usize) {
        self.set_calling(0);
        for cell in &self.current[..held] {
            // Release: pairs with the Acquire in `holds`; what the callbacks did is visible to the remover.
            cell.store(0, Release);
        }
        // A read-modify-write, so that it cannot pass a waiter that sets WAIT and then looks at `current`: either the
        // waiter sees the cells empty, or we see WAIT. Acquire and Release for the same pair.
        if self.state.fetch_and(!WAIT, AcqRel) & WAIT != 0 {
            self.wake();
        }
    }

    /// May a callback of the subscription at this address be running?
    fn holds(&self, entry: usize) -> bool {
        // Acquire: pairs with `let_go`, and with the end of the batch if the slot was freed since.
        // A free slot holds nobody: cells are cleared before the end.
        let state = self.state.load(Acquire);
        let called = state & CLAIMED != 0 && self.current.iter().any(|cell| cell.load(Acquire) == entry);
        // `hold_longer` has set FINISHING before the cells were cleared, so after those looks this one is not too early.
        called || (self.state.load(Acquire) & FINISHING != 0 && lock(&self.finishing).contains(&entry))
    }

    /// Holds one of the present batch until [`let_finished_go`](Self::let_finished_go), beyond the batch.
    pub(crate) fn hold_longer(&self, entry: usize) {
        lock(&self.finishing).push(entry);
        self.state.fetch_or(FINISHING, AcqRel);
    }

    /// All finishes have run.
    pub(crate) fn let_finished_go(&self) {
        lock(&self.finishing).clear();
        // As in `let_go`.
        if self.state.fetch_and(!(WAIT | FINISHING), AcqRel) & WAIT != 0 {
            self.wake();
        }
    }

    /// Keeps what is to be told of the end.
    #[cold]
    pub(crate) fn keep_told(&self, told: Started<A>) {
        *lock(&self.told.0) = Some(ManuallyDrop::new(told));
    }

    /// To be dropped: that tells of the end.
    #[cold]
    pub(crate) fn take_told(&self) -> Option<Started<A>> {
        lock(&self.told.0).take().map(ManuallyDrop::into_inner)
    }

    /// Notes whose callback runs (invariant 3).
    pub(crate) fn set_calling(&self, subscription: u64) {
        // Relaxed: as for `owner`.
        self.calling.store(subscription, Relaxed);
    }

    /// From now on it may end on another thread, and waiting for it is not waiting for oneself.
    fn disown(&self) {
        self.owner.store(0, Relaxed);
    }

    pub(crate) fn is_mine(&self) -> bool {
        self.owner.load(Relaxed) == thread_token()
    }

    /// The subscription whose callback this thread runs for this slot's invalidation, if any.
    fn my_call(&self) -> Option<u64> {
        let calling = self.calling.load(Relaxed);
        (calling != 0 && self.is_mine()).then_some(calling)
    }

    #[cold]
    fn wake(&self) {
        // The lock: a waiter that has set WAIT either sleeps already or has yet to look again.
        let _held = lock(&self.lock);
        self.woken.notify_all();
    }

    /// Sleeps until `done`, or until the deadline; false if it came first. Batches and the end of this slot wake it.
    #[cold]
    fn wait(&self, what: &str, done: impl Fn() -> bool, deadline: Option<Instant>) -> bool {
        for () in std::iter::repeat_n((), SPINS) {
            if done() {
                return true;
            }
            spin_loop();
        }
        let mut waiting = Waiting::new(|| match self.range() {
            Some(range) => format!("{what} the invalidation of {range:?}"),
            None => format!("{what} an invalidation"),
        });
        let mut held = lock(&self.lock);
        loop {
            // AcqRel: see `let_go`. WAIT left behind on a free slot is cleared by the next claim.
            self.state.fetch_or(WAIT, AcqRel);
            if done() {
                return true;
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return false;
            }
            held = wait_until(&self.woken, held, waiting.next_look(deadline));
            if deadline.is_none() {
                // Relaxed: see `look`. Whoever has what it came for waits for nobody.
                waiting.look(|| if done() { 0 } else { self.owner.load(Relaxed) });
            }
        }
    }
}

/// A block of slots; each on cache lines of its own.
type Block<A> = Box<[CachePadded<Slot<A>>]>;

/// All slots of a space.
pub(crate) struct Slots<A: Address> {
    first: Box<[CachePadded<Slot<A>>; FIRST_BLOCK]>,
    /// Which slots of the first block have ever been claimed, a bit each: scans pass by the others.
    used: CachePadded<AtomicU64>,
    more: [OnceLock<Block<A>>; BLOCKS - 1],
}

/// A block of `len` free slots.
fn block<A: Address>(len: usize) -> Block<A> {
    (0..len).map(|_| CachePadded::new(Slot::new())).collect()
}

impl<A: Address> Slots<A> {
    pub(crate) fn new() -> Self {
        Slots {
            first: block(FIRST_BLOCK).try_into().ok().expect("it has that length"),
            used: CachePadded::new(AtomicU64::new(0)),
            more: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Block `k`, allocated if it is not there yet. Nobody waits for anybody: of two that allocate, one gives up its own.
    fn block(&self, k: usize) -> &[CachePadded<Slot<A>>] {
        let Some(k) = k.checked_sub(1) else { return &*self.first };
        if self.more[k].get().is_none() {
            let _ = self.more[k].set(block(FIRST_BLOCK << (k + 1)));
        }
        self.more[k].get().expect("it was set just now, by this thread or by another")
    }

    /// All slots that have ever been claimed, and perhaps some others, with their numbers.
    fn iter(&self) -> impl Iterator<Item = (usize, &CachePadded<Slot<A>>)> {
        // Relaxed: that no bit is missed is the fences' work (invariant 5), and the slots are there from the beginning.
        let mut used = self.used.load(Relaxed);
        let first = std::iter::from_fn(move || {
            let number = (used != 0).then(|| used.trailing_zeros() as usize)?;
            used &= used - 1;
            Some((number, &self.first[number]))
        });
        let more = self.more.iter().map_while(OnceLock::get).flatten();
        first.chain((FIRST_BLOCK..).zip(more))
    }

    /// The slot of an identity that was handed out by `claim`.
    #[inline]
    pub(crate) fn slot(&self, identity: Identity) -> &Slot<A> {
        let number = identity.slot();
        self.first.get(number).unwrap_or_else(|| self.slot_beyond_first(number))
    }

    #[cold]
    fn slot_beyond_first(&self, number: usize) -> &CachePadded<Slot<A>> {
        let k = (number / FIRST_BLOCK + 1).ilog2() as usize;
        &self.block(k)[number - FIRST_BLOCK * ((1 << k) - 1)]
    }

    /// A slot of one's own. Lock-free; allocates a block when all are taken for the first time.
    #[inline]
    pub(crate) fn claim(&self) -> (Identity, &Slot<A>) {
        // The lengths of blocks are powers of two.
        let at = thread_hint() & (FIRST_BLOCK - 1);
        let slot = &self.first[at];
        let Some(state) = slot.try_claim() else { return self.claim_another() };
        if state & GENERATION_BITS == FIRST_USE {
            self.note_first_use(at);
        }
        (Identity::new(state, at), slot)
    }

    /// The one that this thread tries first is taken.
    #[cold]
    fn claim_another(&self) -> (Identity, &Slot<A>) {
        let (mut number, hint) = (0, thread_hint());
        for k in 0..BLOCKS {
            let block = self.block(k);
            for i in 0..block.len() {
                let at = hint.wrapping_add(i) & (block.len() - 1);
                if let Some(state) = block[at].try_claim() {
                    if k == 0 {
                        self.note_first_use(at);
                    }
                    return (Identity::new(state, number + at), &block[at]);
                }
            }
            number += block.len();
        }
        panic!("{number} invalidations are open in one address space: are they ever ended?");
    }

    /// From now on scans look at this slot of the first block.
    // INVARIANT 5: `open` comes after this. Later users have acquired the end of the first one.
    #[cold]
    fn note_first_use(&self, number: usize) {
        // Relaxed: see `iter`.
        self.used.fetch_or(1 << number, Relaxed);
    }

    /// Has this invalidation not ended yet?
    pub(crate) fn is_active(&self, identity: Identity) -> bool {
        // Acquire: pairs with the Release in `end`; what the primary side changed is visible to who sees the end.
        identity != Identity::NONE && identity.is_in(self.slot(identity).state.load(Acquire))
    }

    /// Ends it and wakes those who wait for it; nobody else.
    pub(crate) fn end(&self, identity: Identity) {
        let slot = self.slot(identity);
        slot.disown();
        let free = slot.state.load(Relaxed) & GENERATION_BITS;
        // Release: what the primary side changed is visible to whoever sees the end. Acquire: pairs with the waiter's
        // fetch_or; a read-modify-write for the same reason as in `let_go`.
        if slot.state.swap(free, AcqRel) & WAIT != 0 {
            slot.wake();
        }
    }

    pub(crate) fn disown(&self, identity: Identity) {
        self.slot(identity).disown();
    }

    /// Those that were open over `span` at some moment since the call: what a subscription is born into.
    /// The caller has published the subscription.
    pub(crate) fn active_over(&self, span: Span<A>) -> Box<[Identity]> {
        // The other end is in `Slot::open`. CLAIMED but not ACTIVE: its fence is after ours, its search finds us.
        fence(SeqCst);
        let born_into = |(number, slot): (usize, &CachePadded<Slot<A>>)| {
            // Acquire: pairs with the RMW in `open`, so the range is that of this use or of a later one. If it is of
            // a later one (even in part, if an address has two words), this use has ended and we see all it did.
            let state = slot.state.load(Acquire);
            let open = state & ACTIVE != 0 && slot.range().is_some_and(|range| range.overlap(&span).is_some());
            open.then(|| Identity::new(state, number))
        };
        self.iter().filter_map(born_into).collect()
    }

    /// Is nobody calling the subscription at this address? The caller has marked it removed.
    pub(crate) fn is_uncalled(&self, entry: usize) -> bool {
        self.iter().all(|(_, slot)| !slot.holds(entry))
    }

    /// Waits until nobody calls the subscription at this address. The caller has marked it removed.
    pub(crate) fn wait_uncalled(&self, entry: usize) {
        for (_, slot) in self.iter() {
            if slot.holds(entry) {
                slot.wait("the callbacks of", || !slot.holds(entry), None);
            }
        }
    }

    /// Waits for the end; false if the deadline came first.
    pub(crate) fn wait_end(&self, identity: Identity, deadline: Option<Instant>) -> bool {
        self.slot(identity).wait("the end of", || !self.is_active(identity), deadline)
    }

    /// Does this thread run a callback, of that subscription or of any?
    pub(crate) fn inside_call(&self, subscription: Option<u64>) -> bool {
        self.iter().filter_map(|(_, slot)| slot.my_call()).any(|called| subscription.is_none_or(|own| own == called))
    }

    /// Does this thread itself hold an invalidation open?
    pub(crate) fn any_is_mine(&self) -> bool {
        self.iter().any(|(_, slot)| slot.is_mine())
    }

    /// How many are claimed just now.
    pub(crate) fn in_flight(&self) -> usize {
        self.iter().filter(|(_, slot)| slot.state.load(Relaxed) & CLAIMED != 0).count()
    }
}
