//! The rivals of the benches are held to what they are compared in: each finds exactly what a plain list finds, and keeps
//! the promise of begin and retry. A rival that is fast because it is wrong would prove nothing.

#[path = "../benches/rival/mod.rs"]
mod rival;

use rival::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const KEYS: u64 = 64;

/// Small and well mixed.
struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }

    fn range(&mut self) -> Range<u64> {
        let start = self.below(KEYS);
        start..start + 1 + self.below(KEYS / 4)
    }
}

/// Writes down that it was called.
struct Logged {
    id: u64,
    log: Arc<Mutex<Vec<u64>>>,
    lock: Mutex<()>,
}

impl Ops for Logged {
    type Locked = ();
    fn invalidate<R>(&self, _: Range<u64>, set_seq: impl FnOnce(&mut ()) -> R) -> R {
        let mut held = self.lock.lock().unwrap();
        self.log.lock().unwrap().push(self.id);
        set_seq(&mut held)
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Random inserts, removes and invalidations: the callbacks are those of a list, and a build that was begun before is stale.
fn finds_what_a_list_finds<E: Engine<Logged>>(disjoint: bool, check: impl Fn(&E)) {
    let (space, log) = (E::default(), Arc::<Mutex<Vec<u64>>>::default());
    let mut random = SplitMix64(1);
    let mut subs: BTreeMap<u64, (Range<u64>, E::Sub)> = BTreeMap::new();
    for id in 0..4000 {
        let range = random.range();
        match random.below(3) {
            0 if disjoint && subs.values().any(|(other, _)| overlap(other, &range)) => {}
            0 if subs.len() < 40 => {
                let ops = Logged { id, log: Arc::clone(&log), lock: Mutex::new(()) };
                subs.insert(id, (range.clone(), space.subscribe(range, ops)));
            }
            1 if !subs.is_empty() => {
                let nth = random.below(subs.len() as u64) as usize;
                let id = *subs.keys().nth(nth).unwrap();
                assert_eq!(space.unsubscribe(subs.remove(&id).unwrap().1).id, id, "the value comes back");
            }
            _ => {
                let begun: Vec<_> = subs.values().map(|(_, sub)| space.read_begin(sub)).collect();
                drop(space.start(range.clone()));
                let mut found = std::mem::take(&mut *log.lock().unwrap());
                found.sort_unstable();
                let hits = subs.iter().filter(|(_, (other, _))| overlap(other, &range)).map(|(id, _)| *id);
                assert_eq!(found, hits.collect::<Vec<_>>(), "{range:?}");
                for ((other, sub), seq) in subs.values().zip(begun) {
                    assert!(!overlap(other, &range) || space.check_retry(sub, &seq), "{other:?} was hit by {range:?}");
                    let held = space.ops(sub).lock.lock().unwrap();
                    let seq_now = space.read_begin(sub);
                    assert!(!space.read_retry(sub, seq_now, &held), "nothing has happened since");
                }
            }
        }
        check(&space);
    }
    subs.into_values().for_each(|(_, sub)| drop(space.unsubscribe(sub)));
}

/// A mirror of one number; it holds nothing between a callback and the next install.
struct Copied(Mutex<Option<u64>>);

impl Ops for Copied {
    type Locked = Option<u64>;
    fn invalidate<R>(&self, _: Range<u64>, set_seq: impl FnOnce(&mut Option<u64>) -> R) -> R {
        let mut held = self.0.lock().unwrap();
        *held = None;
        set_seq(&mut held)
    }
}

/// Two owners change two numbers, a reader copies each: no copy is older than the last ended change, and none is there
/// inside of one. A third range comes and goes meanwhile. `retry` is the reader's, so that a wrong one can be planted.
fn stale_copies<E: Engine<Copied>>(rounds: u64, retry: impl Fn(bool) -> bool + Sync) -> u64 {
    let (space, truth, wrong) = (E::default(), [const { AtomicU64::new(0) }; 2], AtomicU64::new(0));
    let ranges = [0..4, 8..12];
    let subs = ranges.clone().map(|range| space.subscribe(range, Copied(Mutex::new(None))));
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let owners: Vec<_> = (0..2)
            .map(|i| {
                let (space, truth, subs, wrong, ranges) = (&space, &truth, &subs, &wrong, &ranges);
                s.spawn(move || {
                    for round in 1..=rounds {
                        let open = space.start(ranges[i].clone());
                        truth[i].store(round, SeqCst);
                        std::thread::yield_now();
                        wrong.fetch_add(u64::from(space.ops(&subs[i]).0.lock().unwrap().is_some()), SeqCst);
                        drop(open);
                    }
                })
            })
            .collect();
        for i in 0..2 {
            let (space, truth, subs, wrong, done, retry) = (&space, &truth, &subs, &wrong, &done, &retry);
            s.spawn(move || {
                while !done.load(SeqCst) {
                    let before = truth[i].load(SeqCst);
                    let seq = space.read_begin(&subs[i]);
                    let copy = truth[i].load(SeqCst);
                    std::thread::yield_now();
                    let mut held = space.ops(&subs[i]).0.lock().unwrap();
                    if !retry(space.read_retry(&subs[i], seq, &held)) {
                        wrong.fetch_add(u64::from(copy < before), SeqCst);
                        *held = Some(copy);
                    }
                }
            });
        }
        let (space_, done_) = (&space, &done);
        s.spawn(move || {
            while !done_.load(SeqCst) {
                let sub = space_.subscribe(20..24, Copied(Mutex::new(None)));
                let _ = space_.read_begin(&sub);
                space_.unsubscribe(sub);
            }
        });
        owners.into_iter().for_each(|owner| owner.join().unwrap());
        done.store(true, SeqCst);
    });
    for (i, sub) in subs.into_iter().enumerate() {
        let last = space.unsubscribe(sub).0.into_inner().unwrap();
        wrong.fetch_add(u64::from(last.is_some_and(|copy| copy != truth[i].load(SeqCst))), SeqCst);
    }
    wrong.into_inner()
}

