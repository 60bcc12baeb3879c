//! Locks of the user's, declared.

use super::{panic_of, subscribe};
use interval_notifier::{AddressSpace, BeginError, EventKind, checked};
use std::sync::Mutex;

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
