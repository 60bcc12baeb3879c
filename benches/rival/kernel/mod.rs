//! The protocol of Linux's `mm/mmu_notifier.c`, written anew from its description, and as fast as it is there.
//!
//! One spin lock; one count of active invalidations; one sequence, odd while an epoch is open. A start that hits
//! something opens an epoch, and the last end closes it: then the changes of the tree that were put off meanwhile are
//! made, and everybody who waits is woken. So while an epoch is open the tree stands still, callbacks are found without
//! the lock, and readers that were hit, new subscriptions and removals all wait for *every* invalidation to end.
//!
//! In the kernel a notifier lies inside of its driver's object, and inserting allocates nothing. Here nodes come from an
//! arena with a free list, one cache line of links and then the mirror's state: the cheapest there is.
#![expect(unsafe_code, reason = "nodes are handed out by address, as in the kernel")]

mod arena;
mod tree;

use super::{Engine, Ops};
use arena::{Arena, Place};
use spin::mutex::SpinMutex;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use tree::{Node, Tree};

/// What the spin lock protects.
struct State<T> {
    active: u64,
    /// The kernel's `invalidate_seq`; odd while an epoch is open.
    seq: u64,
    tree: Tree<T>,
    /// Inserted or removed while an epoch was open: those that are linked are to be unlinked, and the other way round.
    deferred: Vec<Place<T>>,
    /// Does anybody wait for this epoch to close?
    awaited: bool,
    arena: Arena<T>,
}

impl<T> State<T> {
    #[inline]
    fn is_open(&self) -> bool {
        self.seq & 1 == 1
    }
}

/// An address space with the kernel's protocol.
pub struct Kernel<T> {
    state: SpinMutex<State<T>>,
    /// Which space it is: places are good in the one that has handed them out.
    id: u64,
    /// The last sequence at which somebody who waited was woken.
    closed: Mutex<u64>,
    wake: Condvar,
}

impl<T> Default for Kernel<T> {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let arena = Arena::default();
        let state = State { active: 0, seq: 2, tree: Tree::new(), deferred: Vec::new(), awaited: false, arena };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Kernel { state: SpinMutex::new(state), id, closed: Mutex::new(0), wake: Condvar::new() }
    }
}

/// A subscription; forgotten, not ended, when it is dropped.
#[must_use = "end it with unsubscribe"]
pub struct KernelSub<T> {
    place: Place<T>,
    space: u64,
}

/// An invalidation.
pub struct KernelOpen<'a, T>(&'a Kernel<T>);

impl<T> Drop for KernelOpen<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T> Kernel<T> {
    #[inline]
    fn node<'a>(&'a self, sub: &'a KernelSub<T>) -> &'a Node<T> {
        assert_eq!(sub.space, self.id, "a subscription of another space");
        // SAFETY: the arena of this space has handed it out and lives as long as `self`; it takes it back when the
        // subscription is consumed, which is borrowed.
        unsafe { sub.place.node() }
    }

    /// The kernel's `mn_itree_inv_end`.
    #[inline]
    fn end(&self) {
        let mut state = self.state.lock();
        state.active -= 1;
        if state.active > 0 || !state.is_open() {
            return;
        }
        state.seq += 1;
        if !state.deferred.is_empty() {
            apply_deferred(&mut state);
        }
        if std::mem::take(&mut state.awaited) {
            let seq = state.seq;
            drop(state);
            self.wake_all(seq);
        }
    }

    #[cold]
    fn wake_all(&self, seq: u64) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = seq.max(*closed);
        drop(closed);
        self.wake.notify_all();
    }

    /// Waits until the epoch has closed that was open at `seq`, and was marked as awaited.
    #[cold]
    fn wait(&self, seq: u64) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let still_open = |closed: &mut u64| *closed <= seq;
        drop(self.wake.wait_while(closed, still_open).unwrap_or_else(PoisonError::into_inner));
    }
}

