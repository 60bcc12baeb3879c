//! Histories: random programs of three to five threads over a few overlapping ranges, against the concurrent form of
//! the oracle.
//!
//! The owner has pages, each with a generation that every change raises. What is asserted, whatever the schedule:
//!
//! - at commit, every page that was built has the generation that it has now (P1: a change since would have collided);
//! - from start to end, no mirror holds a page of the range (P2);
//! - at rest, every page that a mirror holds has its last generation, and every value was dropped exactly once (P4).
//!
//! Five threads are too many for loom. A program is a number, so a failure is replayed by its test and its schedule.

use super::toy::CLEAR;
use super::{Seen, explore, spawn};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, AddressSpace, Call, Change, Invalidate, Mirror, MirrorState, Retry, Subscription, WouldBlock};
use std::convert::Infallible;
use std::ops::{Range, RangeBounds};

/// Programs; each is explored by itself.
const PROGRAMS: u64 = 16;
/// Steps of each thread.
const STEPS: u64 = 3;
/// Addresses, one page each.
const PAGES: usize = 8;
/// What the threads share.
const SHARED: [Range<u64>; 2] = [0..5, 3..8];

/// Small, well mixed, and the same for ever: a seed in a failure message is a reproduction.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`. Slightly uneven, which does not matter here.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What a mirror holds: the generation of each page, if it has it.
type Copies = [Option<u64>; PAGES];

/// One step of one thread.
#[derive(Clone, Debug)]
enum Step {
    /// A change between start and end; the second is nested in the first.
    Change(Range<u64>, Option<Range<u64>>),
    /// A change by an owner that may not wait.
    TryChange(Range<u64>),
    /// A build for one of the shared mirrors.
    Build(usize),
    /// The same through `Mirror::update`.
    Update,
    /// A subscription of one's own: insert, build, remove.
    Own(Range<u64>),
    /// A subscription that is left for some callback to drop.
    Prey(Range<u64>),
}

fn range(random: &mut SplitMix64) -> Range<u64> {
    let first = random.below(PAGES as u64);
    first..(first + 1 + random.below(4)).min(PAGES as u64)
}

fn step(random: &mut SplitMix64) -> Step {
    match random.below(8) {
        0 => Step::Change(range(random), None),
        1 => Step::Change(range(random), Some(range(random))),
        2 => Step::TryChange(range(random)),
        3 | 4 => Step::Build(random.below(SHARED.len() as u64) as usize),
        5 => Step::Update,
        6 => Step::Own(range(random)),
        _ => Step::Prey(range(random)),
    }
}

/// The threads of program `number`. Two of them meet in every program, over everything, so that it is never vacuous.
fn program(number: u64) -> Vec<Vec<Step>> {
    let mut random = SplitMix64(number);
    let threads = 1 + random.below(3);
    let everything = || 0..PAGES as u64;
    let met = [
        vec![Step::Prey(everything()), Step::Change(everything(), None)],
        vec![Step::Build(0), Step::Change(everything(), None), Step::Build(1)],
    ];
    let more = (0..threads).map(|_| (0..STEPS).map(|_| step(&mut random)).collect());
    met.into_iter().chain(more).collect()
}

/// The copies of one mirror, and what became of its value.
struct Toy {
    /// `None` once its owner has taken leave of it.
    copies: Mutex<Option<Copies>>,
    drops: std::sync::atomic::AtomicU64,
}

/// A subscription's value.
struct Ops {
    toy: Arc<Toy>,
    prey: Prey,
}

/// Where callbacks find what they are to drop.
type Prey = Arc<Mutex<Vec<Subscription<Ops>>>>;

impl Ops {
    /// Nothing is installed from here on, and what is there does not count.
    fn take_leave(&self) {
        *lock(&self.toy.copies) = None;
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        let before = self.toy.drops.fetch_add(1, Relaxed);
        assert_eq!(before, 0, "P4: a value was dropped twice");
    }
}

fn evict(copies: &mut Copies, change: &Change) {
    for page in change.overlap().first()..=change.overlap().last() {
        copies[page as usize] = None;
    }
}

impl Invalidate for Ops {
    type Locked = Option<Copies>;

    fn invalidate(&self, call: &Call<'_, Option<Copies>>) -> Result<Ack, WouldBlock> {
        let toy = Arc::clone(&self.toy); // It outlives this value, also where P4 is broken.
        let caught = lock(&self.prey).pop();
        drop(caught.inspect(|subscription| subscription.ops().take_leave()));
        let mut copies = if call.is_blockable() {
            lock(&toy.copies)
        } else {
            toy.copies.try_lock().map_err(|_| call.would_block())?
        };
        let ack = call.set_seq(&mut copies);
        copies.iter_mut().for_each(|copies| evict(copies, call));
        assert_eq!(toy.drops.load(Relaxed), 0, "P4: a value was dropped while it was called");
        Ok(ack)
    }
}

/// A mirror whose lock is the library's.
struct State(Copies);

impl MirrorState for State {
    fn invalidate(&mut self, change: &Change) {
        evict(&mut self.0, change);
    }
}

/// What the threads share.
struct World {
    space: AddressSpace,
    pages: [AtomicU64; PAGES],
    mirror: Mirror<State>,
    shared: Vec<Subscription<Ops>>,
    prey: Prey,
    /// Every toy there ever was.
    toys: Mutex<Vec<Arc<Toy>>>,
    seen: Seen,
}

