//! The threads' world, and what is asserted in it.

use super::program::{Habit, PAGES, Program, SHARED, Step};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, lock, thread, try_lock};
use crate::{
    Ack, AddressSpace, Attempt, Call, Change, EventKind, Finish, Invalidate, Mirror, MirrorState, Notifier, Retry,
    Subscription, WouldBlock,
};
use std::convert::Infallible;
use std::ops::{Range, RangeBounds};

/// What a mirror holds: the generation of each page, if it has it.
type Copies = [Option<u64>; PAGES];

/// The copies of one mirror, and what became of its value.
struct Toy {
    /// `None` once its owner has taken leave of it.
    copies: Mutex<Option<Copies>>,
    drops: std::sync::atomic::AtomicU64,
    /// Finishes that have yet to run.
    pending: std::sync::atomic::AtomicU64,
    /// The ticket of the last call.
    ticket: std::sync::atomic::AtomicU64,
}

impl Toy {
    fn assert_kept(&self) {
        assert_eq!(self.drops.load(Relaxed), 0, "P4: a value was dropped while it was called");
    }
}

/// What is left of a callback in two habit.
struct Rest(Arc<Toy>);

impl Finish for Rest {
    fn finish(self: Box<Self>) -> Option<Box<dyn Finish>> {
        thread::yield_now();
        self.0.assert_kept();
        self.0.pending.fetch_sub(1, Relaxed);
        None
    }
}

/// A subscription's value.
struct Ops {
    toy: Arc<Toy>,
    prey: Prey,
    habit: Habit,
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
        assert_ne!(toy.ticket.swap(call.ticket(), Relaxed), call.ticket(), "called twice for one change");
        let mut copies = match call.is_blockable() {
            true => lock(&toy.copies),
            false => try_lock(&toy.copies).ok_or_else(|| call.would_block())?,
        };
        let ack = call.set_seq(&mut copies);
        copies.iter_mut().for_each(|copies| evict(copies, call));
        drop(copies);
        toy.assert_kept();
        Ok(match self.habit {
            Habit::Plain => ack,
            Habit::Finishes => {
                toy.pending.fetch_add(1, Relaxed);
                ack.with_finish(Box::new(Rest(toy)))
            }
            Habit::SetsTwice => call.set_seq(&mut lock(&toy.copies)),
        })
    }
}

/// A mirror whose lock is the library's.
struct State(Copies);

impl MirrorState for State {
    fn invalidate(&mut self, change: &Change) {
        evict(&mut self.0, change);
    }
}

/// Counts what is under way, as it is told.
#[derive(Default)]
struct Ear {
    starts: AtomicU64,
    ends: AtomicU64,
}

impl Notifier for Ear {
    fn start(&self, _: &Change) -> Result<(), WouldBlock> {
        self.starts.fetch_add(1, Relaxed);
        Ok(())
    }
    fn end(&self, _: &Change) {
        let before = self.ends.fetch_add(1, Relaxed);
        assert!(before < self.starts.load(Relaxed), "P5: an end without its start");
    }
}

/// What the threads share.
struct World<N> {
    space: AddressSpace,
    pages: [AtomicU64; PAGES],
    mirror: Mirror<State>,
    shared: Vec<Subscription<Ops>>,
    prey: Prey,
    /// Every toy there ever was.
    toys: Mutex<Vec<Arc<Toy>>>,
    /// Is told how builds came out.
    note: N,
}

impl<N: Fn(&str) + Send + Sync + 'static> World<N> {
    fn new(note: N) -> Arc<Self> {
        let space = AddressSpace::new();
        let mut world = World {
            mirror: space.mirror(2..6, State(Default::default())).expect("it is not released"),
            space,
            pages: std::array::from_fn(|_| AtomicU64::new(0)),
            shared: Vec::new(),
            prey: Prey::default(),
            toys: Mutex::default(),
            note,
        };
        world.shared = SHARED.map(|(range, habit)| world.subscribe(range, habit)).into();
        Arc::new(world)
    }

    fn subscribe(&self, range: Range<u64>, habit: Habit) -> Subscription<Ops> {
        let toy = Arc::new(Toy {
            copies: Mutex::new(Some(Default::default())),
            drops: Default::default(),
            pending: Default::default(),
            ticket: Default::default(),
        });
        lock(&self.toys).push(toy.clone());
        self.space.subscribe(range, Ops { toy, prey: self.prey.clone(), habit }).expect("it is not released")
    }

    fn play(&self, step: Step) {
        match step {
            Step::Change(range, inner) => {
                let open = self.space.invalidate(range.clone(), EventKind::Clear);
                self.change(&range);
                inner.into_iter().for_each(|inner| self.play(Step::Change(inner, None)));
                self.change(&range);
                open.end();
            }
            Step::TryChange(range) => {
                if let Ok(_open) = self.space.try_invalidate(range.clone(), EventKind::Clear) {
                    self.change(&range);
                }
            }
            Step::Build(which) => self.build(&self.shared[which]),
            Step::Update => self.update(),
            Step::Own(range, habit) => {
                let own = self.subscribe(range, habit);
                self.build(&own);
                own.ops().take_leave();
                let value = own.unsubscribe().expect("this is no callback");
                assert_eq!(value.toy.drops.load(Relaxed), 0, "P4: the value comes back whole");
                assert_eq!(value.toy.pending.load(Relaxed), 0, "P4: it comes back and is to be finished");
            }
            Step::Prey(range, habit) => {
                let prey = self.subscribe(range, habit);
                lock(&self.prey).push(prey);
            }
            Step::Notify(range) => {
                let registration = self.space.register(Ear::default()).expect("this is no callback");
                self.play(Step::Change(range, None));
                let ear = registration.unregister().expect("this is no callback");
                let (starts, ends) = (ear.starts.into_inner(), ear.ends.into_inner());
                assert!((1..=starts).contains(&ends), "P5: {starts} starts and {ends} ends, and one of each is ours");
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
        (self.note)(if stale { "stale" } else { "committed" });
        if let (false, Some(copies)) = (stale, &mut *copies) {
            self.install(copies, built);
        }
    }

    fn update(&self) {
        let built = |_: Attempt<'_>| Ok::<_, Infallible>(self.read(self.mirror.range()));
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

/// Runs the program on threads of its own.
pub(crate) fn run(program: Program, note: impl Fn(&str) + Send + Sync + 'static) {
    let world = World::new(note);
    let play = |steps: Vec<Step>| {
        let world = world.clone();
        thread::spawn(move || steps.into_iter().for_each(|step| world.play(step)))
    };
    let threads: Vec<_> = program.into_iter().map(play).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no promise was broken"));
    world.assert_rest();
    Arc::into_inner(world).expect("the threads are gone").assert_dropped();
}
