//! Notifiers that have left the list where nobody may wait, or while they were being called.
//!
//! # Invariant
//!
//! Whoever has taken a member out has it in hand until its notifier is dropped or it is back. So while none of those below
//! a number is buried or in hand, all of them have been dropped.

use super::AnyMember;
use crate::held::Holding;
use crate::range::Address;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, Condvar, Mutex, lock, wait_until};

/// See the module.
pub(super) struct Graveyard<A: Address> {
    state: Mutex<State<A>>,
    /// How many are buried; a hint.
    buried: AtomicUsize,
    /// Something is not in hand any more.
    put_down: Condvar,
}

struct State<A: Address> {
    members: Vec<Buried<A>>,
    /// The numbers of those that were taken out and are not dropped yet.
    in_hand: Vec<u64>,
    /// The number of the next burial.
    next: u64,
}

struct Buried<A: Address> {
    number: u64,
    member: Arc<dyn AnyMember<A>>,
}

impl<A: Address> State<A> {
    /// Takes out one with a lower number.
    fn take_below(&mut self, limit: u64) -> Option<Buried<A>> {
        let at = self.members.iter().position(|buried| buried.number < limit)?;
        let buried = self.members.swap_remove(at);
        self.in_hand.push(buried.number);
        Some(buried)
    }
}

impl<A: Address> Graveyard<A> {
    pub(super) fn new() -> Self {
        Graveyard {
            state: Mutex::new(State { members: Vec::new(), in_hand: Vec::new(), next: 0 }),
            buried: AtomicUsize::new(0),
            put_down: Condvar::new(),
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut State<A>) -> R) -> R {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        self.buried.store(state.members.len(), Relaxed);
        result
    }

    pub(super) fn has_buried(&self) -> bool {
        self.buried.load(Relaxed) != 0
    }

    pub(super) fn bury(&self, member: Arc<dyn AnyMember<A>>) {
        self.change(|state| {
            state.members.push(Buried { number: state.next, member });
            state.next += 1;
        });
    }

    /// Drops what is not called just now, and reports each to `dropped`.
    pub(super) fn sweep(&self, space: u64, dropped: impl Fn()) {
        let all = self.change(|state| {
            let taken = std::iter::from_fn(|| state.take_below(u64::MAX));
            taken.map(|buried| self.in_hand(buried)).collect::<Vec<_>>()
        });
        for in_hand in all {
            in_hand.settle(space, |member| member.try_bury(), &dropped);
        }
    }

    /// Waits until all that were buried before have been dropped, here or by others. Those from here are reported.
    pub(super) fn synchronize(&self, space: u64, dropped: impl Fn()) {
        let limit = lock(&self.state).next;
        while let Some(in_hand) = self.next_or_wait(limit) {
            let bury = |member: &dyn AnyMember<A>| {
                member.bury();
                true
            };
            in_hand.settle(space, bury, &dropped);
        }
    }

    /// The next one below the limit; `None` when all of them are dropped, those too that others have in hand just now.
    fn next_or_wait(&self, limit: u64) -> Option<InHand<'_, A>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(buried) = state.take_below(limit) {
                return Some(self.in_hand(buried));
            }
            if state.in_hand.iter().all(|number| *number >= limit) {
                return None;
            }
            state = wait_until(&self.put_down, state, None);
        }
    }

    fn in_hand(&self, buried: Buried<A>) -> InHand<'_, A> {
        InHand { graveyard: self, number: buried.number, member: Some(buried.member) }
    }
}

/// A member that was taken out. It goes back unless its notifier could be dropped.
struct InHand<'g, A: Address> {
    graveyard: &'g Graveyard<A>,
    number: u64,
    member: Option<Arc<dyn AnyMember<A>>>,
}

impl<A: Address> InHand<'_, A> {
    /// Drops the notifier if `bury` can. What it owned may not wait there for other callbacks, nor for this very drop.
    fn settle(mut self, space: u64, bury: impl FnOnce(&dyn AnyMember<A>) -> bool, dropped: impl Fn()) {
        let _inside = Holding::new(space);
        if self.member.as_ref().is_some_and(|member| bury(&**member)) {
            self.member = None;
            dropped();
        }
    }
}

impl<A: Address> Drop for InHand<'_, A> {
    fn drop(&mut self) {
        self.graveyard.change(|state| {
            state.members.extend(self.member.take().map(|member| Buried { number: self.number, member }));
            state.in_hand.retain(|number| *number != self.number);
        });
        self.graveyard.put_down.notify_all();
    }
}