macro_rules! every_rival {
    ($($name:ident: $engine:ident, disjoint: $disjoint:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn finds_what_a_list_finds() {
                super::finds_what_a_list_finds::<engine!($engine, Logged)>($disjoint, |_| ());
            }

            #[test]
            fn commits_nothing_stale() {
                assert_eq!(stale_copies::<engine!($engine, Copied)>(2_000, |stale| stale), 0);
            }
        }
    )*};
}

/// This crate's takes its value with each subscription, the others are of one value.
macro_rules! engine {
    (Interval, $ops:ty) => { Interval };
    ($engine:ident, $ops:ty) => { $engine<$ops> };
}

every_rival! {
    interval: Interval, disjoint: false;
    kernel: Kernel, disjoint: false;
    rwlock_iset: RwLockIset, disjoint: false;
    hasty_rwlock_iset: HastyRwLockIset, disjoint: false;
    parking_lot_iset: ParkingLotIset, disjoint: false;
    rwlock_btreemap: RwLockBTreeMap, disjoint: true;
    parking_lot_btreemap: ParkingLotBTreeMap, disjoint: true;
    global_seq: GlobalSeq, disjoint: false;
}

/// The kernel's tree stays a red-black tree with the right augmentation, whatever is inserted and removed.
#[test]
fn the_kernels_tree_keeps_its_invariants() {
    finds_what_a_list_finds::<Kernel<Logged>>(false, Kernel::check);
}

/// What the kernel is known for: an insert inside of an open epoch is put off, and so is a removal; and who was hit waits
/// for every invalidation there is, this crate's reader for its own only.
#[test]
fn the_kernels_reader_waits_for_unrelated_invalidations() {
    fn begins_beside_an_unrelated_one<E: Engine<Copied>>() -> bool {
        let (space, begun) = (E::default(), AtomicBool::new(false));
        let sub = space.subscribe(0..4, Copied(Mutex::new(None)));
        let unrelated = space.start(100..104);
        drop(space.start(0..4));
        std::thread::scope(|s| {
            let reader = s.spawn(|| {
                let _ = space.read_begin(&sub);
                begun.store(true, SeqCst);
            });
            std::thread::sleep(std::time::Duration::from_millis(50));
            let beside = begun.load(SeqCst);
            drop(unrelated);
            reader.join().unwrap();
            beside
        })
    }
    assert!(!begins_beside_an_unrelated_one::<Kernel<Copied>>());
    assert!(!begins_beside_an_unrelated_one::<RwLockIset<Copied>>());
    assert!(begins_beside_an_unrelated_one::<Interval>());
}

/// The check above can fail: a reader that does not ask is caught.
#[test]
fn a_reader_that_does_not_retry_is_seen() {
    assert!((0..20).any(|_| stale_copies::<Kernel<Copied>>(2_000, |_| false) > 0));
}
