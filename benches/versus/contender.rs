//! A space that is filled and ready to be measured, whatever engine is inside.

use crate::layout::{self, SplitMix64};
use crate::rival::{Engine, Interval, Kernel, Ops, ParkingLotBTreeMap, ParkingLotIset, RwLockBTreeMap, RwLockIset};
use std::hint::black_box;
use std::ops::Range;
use std::sync::Mutex;

/// The mirror of W4 and W5: a mutex of the user's, and nothing else to do.
#[derive(Default)]
pub(crate) struct Own(pub(crate) Mutex<u64>);

impl Ops for Own {
    type Locked = u64;
    #[inline]
    fn invalidate<R>(&self, _: Range<u64>, set_seq: impl FnOnce(&mut u64) -> R) -> R {
        set_seq(&mut self.0.lock().unwrap())
    }
}

/// One operation that is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    BeginRetry,
    BeginRetryLocked,
    Miss,
    Hit,
    Hit100,
    InsertRemove,
}

/// One thread of a measurement.
pub(crate) struct Turn {
    pub(crate) thread: u64,
    pub(crate) threads: u64,
    pub(crate) random: SplitMix64,
}

/// Who can be measured; it is called so rarely that the indirection does not show.
pub(crate) trait Contender: Sync {
    fn name(&self) -> &'static str;
    /// Repeats the step.
    fn run(&self, step: Step, turn: &mut Turn, times: u64);
}

/// An engine with `n` subscriptions.
pub(crate) struct Filled<E: Engine<Own>> {
    name: &'static str,
    n: u64,
    pub(crate) space: E,
    pub(crate) subs: Vec<E::Sub>,
}

impl<E: Engine<Own>> Filled<E> {
    pub(crate) fn new(name: &'static str, n: u64) -> Self {
        let space = E::default();
        let subs = layout::slots(n).into_iter().map(|range| space.subscribe(range, Own::default())).collect();
        Filled { name, n, space, subs }
    }

    #[inline(always)]
    fn begin_retry(&self, sub: &E::Sub) -> bool {
        let seq = self.space.read_begin(sub);
        self.space.check_retry(sub, &seq)
    }

    #[inline(always)]
    pub(crate) fn begin_retry_locked(&self, sub: &E::Sub) -> bool {
        let seq = self.space.read_begin(sub);
        let held = self.space.ops(sub).0.lock().unwrap();
        self.space.read_retry(sub, seq, &held)
    }

    #[inline(always)]
    fn insert_remove(&self, range: Range<u64>) {
        black_box(self.space.unsubscribe(self.space.subscribe(range, Own::default())));
    }
}

impl<E: Engine<Own>> Contender for Filled<E> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, step: Step, turn: &mut Turn, times: u64) {
        let Turn { thread, threads, ref mut random } = *turn;
        let (n, own) = (self.n, &self.subs[thread as usize]);
        match step {
            Step::BeginRetry => (0..times).for_each(|_| assert!(!self.begin_retry(own))),
            Step::BeginRetryLocked => (0..times).for_each(|_| assert!(!self.begin_retry_locked(own))),
            Step::Miss => (0..times).for_each(|_| drop(self.space.start(layout::miss(random, n)))),
            Step::Hit => (0..times).for_each(|_| drop(self.space.start(layout::hit_1(random, n)))),
            Step::Hit100 => (0..times).for_each(|_| drop(self.space.start(layout::hit_100(random, n)))),
            Step::InsertRemove => {
                (0..times).for_each(|_| self.insert_remove(layout::in_gap(random, n, thread, threads)))
            }
        }
    }
}

pub(crate) const OURS: &str = "ours";
pub(crate) const KERNEL: &str = "kernel";

/// This crate first, then everybody it is compared with.
pub(crate) fn everybody(n: u64) -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(Filled::<Interval>::new(OURS, n)),
        Box::new(Filled::<Kernel<Own>>::new(KERNEL, n)),
        Box::new(Filled::<RwLockIset<Own>>::new("rwlock-iset", n)),
        Box::new(Filled::<ParkingLotIset<Own>>::new("parking-lot-iset", n)),
        Box::new(Filled::<RwLockBTreeMap<Own>>::new("rwlock-btreemap", n)),
        Box::new(Filled::<ParkingLotBTreeMap<Own>>::new("parking-lot-btreemap", n)),
    ]
}
