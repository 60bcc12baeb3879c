//! What is measured, and whom against: this crate, and what a user would write instead.
//!
//! The rival is a map of disjoint ranges under a lock, with one sequence and one count of active invalidations for the
//! whole space. Its reader is two loads and hard to beat; what it cannot do shows elsewhere: a reader of one range
//! builds again for every change of any other, and ranges may not overlap.
#![allow(dead_code, reason = "each bench uses one side of it")]

use interval_notifier::{
    Ack, AddressSpace, Call, Change, EventKind, Invalidate, Mirror, MirrorState, Retry, Subscription, WouldBlock,
};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};

/// How far apart subscriptions begin, and how much of that each of them covers; the rest is a gap.
pub(super) const STRIDE: u64 = 4 << 20;
pub(super) const COVERED: u64 = 2 << 20;
pub(super) const PAGE: u64 = 4 << 10;

/// Numbers of subscriptions. `INTERVAL_BENCH_LARGE=1` adds one that does not fit into the caches.
pub(super) fn sizes() -> Vec<u64> {
    let large = std::env::var_os("INTERVAL_BENCH_LARGE").map(|_| 1_000_000);
    [100, 10_000].into_iter().chain(large).collect()
}

/// Small and well mixed; about a nanosecond a number, and a part of what is measured.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    #[inline]
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// What both can do. A mirror holds one number under its lock, and forgets it when it is called back.
pub(super) trait Space: Sized {
    const NAME: &'static str;
    type Sub;
    type Mirror;

    fn new() -> Self;
    /// Dropping it ends it.
    fn subscribe(&self, range: Range<u64>) -> Self::Sub;
    fn mirror(&self, range: Range<u64>) -> Self::Mirror;
    /// Start and end.
    fn invalidate(&self, range: Range<u64>);
    /// Begin and retry without the lock.
    fn begin_retry(&self, sub: &Self::Sub) -> bool;
    /// Begin, lock, retry, unlock.
    fn begin_retry_locked(&self, sub: &Self::Sub) -> bool;
    /// Begin, lock, retry, install, unlock.
    fn update(&self, mirror: &Self::Mirror, value: u64);
}

/// A space with `n` subscriptions, subscribed in a random order so that memory order is random in key order.
pub(super) fn filled<S: Space>(n: u64) -> (S, Vec<S::Sub>) {
    let (space, mut random) = (S::new(), SplitMix64(42));
    let mut slots: Vec<u64> = (0..n).collect();
    for i in (1..slots.len()).rev() {
        slots.swap(i, random.below(i as u64 + 1) as usize);
    }
    let subs = slots.into_iter().map(|slot| space.subscribe(slot * STRIDE..slot * STRIDE + COVERED)).collect();
    (space, subs)
}

/// This crate.
pub(super) struct Crate(AddressSpace);

/// A mirror with a lock of its own.
pub(super) struct Own(Mutex<u64>);

impl Invalidate for Own {
    type Locked = u64;
    #[inline]
    fn invalidate(&self, call: &Call<'_, u64>) -> Result<Ack, WouldBlock> {
        let mut held = self.0.lock().unwrap();
        *held = 0;
        Ok(call.set_seq(&mut held))
    }
}

/// A mirror whose lock is the library's.
pub(super) struct State(u64);

impl MirrorState for State {
    fn invalidate(&mut self, _: &Change) {
        self.0 = 0;
    }
}

impl Space for Crate {
    const NAME: &'static str = "crate";
    type Sub = Subscription<Own>;
    type Mirror = Mirror<State>;

    fn new() -> Self {
        Crate(AddressSpace::new())
    }
    fn subscribe(&self, range: Range<u64>) -> Self::Sub {
        self.0.subscribe(range, Own(Mutex::new(0))).unwrap()
    }
    fn mirror(&self, range: Range<u64>) -> Self::Mirror {
        self.0.mirror(range, State(0)).unwrap()
    }
    #[inline]
    fn invalidate(&self, range: Range<u64>) {
        self.0.invalidate(range, EventKind::Clear).end();
    }
    #[inline]
    fn begin_retry(&self, sub: &Self::Sub) -> bool {
        let seq = sub.read_begin().unwrap();
        sub.check_retry(&seq)
    }
    #[inline]
    fn begin_retry_locked(&self, sub: &Self::Sub) -> bool {
        let seq = sub.read_begin().unwrap();
        let held = sub.ops().0.lock().unwrap();
        sub.read_retry(seq, &held)
    }
    #[inline]
    fn update(&self, mirror: &Self::Mirror, value: u64) {
        mirror.update(Retry::forever(), |_| Ok::<_, Infallible>(value), |state, value| state.0 = value).unwrap();
    }
}

/// What a user would write.
#[derive(Clone)]
pub(super) struct Naive(Arc<NaiveShared>);

/// The last address, and what the mirror holds; the first address is the key, for the ranges are disjoint.
type NaiveEntry = (u64, Arc<Mutex<u64>>);

#[derive(Default)]
struct NaiveShared {
    entries: RwLock<BTreeMap<u64, NaiveEntry>>,
    sequence: AtomicU64,
    active: AtomicU64,
}

/// One range of it.
pub(super) struct NaiveSub {
    space: Naive,
    first: u64,
    held: Arc<Mutex<u64>>,
}

impl Drop for NaiveSub {
    fn drop(&mut self) {
        self.space.0.entries.write().unwrap().remove(&self.first);
    }
}

impl Naive {
    #[inline]
    fn begin(&self) -> u64 {
        while self.0.active.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        self.0.sequence.load(SeqCst)
    }

    #[inline]
    fn retry(&self, begun: u64) -> bool {
        self.0.active.load(SeqCst) != 0 || self.0.sequence.load(SeqCst) != begun
    }
}

impl Space for Naive {
    const NAME: &'static str = "naive";
    type Sub = NaiveSub;
    type Mirror = NaiveSub;

    fn new() -> Self {
        Naive(Arc::default())
    }
    fn subscribe(&self, range: Range<u64>) -> NaiveSub {
        let held = Arc::new(Mutex::new(0));
        self.0.entries.write().unwrap().insert(range.start, (range.end - 1, Arc::clone(&held)));
        NaiveSub { space: self.clone(), first: range.start, held }
    }
    fn mirror(&self, range: Range<u64>) -> NaiveSub {
        self.subscribe(range)
    }
    #[inline]
    fn invalidate(&self, range: Range<u64>) {
        self.0.active.fetch_add(1, SeqCst);
        let entries = self.0.entries.read().unwrap();
        let hits = entries.range(..range.end).rev().take_while(|(_, (last, _))| *last >= range.start);
        hits.for_each(|(_, (_, held))| *held.lock().unwrap() = 0);
        drop(entries);
        self.0.sequence.fetch_add(1, SeqCst);
        self.0.active.fetch_sub(1, SeqCst);
    }
    #[inline]
    fn begin_retry(&self, _: &NaiveSub) -> bool {
        self.retry(self.begin())
    }
    #[inline]
    fn begin_retry_locked(&self, sub: &NaiveSub) -> bool {
        let begun = self.begin();
        let _held = sub.held.lock().unwrap();
        self.retry(begun)
    }
    #[inline]
    fn update(&self, mirror: &NaiveSub, value: u64) {
        loop {
            let begun = self.begin();
            let mut held = mirror.held.lock().unwrap();
            if !self.retry(begun) {
                *held = value;
                return;
            }
        }
    }
}
