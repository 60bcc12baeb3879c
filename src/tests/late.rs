//! What happens to values whose drop was put off, and to mirrors that were left half-changed: one thread or two, no
//! choice of schedules.

use super::toy::{CLEAR, PAGE};
use crate::{Ack, AddressSpace, Call, Change, Invalidate, Mirror, MirrorState, Retry, Subscription, WouldBlock};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Counts its callbacks and runs `at_the_end` when it is dropped.
struct Value {
    calls: Arc<AtomicUsize>,
    at_the_end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Value {
    fn new(calls: &Arc<AtomicUsize>, at_the_end: impl FnOnce() + Send + Sync + 'static) -> Self {
        Value { calls: calls.clone(), at_the_end: Some(Box::new(at_the_end)) }
    }
}

impl Invalidate for Value {
    type Locked = ();
    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        self.calls.fetch_add(1, SeqCst);
        Ok(call.unaffected())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.at_the_end.take().expect("it is dropped once")();
    }
}

/// A state that counts its callbacks, and panics in them while it is told to.
#[derive(Default)]
struct State {
    half_changed: bool,
    calls: usize,
    panics: bool,
}

impl MirrorState for State {
    fn invalidate(&mut self, _: &Change) {
        self.calls += 1;
        self.half_changed = true;
        if self.panics {
            thread::sleep(Duration::from_millis(5));
            panic!("planned");
        }
        self.half_changed = false;
    }
}

fn count() -> Arc<AtomicUsize> {
    Arc::default()
}

fn count_one(counter: &AtomicUsize) {
    counter.fetch_add(1, SeqCst);
}

/// Drops `subscription` where that has to be put off. What is returned ends with a sweep, so it is to be kept.
fn put_off<T: Invalidate>(space: &AddressSpace, subscription: Subscription<T>) -> Mirror<State> {
    let mirror = space.mirror(0..1, State::default()).unwrap();
    let guard = mirror.lock().unwrap();
    drop(subscription);
    drop(guard);
    mirror
}

/// A value whose drop was put off, and how often it has been dropped.
fn put_one_off(space: &AddressSpace) -> (Mirror<State>, Arc<AtomicUsize>) {
    let dropped = count();
    let note = dropped.clone();
    let value = Value::new(&count(), move || count_one(&note));
    (put_off(space, space.subscribe(PAGE, value).unwrap()), dropped)
}

#[test]
fn a_value_that_is_dropped_late_waits_for_no_callback() {
    // It owns another subscription. Whoever sweeps has asked for nothing of the kind and may hold any lock.
    let (space, refused) = (AddressSpace::new(), count());
    let owned = space.subscribe(PAGE, Value::new(&count(), || ())).unwrap();
    let note = refused.clone();
    let unsubscribe = move || drop(owned.unsubscribe().map_err(|_| count_one(&note)));
    let owner = space.subscribe(PAGE, Value::new(&count(), unsubscribe)).unwrap();
    let _kept = put_off(&space, owner);
    drop(space.subscribe(0..1, Value::new(&count(), || ())).unwrap());
    assert_eq!(refused.load(SeqCst), 1, "it was to be dropped now, and as if inside a callback");
}

#[test]
fn a_late_drop_waits_for_a_start_that_may_block() {
    let space = AddressSpace::new();
    let (_kept, dropped) = put_one_off(&space);
    space.try_invalidate(PAGE, CLEAR).unwrap().end();
    assert_eq!(dropped.load(SeqCst), 0, "whoever may not block may not run it either");
    space.invalidate(PAGE, CLEAR).end();
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_late_drop_waits_for_the_end_of_a_panic() {
    // One that panics in its turn would abort the process.
    struct Unwinding<'a>(&'a AddressSpace);
    impl Drop for Unwinding<'_> {
        fn drop(&mut self) {
            self.0.invalidate(PAGE, CLEAR).end();
        }
    }
    let space = AddressSpace::new();
    let (_kept, dropped) = put_one_off(&space);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _unwinding = Unwinding(&space);
        panic!("planned");
    }));
    assert!(unwound.is_err());
    assert_eq!(dropped.load(SeqCst), 0, "it is not the time");
    space.invalidate(PAGE, CLEAR).end();
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_late_drop_that_panics_costs_a_subscriber_nothing() {
    let (space, calls, dropped) = (AddressSpace::new(), count(), count());
    let _kept = put_off(&space, space.subscribe(PAGE, Value::new(&count(), || panic!("planned"))).unwrap());
    let note = dropped.clone();
    let mine = Value::new(&calls, move || count_one(&note));
    assert!(catch_unwind(AssertUnwindSafe(|| space.subscribe(PAGE, mine).map(drop))).is_err());
    assert_eq!(dropped.load(SeqCst), 1, "the new value is not lost");
    space.invalidate(PAGE, CLEAR).end();
    assert_eq!(calls.load(SeqCst), 0, "and its subscription has ended");
}

#[test]
fn a_late_drop_that_panics_does_not_cost_a_remover_its_value() {
    let (space, dropped) = (AddressSpace::new(), count());
    let note = dropped.clone();
    let mine = space.subscribe(PAGE, Value::new(&count(), move || count_one(&note))).unwrap();
    let _kept = put_off(&space, space.subscribe(PAGE, Value::new(&count(), || panic!("planned"))).unwrap());
    assert!(catch_unwind(AssertUnwindSafe(|| mine.unsubscribe().map(drop))).is_err());
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_mirror_that_an_install_poisoned_is_still_called_back() {
    // Otherwise what it holds would stay there, stale, and nobody would be told.
    let space = AddressSpace::new();
    let mirror = space.mirror(PAGE, State::default()).unwrap();
    let install = |_: &mut State, ()| panic!("planned");
    let update = || mirror.update(Retry::forever(), |_| Ok::<_, Infallible>(()), install);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(update()))).is_err());
    assert!(mirror.with(|_| ()).is_err() && mirror.read_begin().is_err());
    space.invalidate(PAGE, CLEAR).end();
    assert_eq!(mirror.unsubscribe().unwrap().calls, 1);
}

#[test]
fn a_mirror_whose_callback_panicked_is_not_called_again() {
    let space = AddressSpace::new();
    let mirror = space.mirror(PAGE, State { panics: true, ..State::default() }).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| space.invalidate(PAGE, CLEAR).end())).is_err());
    space.invalidate(PAGE, CLEAR).end(); // would panic again
    assert_eq!(mirror.unsubscribe().unwrap().calls, 1);
}

#[test]
fn nobody_sees_what_a_callback_left_half_changed() {
    // Readers wait for the lock while the callback has it. The poison must be there before they get it.
    for _ in 0..20 {
        let space = AddressSpace::new();
        let mirror = space.mirror(PAGE, State { panics: true, ..State::default() }).unwrap();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while let Ok(half_changed) = mirror.with(|state| state.half_changed) {
                    assert!(!half_changed);
                }
            });
            assert!(catch_unwind(AssertUnwindSafe(|| space.invalidate(PAGE, CLEAR).end())).is_err());
            reader.join().unwrap();
        });
    }
}
