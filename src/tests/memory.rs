//! P4 and reclamation: a value is dropped once, never while a callback uses it, and never by the epoch.

use super::toy::{CLEAR, PAGE};
use super::{explore, spawn, thread};
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, AddressSpace, Call, Invalidate, Subscription, WouldBlock};

/// What became of a [`Canary`]; it outlives it.
#[derive(Default)]
struct Cage {
    drops: AtomicUsize,
    calls: AtomicUsize,
}

impl Cage {
    fn assert_alive(&self) {
        assert_eq!(self.drops.load(Relaxed), 0, "a value was used after it had been dropped");
    }

    /// At rest, with every handle gone.
    fn assert_dropped_once(&self) {
        assert_eq!(self.drops.load(Relaxed), 1, "a value is dropped exactly once");
    }
}

/// A value that says when it is used too late or dropped too often.
struct Canary {
    cage: Arc<Cage>,
    /// What its callback drops.
    prey: Prey,
}

/// Where a callback finds the subscriptions it is to drop.
type Prey = Arc<Mutex<Vec<Subscription<Canary>>>>;

impl Drop for Canary {
    fn drop(&mut self) {
        self.cage.assert_alive();
        self.cage.drops.fetch_add(1, Relaxed);
    }
}

impl Invalidate for Canary {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        let cage = self.cage.clone();
        cage.assert_alive();
        cage.calls.fetch_add(1, Relaxed);
        let prey = std::mem::take(&mut *lock(&self.prey));
        drop(prey);
        cage.assert_alive();
        Ok(call.unaffected())
    }
}

/// A subscribed canary, and its cage.
fn canary(space: &AddressSpace, prey: &Prey) -> (Subscription<Canary>, Arc<Cage>) {
    let cage = Arc::<Cage>::default();
    let sub = space.subscribe(PAGE, Canary { cage: cage.clone(), prey: prey.clone() });
    (sub.unwrap_or_else(|_| panic!("the space is not released")), cage)
}

const OUTCOMES: [&str; 2] = ["called", "not called"];

fn outcome(cage: &Cage) -> &'static str {
    if cage.calls.load(Relaxed) == 0 { "not called" } else { "called" }
}

/// Only AddressSanitizer sees what is wrong here, if it is: what a search has found is freed, not dropped.
#[test]
#[cfg_attr(loom, ignore = "loom does not look into what is freed")]
fn what_a_search_has_found_is_not_freed_before_it_was_looked_at() {
    explore(&OUTCOMES, |seen| {
        let (space, prey) = (AddressSpace::new(), Prey::default());
        let (sub, cage) = canary(&space, &prey);
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        drop(sub.unsubscribe());
        // Each pin lets the epoch go on, as far as others are not in its way.
        (0..8).for_each(|_| drop(crate::sync::epoch::pin()));
        owner.join().unwrap();
        seen.note(outcome(&cage));
    });
}

#[test]
fn a_value_is_dropped_after_its_last_callback() {
    explore(&OUTCOMES, |seen| {
        let space = AddressSpace::new();
        let (sub, cage) = canary(&space, &Prey::default());
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        drop(sub);
        cage.assert_dropped_once();
        owner.join().unwrap();
        cage.assert_dropped_once();
        seen.note(outcome(&cage));
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn an_entry_outlives_the_search_that_found_it() {
    // The neighbour keeps the search busy; the entry's memory goes through the epoch.
    explore(&OUTCOMES, |seen| {
        let space = AddressSpace::new();
        let (neighbour, other) = canary(&space, &Prey::default());
        let (sub, cage) = canary(&space, &Prey::default());
        let remover = thread::spawn(move || drop(sub));
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(other.calls.load(Relaxed), 1);
        remover.join().unwrap();
        cage.assert_dropped_once();
        drop(neighbour);
        other.assert_dropped_once();
        seen.note(outcome(&cage));
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn a_value_that_is_dropped_inside_its_own_callback_lives_until_it_returns() {
    explore(&["one callback", "two callbacks"], |seen| {
        let (space, prey) = (AddressSpace::new(), Prey::default());
        let (sub, cage) = canary(&space, &prey);
        lock(&prey).push(sub);
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        space.invalidate(PAGE, CLEAR).end(); // Whoever leaves a callback next drops what was left.
        cage.assert_dropped_once();
        seen.note(["one callback", "two callbacks"][cage.calls.load(Relaxed) - 1]);
    });
}

#[test]
#[cfg_attr(loom, ignore = "two searches with two callbacks each: too many states")]
fn values_that_are_dropped_inside_each_others_callbacks_live_until_they_return() {
    // The first callback to come drops both; the other one may be running in another thread.
    explore(&["one called", "both called"], |seen| {
        let (space, prey) = (AddressSpace::new(), Prey::default());
        let (subs, cages): (Vec<_>, Vec<_>) = (0..2).map(|_| canary(&space, &prey)).unzip();
        lock(&prey).extend(subs);
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        space.invalidate(PAGE, CLEAR).end(); // Whoever leaves a callback next drops what was left.
        cages.iter().for_each(|cage| cage.assert_dropped_once());
        let called = cages.iter().filter(|cage| outcome(cage) == "called").count();
        seen.note(["one called", "both called"][called - 1]);
    });
}

#[test]
fn what_nobody_swept_goes_with_the_space() {
    // A start that may not block drops nobody's value on its way out.
    explore(&["dropped here", "left in the callback"], |seen| {
        let (space, prey) = (AddressSpace::new(), Prey::default());
        let (sub, cage) = canary(&space, &prey);
        lock(&prey).push(sub);
        let owner = spawn!([space] drop(space.try_invalidate(PAGE, CLEAR)));
        // Either the callback drops it, or we do.
        let mine = std::mem::take(&mut *lock(&prey));
        seen.note(if mine.is_empty() { "left in the callback" } else { "dropped here" });
        drop(mine);
        owner.join().unwrap();
        drop(space);
        cage.assert_dropped_once();
    });
}
