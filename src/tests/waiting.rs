//! P7: whoever waits is woken, by what it waits for and not only by luck. A lost wake-up is a deadlock.

use super::toy::{CLEAR, PAGE, Sub, Toy, change, one};
use super::{explore, spawn, thread};
use crate::BeginError;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Begins; was there anything to wait for when it looked?
fn begin(sub: &Sub) -> bool {
    let active = sub.try_read_begin().is_err_and(|error| error == BeginError::Active);
    drop(sub.read_begin().unwrap());
    active
}

#[test]
fn one_end_wakes_every_waiter() {
    explore(&["none waited", "one waited", "both waited"], |seen| {
        let (space, sub, word) = one();
        let open = space.invalidate(PAGE, CLEAR);
        let waiters = [(); 2].map(|()| spawn!([sub, word](begin(&sub), word.get())));
        word.set(20);
        open.end();
        let waited = waiters.map(|waiter| waiter.join().unwrap());
        assert!(waited.iter().all(|&(_, value)| value == 20), "a begin returned before the end");
        let count = waited.iter().filter(|(active, _)| *active).count();
        seen.note(["none waited", "one waited", "both waited"][count]);
    });
}

#[test]
#[cfg_attr(loom, ignore = "three threads with a search each: too many states")]
fn a_batch_and_an_end_wake_their_own_waiters() {
    // Both wait on one slot: the remover for the batch, the reader for the end.
    explore(&["called", "not called"], |seen| {
        let (space, sub, _) = one();
        let other = Sub::new(&space, PAGE, &Toy::new()).unshared();
        let reader = spawn!([sub] drop(sub.read_begin().unwrap()));
        let remover = thread::spawn(move || other.unsubscribe().unwrap().calls());
        space.invalidate(PAGE, CLEAR).end();
        reader.join().unwrap();
        seen.note(if remover.join().unwrap() == 1 { "called" } else { "not called" });
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch, and no memory is at stake")]
fn a_remover_is_woken_by_the_batch_while_the_invalidation_stays_open() {
    explore(&["called", "not called"], |seen| {
        let (space, sub, _) = one();
        let sub = sub.unshared();
        let remover = thread::spawn(move || sub.unsubscribe().unwrap().calls());
        let open = space.invalidate(PAGE, CLEAR);
        seen.note(if remover.join().unwrap() == 1 { "called" } else { "not called" });
        open.end();
    });
}

#[test]
fn an_owned_invalidation_may_end_on_another_thread() {
    explore(&["waited", "ended before"], |seen| {
        let (space, sub, word) = one();
        let open = spawn!([space] space.invalidate(PAGE, CLEAR).into_owned()).join().unwrap();
        let reader = spawn!([sub, word](begin(&sub), word.get()));
        word.set(20);
        open.end();
        let (waited, value) = reader.join().unwrap();
        assert_eq!(value, 20, "a begin returned before the end");
        seen.note(if waited { "waited" } else { "ended before" });
    });
}

#[test]
fn a_waiter_waits_for_what_it_found_and_not_for_what_came_later() {
    explore(&["returned while a later one was open", "waited for both"], |seen| {
        let (space, sub, _) = one();
        let first = space.invalidate(PAGE, CLEAR);
        let returned = Arc::new(AtomicBool::new(false));
        let reader = spawn!([sub, returned] {
            drop(sub.read_begin().unwrap());
            returned.store(true, Relaxed);
        });
        let later = space.invalidate(PAGE, CLEAR);
        first.end();
        thread::yield_now();
        let early = returned.load(Relaxed);
        later.end();
        reader.join().unwrap();
        seen.note(if early { "returned while a later one was open" } else { "waited for both" });
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch, and no memory is at stake")]
fn a_slot_that_is_used_again_wakes_those_who_wait_for_its_first_use() {
    explore(&["waited", "not active"], |seen| {
        let (space, sub, word) = one();
        let reader = spawn!([sub] begin(&sub));
        change(&space, &word, 20);
        change(&space, &word, 40);
        seen.note(if reader.join().unwrap() { "waited" } else { "not active" });
        assert!(sub.try_read_begin().is_ok());
    });
}
