//! P4: removing against callbacks and searches, from outside and from within.

use super::toy::{CLEAR, PAGE, Sub, Toy, one};
use super::{explore, spawn, thread};
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, AddressSpace, Call, Invalidate, Subscription, WouldBlock};

const OUTCOMES: [&str; 2] = ["called", "not called"];

fn outcome(calls: u64) -> &'static str {
    ["not called", "called"][usize::try_from(calls).expect("at most one call")]
}

#[test]
fn after_unsubscribe_nobody_touches_the_mirror() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, _) = one();
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        let toy = sub.unshared().unsubscribe().unwrap();
        *lock(&toy.copy) = Some(7);
        owner.join().unwrap();
        assert_eq!(toy.copy(), Some(7), "a callback ran after `unsubscribe` had returned");
        assert_eq!(Arc::strong_count(&toy), 1, "the value is back, and the library keeps no copy");
        seen.note(outcome(toy.calls()));
    });
}

#[test]
fn unsubscribe_waits_for_the_callback_and_not_for_the_end() {
    // The invalidation stays open until `unsubscribe` has returned. What the callback wrote without a lock is seen then.
    explore(&OUTCOMES, |seen| {
        let (space, sub, _) = one();
        let toy = sub.ops().clone();
        let sub = sub.unshared();
        let remover = thread::spawn(move || sub.unsubscribe().unwrap().calls());
        let open = space.invalidate(PAGE, CLEAR);
        let called = toy.calls();
        assert_eq!(called, remover.join().unwrap(), "a callback ran later, or what it did is not visible");
        open.end();
        seen.note(outcome(called));
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn a_removed_subscription_is_skipped_in_a_batch_of_two() {
    // The neighbour in its batch is called whatever happens.
    explore(&OUTCOMES, |seen| {
        let (space, neighbour, _) = one();
        let sub = Sub::new(&space, PAGE, &Toy::new()).unshared();
        let remover = thread::spawn(move || sub.unsubscribe().unwrap().calls());
        let open = space.invalidate(PAGE, CLEAR);
        seen.note(outcome(remover.join().unwrap()));
        assert_eq!(neighbour.ops().calls(), 1);
        open.end();
    });
}

#[test]
fn unsubscribing_between_ones_own_start_and_end_is_legal() {
    explore(&[], |_| {
        let (space, sub, _) = one();
        let reader = spawn!([sub] drop(sub.read_begin()));
        let open = space.invalidate(PAGE, CLEAR);
        let mine = Sub::new(&space, PAGE, &Toy::new());
        drop(mine);
        open.end();
        reader.join().unwrap();
        let open = space.invalidate(PAGE, CLEAR);
        assert_eq!(sub.unshared().unsubscribe().unwrap().calls(), 2);
        open.end();
    });
}

#[test]
#[cfg_attr(loom, ignore = "three threads with a search each: too many states")]
fn two_removals_at_once_are_both_final() {
    explore(&["both called", "one called", "none called"], |seen| {
        let (space, first, _) = one();
        let second = Sub::new(&space, PAGE, &Toy::new()).unshared();
        let first = first.unshared();
        let remover = thread::spawn(move || second.unsubscribe().unwrap().calls());
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        let calls = first.unsubscribe().unwrap().calls() + remover.join().unwrap();
        owner.join().unwrap();
        seen.note(["none called", "one called", "both called"][usize::try_from(calls).unwrap()]);
    });
}

#[test]
#[cfg_attr(loom, ignore = "three threads, all of which search or publish: too many states")]
fn a_batch_that_was_removed_as_a_whole_is_let_go_as_a_whole() {
    // The search goes on to a smaller batch, and stays open until those who wait for the first one have returned.
    explore(&["both called", "one called", "none called"], |seen| {
        let (space, first, _) = one();
        let second = Sub::new(&space, PAGE, &Toy::new());
        let _third = Sub::new(&space, PAGE, &Toy::new());
        let removers = [first, second].map(|sub| {
            let sub = sub.unshared();
            thread::spawn(move || sub.unsubscribe().unwrap().calls())
        });
        let open = space.invalidate(PAGE, CLEAR);
        let calls: u64 = removers.map(|remover| remover.join().unwrap()).iter().sum();
        open.end();
        seen.note(["none called", "one called", "both called"][usize::try_from(calls).unwrap()]);
    });
}

/// Where a callback finds a subscription that it is to drop.
type Drawer = Arc<Mutex<Vec<Subscription<Arc<Toy>>>>>;

/// Empties it. Dropped outside its lock: that may wait, and what it waits for may want the drawer.
fn empty(drawer: &Drawer) {
    let found = std::mem::take(&mut *lock(drawer));
    drop(found);
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn a_subscription_may_be_dropped_inside_its_own_callback() {
    explore(&["called once", "called twice"], |seen| {
        let (space, drawer) = (AddressSpace::new(), Drawer::default());
        let toy = Toy::meeting({
            let drawer = drawer.clone();
            move |_| {
                empty(&drawer);
                Ok(())
            }
        });
        lock(&drawer).push(space.subscribe(PAGE, toy.clone()).unwrap());
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        let calls = toy.calls();
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(toy.calls(), calls, "called although it was dropped before");
        assert_eq!(Arc::strong_count(&toy), 1, "whoever leaves a callback next drops what was left");
        // Two at once may both be on their way to the callback when the first of them drops it.
        seen.note(if calls == 1 { "called once" } else { "called twice" });
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn callbacks_may_drop_each_others_subscription() {
    explore(&["one called", "both called"], |seen| {
        let space = AddressSpace::new();
        let drawers = [Drawer::default(), Drawer::default()];
        let toys = [0, 1].map(|mine| {
            let neighbour = drawers[1 - mine].clone();
            Toy::meeting(move |_| {
                empty(&neighbour);
                Ok(())
            })
        });
        for (toy, drawer) in toys.iter().zip(&drawers) {
            lock(drawer).push(space.subscribe(PAGE, toy.clone()).unwrap());
        }
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        drawers.iter().for_each(empty);
        space.invalidate(PAGE, CLEAR).end(); // Whoever leaves a callback next drops what was left.
        seen.note(if toys.iter().all(|toy| toy.calls() > 0) { "both called" } else { "one called" });
        for toy in &toys {
            assert_eq!(Arc::strong_count(toy), 1, "everything that was dropped has been swept");
        }
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn unsubscribe_inside_a_callback_gives_the_handle_back() {
    explore(&[], |_| {
        let (space, drawer) = (AddressSpace::new(), Drawer::default());
        let toy = Toy::meeting({
            let drawer = drawer.clone();
            move |_| {
                let Some(sub) = lock(&drawer).pop() else { return Ok(()) };
                let Err(crate::InsideCallback(sub)) = sub.unsubscribe() else { panic!("it would wait for itself") };
                lock(&drawer).push(sub);
                Ok(())
            }
        });
        lock(&drawer).push(space.subscribe(PAGE, toy.clone()).unwrap());
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        assert_eq!(toy.calls(), 2, "it is still there");
        empty(&drawer);
        assert_eq!(Arc::strong_count(&toy), 1);
    });
}

/// A callback that takes no lock.
struct Bare(Arc<AtomicUsize>);

impl Invalidate for Bare {
    type Locked = ();
    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        self.0.store(1, Relaxed);
        Ok(call.unaffected())
    }
}

#[test]
fn an_owner_who_does_not_meet_a_removed_mirror_sees_that_it_has_let_go() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, device) = one();
        let (toy, sub) = (sub.ops().clone(), sub.unshared());
        let remover = {
            let device = device.clone();
            thread::spawn(move || {
                device.set(20); // It lets go of the page, and has itself removed.
                drop(sub.unsubscribe().unwrap());
            })
        };
        let open = space.invalidate(PAGE, CLEAR);
        let calls = toy.calls();
        assert!(calls == 1 || device.get() == 20, "not called, and what it did before it went is not visible");
        open.end();
        remover.join().unwrap();
        seen.note(outcome(calls));
    });
}

#[test]
fn what_a_callback_did_is_visible_though_the_next_batch_is_under_way() {
    // Two batches: the remover of the first subscription may find the second batch where the first one was held.
    explore(&OUTCOMES, |seen| {
        let space = AddressSpace::new();
        let marks = [(); 4].map(|()| Arc::new(AtomicUsize::new(0)));
        let [first, rest @ ..] = marks.each_ref().map(|mark| space.subscribe(PAGE, Bare(mark.clone())).unwrap());
        let remover = thread::spawn(move || first.unsubscribe().unwrap().0.load(Relaxed));
        let open = space.invalidate(PAGE, CLEAR);
        let called = marks[0].load(Relaxed);
        assert_eq!(called, remover.join().unwrap(), "what the callback did is not visible after unsubscribe");
        open.end();
        drop(rest);
        seen.note(outcome(called as u64));
    });
}

#[test]
fn what_a_callback_did_is_visible_though_its_invalidation_has_ended() {
    // The remover may find a slot that is free again, and nothing else to learn it from.
    explore(&OUTCOMES, |seen| {
        let space = AddressSpace::new();
        let mark = Arc::new(AtomicUsize::new(0));
        let sub = space.subscribe(PAGE, Bare(mark.clone())).unwrap();
        let remover = thread::spawn(move || sub.unsubscribe().unwrap().0.load(Relaxed));
        space.invalidate(PAGE, CLEAR).end();
        let called = mark.load(Relaxed);
        assert_eq!(called, remover.join().unwrap(), "what the callback did is not visible after unsubscribe");
        seen.note(outcome(called as u64));
    });
}
