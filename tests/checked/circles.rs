//! Threads that wait for each other. One of them panics, naming all, and the others go on.

use super::{State, Toy, panic_of, subscribe};
use interval_notifier::{AddressSpace, BeginError, EventKind, Subscription};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::Duration;

const CLEAR: EventKind = EventKind::Clear;

/// Runs both at once on threads with these names; what one of them, and only one, has panicked with.
fn report(first: impl FnOnce() + Send + 'static, second: impl FnOnce() + Send + 'static) -> String {
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    let first = named("first").spawn(|| panic_of(first)).expect("a thread");
    let second = named("second").spawn(|| panic_of(second)).expect("a thread");
    let reports: Vec<_> = [first, second].into_iter().filter_map(|thread| thread.join().expect("caught")).collect();
    let [report] = &reports[..] else { panic!("one panics and the other goes on: {reports:?}") };
    for part in ["these wait for each other", "thread `first` waits for", "thread `second` waits for"] {
        assert!(report.contains(part), "{part:?} is missing: {report}");
    }
    report.clone()
}

#[test]
fn two_owners_that_begin_inside_each_others_invalidations() {
    let (space, both_open) = (AddressSpace::new(), Arc::new(Barrier::new(2)));
    let owner = |own: u64, other: u64| {
        let (space, both_open) = (space.clone(), both_open.clone());
        let sub = subscribe(&space, other, || ());
        move || {
            let _open = space.invalidate(own..=own, CLEAR);
            both_open.wait();
            let _seq = sub.read_begin().expect("it waits for the other one");
        }
    };
    let report = report(owner(1, 2), owner(2, 1));
    assert!(report.contains("the end of the invalidation of 1..=1"), "{report}");
    assert!(report.contains("the end of the invalidation of 2..=2"), "{report}");
}

#[test]
fn two_that_wait_for_each_other_no_longer_than_a_while_are_no_circle() {
    const WHILE: Duration = Duration::from_millis(300); // Fifteen looks.
    let (space, both_open) = (AddressSpace::new(), Arc::new(Barrier::new(2)));
    let [first, second] = [(1, 2), (2, 1)].map(|(own, other)| {
        let (space, both_open) = (space.clone(), both_open.clone());
        thread::spawn(move || {
            let sub = subscribe(&space, other, || ());
            let _open = space.invalidate(own..=own, CLEAR);
            both_open.wait();
            sub.read_begin_timeout(WHILE).map(drop)
        })
    });
    let begun = [first, second].map(|thread| thread.join().expect("no panic"));
    assert!(begun.contains(&Err(BeginError::Active)), "the other one may just have seen it give up");
}

#[test]
fn two_callbacks_that_begin_inside_each_other() {
    let (space, both_inside) = (AddressSpace::new(), Arc::new(Barrier::new(2)));
    // Each callback begins on a subscription that the other's invalidation has hit already.
    let victims = [1, 2].map(|page| subscribe(&space, page, || ()));
    let owner = |own: u64, victim: Subscription<Toy>| {
        let (space, both_inside) = (space.clone(), both_inside.clone());
        let caller = subscribe(&space, own, {
            let both_inside = both_inside.clone();
            move || {
                both_inside.wait();
                let _ = victim.read_begin().map(drop);
            }
        });
        move || {
            let _caller = caller;
            drop(space.invalidate(own..=own, CLEAR));
        }
    };
    let [first, second] = victims;
    report(owner(1, second), owner(2, first));
}

/// A subscription to page 2 whose callback begins on page 1, when `both` are there.
fn begins_inside(space: &AddressSpace, both: &Arc<Barrier>) -> Subscription<Toy> {
    let (victim, both) = (subscribe(space, 1, || ()), both.clone());
    subscribe(space, 2, move || {
        both.wait();
        let _seq = victim.read_begin().map(drop);
    })
}

#[test]
fn a_removal_and_a_callback_that_waits_for_its_thread() {
    let (space, both) = (AddressSpace::new(), Arc::new(Barrier::new(2)));
    let removed = begins_inside(&space, &both);
    let kept = Arc::downgrade(&removed.ops().copy);
    let remover = {
        let (space, both) = (space.clone(), both.clone());
        move || {
            let _open = space.invalidate(1..=1, CLEAR);
            both.wait();
            drop(removed.unsubscribe());
        }
    };
    let owner = move || drop(space.invalidate(2..=2, CLEAR));
    let report = report(remover, owner);
    assert!(report.contains("the callbacks of the invalidation of 2..=2"), "{report}");
    assert!(kept.upgrade().is_none(), "the value of who is told so is not lost");
}

#[test]
fn a_panic_that_unwinds_already_is_followed_by_no_other() {
    let (space, both) = (AddressSpace::new(), Arc::new(Barrier::new(2)));
    let dropped = begins_inside(&space, &both);
    let unwinding = {
        let (space, both) = (space.clone(), both.clone());
        thread::spawn(move || {
            let _open = space.invalidate(1..=1, CLEAR);
            let _dropped = dropped;
            both.wait();
            panic!("for a reason of its own");
        })
    };
    let report = panic_of(|| drop(space.invalidate(2..=2, CLEAR))).expect("the other one cannot");
    assert!(report.contains("these wait for each other"), "{report}");
    assert!(unwinding.join().unwrap_err().downcast_ref::<&str>().is_some_and(|text| text.contains("of its own")));
}

#[test]
fn two_mirror_locks_that_are_taken_in_both_orders() {
    let (space, both_hold) = (AddressSpace::new(), Arc::new(Barrier::new(2)));
    let mirrors = Arc::new([1, 2].map(|page| space.mirror(page..=page, State).expect("not released")));
    let owner = |held: usize, changed: u64| {
        let (space, both_hold, mirrors) = (space.clone(), both_hold.clone(), mirrors.clone());
        move || {
            let _guard = mirrors[held].lock().expect("not poisoned");
            both_hold.wait();
            drop(space.invalidate(changed..=changed, CLEAR));
        }
    };
    let report = report(owner(0, 2), owner(1, 1));
    assert!(report.contains("the lock of a Mirror"), "{report}");
}

#[test]
fn waiting_for_oneself_is_an_error_and_long_waits_are_no_circle() {
    let space = AddressSpace::new();
    let sub = Arc::new(subscribe(&space, 1, || ()));
    let open = space.invalidate(1..=1, CLEAR);
    assert_eq!(sub.read_begin().unwrap_err(), BeginError::InsideInvalidation);
    let (waiter, begun) = (sub.clone(), Arc::new(OnceLock::new()));
    let thread = thread::spawn({
        let begun = begun.clone();
        move || {
            begun.set(()).expect("once");
            waiter.read_begin().map(drop)
        }
    });
    begun.wait_for();
    thread::sleep(Duration::from_millis(200)); // Ten looks.
    open.end();
    thread.join().expect("no panic").expect("it was somebody else's");
}

/// `OnceLock::wait` is newer than the compiler that the crate supports.
trait WaitFor {
    fn wait_for(&self);
}

impl WaitFor for OnceLock<()> {
    fn wait_for(&self) {
        while self.get().is_none() {
            thread::yield_now();
        }
    }
}
