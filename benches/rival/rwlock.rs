//! What a user would write: the ranges in a map under a lock, one sequence and one count of active invalidations for all.
//!
//! A begin and a retry are a few loads and hard to beat. What it costs shows elsewhere: every start and end writes words
//! that all threads share, a reader builds again for every change of any other range, and inserts stop all starts.

use super::{Engine, Ops};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

/// A collection of subscribed ranges.
pub trait Ranges<T>: Default + Send + Sync + 'static {
    fn insert(&mut self, range: &Range<u64>, ops: Arc<T>);
    fn remove(&mut self, range: &Range<u64>, ops: &Arc<T>);
    fn for_each_overlap(&self, range: &Range<u64>, call: impl FnMut(&T));
}

/// A readers-writer lock.
pub trait Lock<M>: Default + Send + Sync + 'static {
    fn read<R>(&self, read: impl FnOnce(&M) -> R) -> R;
    fn write<R>(&self, write: impl FnOnce(&mut M) -> R) -> R;
}

impl<M: Default + Send + Sync + 'static> Lock<M> for RwLock<M> {
    #[inline]
    fn read<R>(&self, read: impl FnOnce(&M) -> R) -> R {
        read(&RwLock::read(self).unwrap())
    }
    #[inline]
    fn write<R>(&self, write: impl FnOnce(&mut M) -> R) -> R {
        write(&mut RwLock::write(self).unwrap())
    }
}

impl<M: Default + Send + Sync + 'static> Lock<M> for parking_lot::RwLock<M> {
    #[inline]
    fn read<R>(&self, read: impl FnOnce(&M) -> R) -> R {
        read(&parking_lot::RwLock::read(self))
    }
    #[inline]
    fn write<R>(&self, write: impl FnOnce(&mut M) -> R) -> R {
        write(&mut parking_lot::RwLock::write(self))
    }
}

/// A few microseconds. More was measured and is slower beside a busy owner, whose words it reads all the time.
const SPINS: u32 = 100;

/// What the sequence never is.
const STALE: u64 = u64::MAX;

/// The sequence and the count, and those who wait for the count to be zero.
#[derive(Default)]
struct Clock {
    sequence: AtomicU64,
    active: AtomicU64,
    waiters: AtomicU64,
    lock: Mutex<()>,
    idle: Condvar,
}

impl Clock {
    /// The count first: who has read the new sequence sees the invalidation that wrote it until it has ended.
    #[inline]
    fn start(&self) {
        self.active.fetch_add(1, SeqCst);
        self.sequence.fetch_add(1, SeqCst);
    }

    #[inline]
    fn end(&self) {
        if self.active.fetch_sub(1, SeqCst) == 1 && self.waiters.load(SeqCst) != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.idle.notify_all();
    }

    /// The sequence first, see `start`.
    #[inline]
    fn begin(&self) -> u64 {
        loop {
            let sequence = self.sequence.load(SeqCst);
            if self.active.load(SeqCst) == 0 {
                return sequence;
            }
            self.wait();
        }
    }

    /// Two loads; stale from the beginning while anything is active.
    #[inline]
    fn begin_at_once(&self) -> u64 {
        let sequence = self.sequence.load(SeqCst);
        if self.active.load(SeqCst) == 0 { sequence } else { STALE }
    }

    /// Looks for a while before it sleeps: most invalidations are short.
    #[cold]
    fn wait(&self) {
        for _ in 0..SPINS {
            if self.active.load(SeqCst) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiters.fetch_add(1, SeqCst);
        while self.active.load(SeqCst) != 0 {
            guard = self.idle.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiters.fetch_sub(1, SeqCst);
    }

    #[inline]
    fn retry(&self, begun: u64) -> bool {
        self.sequence.load(SeqCst) != begun
    }
}

/// A space over any collection and any lock. A begin waits until nothing is active, or else, the simplest of all, gives
/// back at once what is thrown away later.
pub struct Naive<T, M, L, const WAITS: bool = true> {
    ranges: L,
    clock: Clock,
    collection: PhantomData<fn() -> (T, M)>,
}

impl<T, M, L: Default, const WAITS: bool> Default for Naive<T, M, L, WAITS> {
    fn default() -> Self {
        Naive { ranges: L::default(), clock: Clock::default(), collection: PhantomData }
    }
}

/// One range of it.
pub struct NaiveSub<T> {
    range: Range<u64>,
    ops: Arc<T>,
}

/// An invalidation of it.
pub struct NaiveOpen<'a>(&'a Clock);

impl Drop for NaiveOpen<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T: Ops, M: Ranges<T>, L: Lock<M>, const WAITS: bool> Engine<T> for Naive<T, M, L, WAITS> {
    type Sub = NaiveSub<T>;
    type Seq = u64;
    type Open<'a> = NaiveOpen<'a>;

    #[inline]
    fn subscribe(&self, range: Range<u64>, ops: T) -> NaiveSub<T> {
        let sub = NaiveSub { range, ops: Arc::new(ops) };
        self.ranges.write(|ranges| ranges.insert(&sub.range, Arc::clone(&sub.ops)));
        sub
    }
    #[inline]
    fn unsubscribe(&self, sub: NaiveSub<T>) -> T {
        self.ranges.write(|ranges| ranges.remove(&sub.range, &sub.ops));
        Arc::into_inner(sub.ops).expect("the collection had the only other one")
    }
    #[inline]
    fn ops<'a>(&'a self, sub: &'a NaiveSub<T>) -> &'a T {
        &sub.ops
    }
    #[inline]
    fn start(&self, range: Range<u64>) -> NaiveOpen<'_> {
        self.clock.start();
        let open = NaiveOpen(&self.clock);
        self.ranges.read(|ranges| ranges.for_each_overlap(&range, |ops| ops.invalidate(range.clone(), |_| ())));
        open
    }
    #[inline]
    fn read_begin(&self, _: &NaiveSub<T>) -> u64 {
        if WAITS { self.clock.begin() } else { self.clock.begin_at_once() }
    }
    #[inline]
    fn check_retry(&self, _: &NaiveSub<T>, seq: &u64) -> bool {
        self.clock.retry(*seq)
    }
    #[inline]
    fn read_retry(&self, _: &NaiveSub<T>, seq: u64, _: &T::Locked) -> bool {
        self.clock.retry(seq)
    }
}
