//! Rare events, forced.

use super::{State, subscribe};
use interval_notifier::{AddressSpace, Attempt, EventKind, Retry, UpdateError};
use std::convert::Infallible;
use std::time::{Duration, Instant};

#[test]
fn a_retry_is_forced_where_a_build_would_be_accepted() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, State).unwrap();
    let update = || mirror.update(Retry::times(3), |attempt| Ok::<_, Infallible>(attempt.number()), |_, number| number);
    assert_eq!(update().unwrap(), 1);
    space.faults().force_retry(2);
    assert_eq!((update().unwrap(), update().unwrap()), (1, 2), "the second commit of all is refused");
    space.faults().force_retry(1);
    assert!(matches!(update(), Err(UpdateError::Exhausted { attempts: 3 })));
    space.faults().force_retry(0);
    assert_eq!((update().unwrap(), space.faults().forced_retries()), (1, 4));
}

#[test]
fn a_build_that_is_made_stale_is_so_whoever_asks() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, State).unwrap();
    let gives_up = |attempt: Attempt<'_>| match attempt.is_stale() {
        true => Err(format!("{attempt:?} is given up")),
        false => Ok(attempt.number()),
    };
    let update = || mirror.update(Retry::times(3), gives_up, |_, number| number).unwrap();
    space.faults().force_retry(2);
    assert_eq!((update(), update(), update()), (1, 2, 2));
}

#[test]
fn a_start_that_may_not_block_is_refused_and_nobody_hears_of_it() {
    let space = AddressSpace::new();
    let sub = subscribe(&space, 1, || panic!("nobody is to be called"));
    space.faults().refuse(1);
    for refusals in 0..2 {
        assert_eq!(space.faults().forced_refusals(), refusals);
        assert!(space.try_invalidate(.., EventKind::Clear).is_err());
    }
    assert!(sub.try_read_begin().is_ok(), "nothing is left open");
    space.faults().refuse(0);
    assert_eq!(space.faults().forced_refusals(), 2);
    assert!(space.try_invalidate(5..6, EventKind::Clear).is_ok());
}

#[test]
fn an_end_comes_late_and_its_readers_with_it() {
    const DELAY: Duration = Duration::from_millis(50);
    let space = AddressSpace::new();
    let sub = subscribe(&space, 1, || ());
    space.faults().delay_end(DELAY);
    let open = space.invalidate(1..=1, EventKind::Clear);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| sub.read_begin().map(|_| began.elapsed()).unwrap());
        open.end();
        assert!(reader.join().unwrap() >= DELAY);
    });
}
