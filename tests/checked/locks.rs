//! Locks of the user's, declared.

use super::{panic_of, subscribe};
use interval_notifier::{AddressSpace, BeginError, EventKind, Notifier, checked};
use std::sync::{Arc, Mutex};
use std::thread;

/// How a report names the thread that made it.
fn this_thread() -> String {
    format!("thread `{}` ", thread::current().name().expect("a test has one"))
}

#[test]
fn whoever_would_wait_under_a_lock_that_its_callbacks_take_is_told_although_nobody_runs() {
    let space = AddressSpace::new();
    let sub = subscribe(&space, 1, || ());
    let copy = sub.ops().copy.clone();
    let guard = copy.lock().unwrap();
    {
        let _held = checked::holding(&*guard);
        let _seq = sub.read_begin().expect("nothing to wait for");
    }
    drop(guard);
    let open = space.invalidate(1..=1, EventKind::Clear).into_owned();
    let guard = copy.lock().unwrap();
    let held = checked::holding(&*guard);
    let other = Mutex::new(0);
    let _unconcerned = checked::holding(&other);
    assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Active, "it does not wait");
    for report in [panic_of(|| sub.read_begin().map(drop)), panic_of(|| sub.unsubscribe())] {
        let report = report.expect("it would wait under the lock");
        assert!(report.contains("1..=1") && report.contains("tests/checked/locks.rs"), "{report}");
        assert!(report.contains(&this_thread()), "{report}");
    }
    drop(held);
    drop(guard);
    open.end();
}

#[test]
fn nobody_minds_a_lock_that_is_given_back_or_another_one() {
    let space = AddressSpace::new();
    let sub = subscribe(&space, 1, || ());
    space.invalidate(1..=1, EventKind::Clear).end();
    let copy = sub.ops().copy.clone();
    drop(checked::holding(&*copy.lock().unwrap()));
    let other = Mutex::new(0_u64);
    let guard = other.lock().unwrap();
    let _held = checked::holding(&*guard);
    let _nothing = checked::holding(&());
    let _seq = sub.read_begin().unwrap();
    assert!(sub.unsubscribe().is_ok());
}

#[test]
fn a_lock_that_another_callback_of_the_space_takes_counts_too() {
    struct Plain;
    impl Notifier for Plain {}
    let space = AddressSpace::new();
    let [sub, dropped, neighbour] = [(); 3].map(|()| subscribe(&space, 1, || ()));
    space.invalidate(1..=1, EventKind::Clear).end();
    let copy = neighbour.ops().copy.clone();
    let guard = copy.lock().unwrap();
    let held = checked::holding(&*guard);
    let kept = Arc::downgrade(&dropped.ops().copy);
    for (what, report) in [
        ("read_begin", panic_of(|| sub.read_begin().map(drop))),
        ("unsubscribe", panic_of(|| sub.unsubscribe())),
        ("the drop", panic_of(|| drop(dropped))),
        ("register", panic_of(|| space.register(Plain).map(drop))),
    ] {
        let report = report.expect("it would wait under the lock");
        assert!(report.starts_with(what) && report.contains("tests/checked/locks.rs"), "{report}");
    }
    drop(held);
    drop(guard);
    space.invalidate(1..=1, EventKind::Clear).end();
    assert!(kept.upgrade().is_none(), "the value is dropped later, and not lost");
    assert!(neighbour.unsubscribe().is_ok());
}

#[test]
fn an_invalidation_under_a_lock_that_it_is_about_to_take_is_told_so() {
    let space = AddressSpace::new();
    let sub = subscribe(&space, 1, || ());
    let copy = sub.ops().copy.clone();
    {
        // Seen here: under the lock a build is accepted.
        let seq = sub.read_begin().unwrap();
        assert!(!sub.read_retry(seq, &copy.lock().unwrap()));
    }
    let guard = copy.lock().unwrap();
    let _held = checked::holding(&*guard);
    space.invalidate(2..=2, EventKind::Clear).end();
    let report = panic_of(|| space.invalidate(1..=1, EventKind::Clear).end()).expect("it would wait for itself");
    assert!(report.contains("is about to run a callback that takes it") && report.contains(&this_thread()), "{report}");
    assert!(sub.try_read_begin().is_ok(), "it has ended, and poisons nobody");
}

#[test]
fn a_panic_of_somebody_who_holds_the_lock_waits_for_no_callback() {
    let space = AddressSpace::new();
    let sub = subscribe(&space, 1, || ());
    space.invalidate(1..=1, EventKind::Clear).end();
    let copy = sub.ops().copy.clone();
    // The callback of another thread waits for the lock while this one unwinds.
    let guard = copy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let held = checked::holding(&*guard);
    let owner = thread::spawn({
        let space = space.clone();
        move || space.invalidate(1..=1, EventKind::Clear).end()
    });
    assert!(panic_of(|| sub.unsubscribe()).is_some());
    drop(held);
    drop(guard);
    owner.join().unwrap();
}

#[test]
fn the_lock_of_a_subscription_that_has_ended_is_forgotten() {
    let space = AddressSpace::new();
    let [sub, ended] = [(); 2].map(|()| subscribe(&space, 1, || ()));
    space.invalidate(1..=1, EventKind::Clear).end();
    let copy = ended.unsubscribe().unwrap().copy.clone();
    let guard = copy.lock().unwrap();
    let _held = checked::holding(&*guard);
    assert!(sub.unsubscribe().is_ok());
}
