//! What one thread can show, and above all P7: waiting for oneself is an error that names the rule, never a hang.

use super::toy::{CLEAR, ELSEWHERE, PAGE, Sub, Toy, one};
use crate::slots::BATCH;
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, BeginError, Span};
use std::time::Duration;

#[test]
fn a_begin_inside_ones_own_invalidation_is_an_error() {
    let (space, sub, _) = one();
    let open = space.invalidate(PAGE, CLEAR);
    assert_eq!(sub.read_begin().unwrap_err(), BeginError::InsideInvalidation);
    assert_eq!(sub.read_begin_timeout(Duration::from_secs(60)).unwrap_err(), BeginError::InsideInvalidation);
    assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Active, "it never waits, so it is no misuse");
    open.end();
    assert!(sub.read_begin().is_ok());
}

#[test]
fn a_begin_inside_ones_own_invalidation_of_something_else_is_legal() {
    let (space, sub, _) = one();
    let open = space.invalidate(ELSEWHERE, CLEAR);
    assert!(sub.read_begin().is_ok());
    open.end();
}

#[test]
fn an_owned_invalidation_is_waited_for_on_its_own_thread_too() {
    let (space, sub, _) = one();
    let open = space.invalidate(PAGE, CLEAR).into_owned();
    assert_eq!(sub.read_begin_timeout(Duration::from_millis(1)).unwrap_err(), BeginError::Active);
    open.end();
    assert!(sub.read_begin().is_ok());
}

#[test]
fn ones_own_invalidation_is_found_behind_somebody_elses() {
    // `by` is the owned one, which may be waited for; ours is in `also`. If two threads waited so for each other's, both
    // would hang.
    let (space, sub, _) = one();
    let own = space.invalidate(PAGE, CLEAR);
    let other = space.invalidate(PAGE, CLEAR).into_owned();
    assert_eq!(sub.read_begin_timeout(Duration::from_secs(60)).unwrap_err(), BeginError::InsideInvalidation);
    own.end();
    assert_eq!(sub.read_begin_timeout(Duration::from_millis(1)).unwrap_err(), BeginError::Active);
    other.end();
    assert!(sub.read_begin().is_ok());
}

#[test]
fn a_begin_inside_ones_own_callback_is_an_error() {
    let space = AddressSpace::new();
    let own: Arc<Mutex<Option<Arc<Sub>>>> = Arc::default();
    let found: Arc<Mutex<Option<BeginError>>> = Arc::default();
    let toy = Toy::meeting({
        let (own, found) = (own.clone(), found.clone());
        move |_| {
            let sub = lock(&own).clone().expect("put there below");
            *lock(&found) = sub.read_begin().err();
            Ok(())
        }
    });
    *lock(&own) = Some(Sub::new(&space, PAGE, &toy));
    let first = space.invalidate(PAGE, CLEAR).into_owned();
    assert_eq!(*lock(&found), None, "there was nothing to wait for");
    space.invalidate(PAGE, CLEAR).end();
    assert_eq!(*lock(&found), Some(BeginError::InsideCallback));
    first.end();
    lock(&own).take();
}

#[test]
fn a_leaked_invalidation_is_waited_for_until_the_time_is_up() {
    let (space, sub, _) = one();
    std::mem::forget(space.invalidate(PAGE, CLEAR));
    let begin = std::thread::spawn(move || sub.read_begin_timeout(Duration::from_millis(1)).unwrap_err());
    assert_eq!(begin.join().unwrap(), BeginError::Active);
}

#[test]
fn a_birth_waits_for_all_that_are_open_and_overlap() {
    let (space, toy) = (AddressSpace::new(), Toy::new());
    let first = space.invalidate(PAGE, CLEAR);
    let elsewhere = space.invalidate(ELSEWHERE, CLEAR);
    let second = space.invalidate(.., CLEAR);
    let sub = Sub::new(&space, PAGE, &toy);
    let active = || assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Active);
    active();
    first.end();
    active();
    second.end();
    assert!(sub.try_read_begin().is_ok(), "the one elsewhere is not waited for");
    elsewhere.end();
    assert_eq!(toy.calls(), 0, "all had started before");
}

#[test]
fn what_has_ended_is_nothing_to_be_born_into() {
    let space = AddressSpace::new();
    space.invalidate(PAGE, CLEAR).end();
    let page = Span::new(PAGE).expect("not empty");
    assert!(space.shared.registry.slots.active_over(page).is_empty(), "its range is still in its slot");
}

/// A toy whose callback subscribes one more of its kind, further up, and keeps it in `grown`.
fn growing(space: &AddressSpace, grown: &Arc<Mutex<Vec<Arc<Sub>>>>) -> Arc<Toy> {
    // Weak: the list holds the subscriptions, and a value must not own its own subscription.
    let (space, grown) = (space.clone(), Arc::downgrade(grown));
    Toy::meeting(move |call| {
        let grown = grown.upgrade().expect("the list outlives the invalidation");
        let sub = Sub::new(&space, call.overlap().first() + 1.., &growing(&space, &grown));
        lock(&grown).push(sub);
        assert!(lock(&grown).len() <= BATCH, "the search follows what its callbacks subscribe");
        Ok(())
    })
}

#[test]
fn a_search_is_not_kept_going_by_its_own_callbacks() {
    // A whole batch, so that there is a second search; and all that it could find came after the start.
    let space = AddressSpace::new();
    let grown: Arc<Mutex<Vec<Arc<Sub>>>> = Arc::default();
    let first: Vec<_> = (0..BATCH).map(|_| Sub::new(&space, PAGE, &growing(&space, &grown))).collect();
    let open = space.invalidate(PAGE.start.., CLEAR);
    let newcomers = std::mem::take(&mut *lock(&grown));
    assert!(first.iter().all(|sub| sub.ops().calls() == 1));
    assert_eq!(newcomers.len(), BATCH, "only what was there at the start is called");
    assert!(newcomers.iter().all(|sub| sub.try_read_begin().unwrap_err() == BeginError::Active));
    open.end();
    assert!(newcomers.iter().all(|sub| sub.read_begin().is_ok()));
}

#[test]
fn a_neighbour_that_an_earlier_callback_dropped_is_not_called() {
    // Both are in one batch: it is too late to leave the second one out, so its mark is looked at again.
    let space = AddressSpace::new();
    let neighbour: Arc<Mutex<Option<Arc<Sub>>>> = Arc::default();
    let first = Toy::meeting({
        let neighbour = neighbour.clone();
        move |_| {
            let dropped = lock(&neighbour).take();
            drop(dropped);
            Ok(())
        }
    });
    let _first = Sub::new(&space, PAGE, &first);
    let second = Toy::new();
    *lock(&neighbour) = Some(Sub::new(&space, PAGE, &second));
    space.invalidate(PAGE, CLEAR).end();
    assert_eq!((first.calls(), second.calls()), (1, 0), "called after it had been dropped");
}