impl World {
    fn new(seen: &Seen) -> Arc<World> {
        let space = AddressSpace::new();
        let mut world = World {
            mirror: space.mirror(2..6, State(Default::default())).expect("it is not released"),
            space,
            pages: std::array::from_fn(|_| AtomicU64::new(0)),
            shared: Vec::new(),
            prey: Prey::default(),
            toys: Mutex::default(),
            seen: seen.clone(),
        };
        world.shared = SHARED.map(|range| world.subscribe(range)).into();
        Arc::new(world)
    }

    fn subscribe(&self, range: Range<u64>) -> Subscription<Ops> {
        let toy = Arc::new(Toy { copies: Mutex::new(Some(Default::default())), drops: Default::default() });
        lock(&self.toys).push(toy.clone());
        self.space.subscribe(range, Ops { toy, prey: self.prey.clone() }).expect("it is not released")
    }

    fn play(&self, step: Step) {
        match step {
            Step::Change(range, inner) => {
                let open = self.space.invalidate(range.clone(), CLEAR);
                self.change(&range);
                inner.into_iter().for_each(|inner| self.play(Step::Change(inner, None)));
                self.change(&range);
                open.end();
            }
            Step::TryChange(range) => {
                if let Ok(_open) = self.space.try_invalidate(range.clone(), CLEAR) {
                    self.change(&range);
                }
            }
            Step::Build(which) => self.build(&self.shared[which]),
            Step::Update => self.update(),
            Step::Own(range) => {
                let own = self.subscribe(range);
                self.build(&own);
                own.ops().take_leave();
                let value = own.unsubscribe().expect("this is no callback");
                assert_eq!(value.toy.drops.load(Relaxed), 0, "P4: the value comes back whole");
            }
            Step::Prey(range) => {
                let prey = self.subscribe(range);
                lock(&self.prey).push(prey);
            }
        }
    }

    /// The owner changes pages that it has invalidated.
    fn change(&self, range: &Range<u64>) {
        self.assert_unmapped(range);
        for page in self.pages.iter().take(range.end as usize).skip(range.start as usize) {
            page.fetch_add(1, Relaxed);
        }
        self.assert_unmapped(range);
    }

    fn assert_unmapped(&self, range: &Range<u64>) {
        let holds = |copies: &Copies| (0..PAGES).any(|page| range.contains(&(page as u64)) && copies[page].is_some());
        for toy in lock(&self.toys).iter() {
            assert!(!lock(&toy.copies).as_ref().is_some_and(holds), "P2: {range:?} is mapped while it is invalidated");
        }
        assert!(!self.mirror.with(|state| holds(&state.0)).expect("nobody panics"), "P2: {range:?} in the mirror");
    }

    /// What a build sees, page by page: it is not a snapshot.
    fn read(&self, range: impl RangeBounds<u64>) -> Copies {
        std::array::from_fn(|page| range.contains(&(page as u64)).then(|| self.pages[page].load(Relaxed)))
    }

    /// P1, under the mirror lock.
    fn install(&self, copies: &mut Copies, built: Copies) {
        for (page, generation) in built.into_iter().enumerate().filter(|(_, generation)| generation.is_some()) {
            assert_eq!(generation, Some(self.pages[page].load(Relaxed)), "P1: page {page} is stale at commit");
            copies[page] = generation;
        }
    }

    fn build(&self, subscription: &Subscription<Ops>) {
        let seq = subscription.read_begin().expect("this is no callback, and no invalidation of this thread is open");
        let built = self.read(subscription.range());
        let mut copies = lock(&subscription.ops().toy.copies);
        let stale = subscription.read_retry(seq, &copies);
        self.seen.note(if stale { "stale" } else { "committed" });
        if let (false, Some(copies)) = (stale, &mut *copies) {
            self.install(copies, built);
        }
    }

    fn update(&self) {
        let built = |_: crate::Attempt<'_>| Ok::<_, Infallible>(self.read(self.mirror.range()));
        let done = self.mirror.update(Retry::forever(), built, |state, built| self.install(&mut state.0, built));
        done.expect("no other thread waits for this one");
    }

    /// Every thread is gone.
    fn assert_rest(&self) {
        let fresh = |copies: &Copies| {
            (0..PAGES).all(|page| copies[page].is_none_or(|generation| generation == self.pages[page].load(Relaxed)))
        };
        for subscription in &self.shared {
            assert!(lock(&subscription.ops().toy.copies).as_ref().is_some_and(fresh), "P1: stale at rest");
        }
        assert!(self.mirror.with(|state| fresh(&state.0)).expect("nobody panics"), "P1: the mirror is stale at rest");
    }

    /// Ends what is left. Whatever a callback has dropped is gone after that, too.
    fn assert_dropped(self) {
        let prey = std::mem::take(&mut *lock(&self.prey));
        drop((prey, self.shared, self.mirror));
        drop(self.space);
        for toy in lock(&self.toys).iter() {
            assert_eq!(toy.drops.load(Relaxed), 1, "P4: a value is dropped exactly once");
        }
    }
}

fn run(number: u64, seen: &Seen) {
    let world = World::new(seen);
    let play = |steps: Vec<Step>| spawn!([world] steps.into_iter().for_each(|step| world.play(step)));
    let threads: Vec<_> = program(number).into_iter().map(play).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no promise was broken"));
    world.assert_rest();
    Arc::into_inner(world).expect("the threads are gone").assert_dropped();
}

#[test]
fn random_programs_keep_the_promises() {
    for number in 0..PROGRAMS {
        explore(&["committed", "stale"], move |seen| run(number, seen));
    }
}