#[cold]
fn apply_deferred<T>(state: &mut State<T>) {
    for place in std::mem::take(&mut state.deferred) {
        // SAFETY: what is on the list is in use: a removal waits until the list has been emptied.
        let node = unsafe { place.node() };
        if node.is_linked() { state.tree.remove(node) } else { state.tree.insert(node) }
    }
}

impl<T: Ops> Engine<T> for Kernel<T> {
    type Sub = KernelSub<T>;
    type Seq = u64;
    type Open<'a> = KernelOpen<'a, T>;

    fn subscribe(&self, range: Range<u64>, ops: T) -> KernelSub<T> {
        let mut state = self.state.lock();
        let place = state.arena.place(Node::new(range.start, range.end - 1, ops));
        // SAFETY: it has just been handed out.
        let node = unsafe { place.node() };
        // Hit at birth if anything is active, so that its first begin waits for that; else never hit.
        let seq = match (state.active > 0, state.is_open()) {
            (true, true) => {
                state.deferred.push(place.copy());
                state.seq
            }
            (true, false) => {
                state.seq |= 1;
                state.tree.insert(node);
                state.seq
            }
            (false, _) => {
                state.tree.insert(node);
                state.seq - 1
            }
        };
        node.seq.store(seq, Ordering::Relaxed);
        KernelSub { place, space: self.id }
    }

    fn unsubscribe(&self, sub: KernelSub<T>) -> T {
        let node = self.node(&sub);
        let mut state = self.state.lock();
        if !state.is_open() {
            state.tree.remove(node);
        } else if let Some(place) = state.deferred.iter().rposition(|place| place.is(node)) {
            state.deferred.swap_remove(place); // It was not inserted yet, so nobody has found it.
        } else {
            state.deferred.push(sub.place.copy());
            state.awaited = true;
            let seq = state.seq;
            drop(state);
            self.wait(seq);
            state = self.state.lock();
        }
        // SAFETY: this arena has handed it out, and it is in no tree and on no list any more.
        unsafe { state.arena.take_back(sub.place) }
    }

    #[inline]
    fn ops<'a>(&'a self, sub: &'a KernelSub<T>) -> &'a T {
        &self.node(sub).ops
    }

    /// The kernel's `mn_itree_invalidate`: the first hit under the lock, the others without it.
    #[inline]
    fn start(&self, range: Range<u64>) -> KernelOpen<'_, T> {
        let (first, last) = (range.start, range.end - 1);
        let mut state = self.state.lock();
        state.active += 1;
        let mut next = state.tree.first_overlap(first, last);
        if next.is_some() {
            state.seq |= 1;
        }
        let seq = state.seq;
        drop(state);
        let open = KernelOpen(self);
        while let Some(node) = next {
            node.ops.invalidate(range.clone(), |_| node.seq.store(seq, Ordering::Relaxed));
            next = node.next_overlap(first, last);
        }
        open
    }

    /// Once it has waited it returns what may be stale already, as the kernel's does.
    #[inline]
    fn read_begin(&self, sub: &KernelSub<T>) -> u64 {
        let node = self.node(sub);
        let mut state = self.state.lock();
        let seq = node.seq.load(Ordering::Relaxed);
        if seq == state.seq {
            state.awaited = true;
            drop(state);
            self.wait(seq);
        }
        seq
    }

    #[inline]
    fn check_retry(&self, sub: &KernelSub<T>, seq: &u64) -> bool {
        self.node(sub).seq.load(Ordering::Relaxed) != *seq
    }

    #[inline]
    fn read_retry(&self, sub: &KernelSub<T>, seq: u64, _: &T::Locked) -> bool {
        self.check_retry(sub, &seq)
    }
}

#[cfg(test)]
impl<T> Kernel<T> {
    /// Panics where an invariant of the tree does not hold.
    pub fn check(&self) {
        self.state.lock().tree.check();
    }
}
