//! The loop of `Mirror::update`: the kernel's `hmm_range_fault` and what every driver writes around it.

use super::toy::{CLEAR, ELSEWHERE, PAGE};
use crate::{AddressSpace, Attempt, Change, Event, EventKind, Mirror, MirrorState, Owner, Retry, UpdateError};
use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

/// What was installed, and the tickets of the invalidations that were heard.
#[derive(Default)]
struct Pages {
    installed: Vec<u64>,
    tickets: Vec<u64>,
    own: Option<Owner>,
}

impl MirrorState for Pages {
    fn invalidate(&mut self, change: &Change) {
        self.installed.clear();
        self.tickets.push(change.ticket());
    }
    fn concerns(&self, change: &Change) -> bool {
        change.event().owner().is_none_or(|owner| Some(owner) != self.own)
    }
}

impl Pages {
    fn install(&mut self, built: Vec<u64>) {
        assert!(self.installed.is_empty(), "installed twice");
        self.installed = built;
    }
}

fn one() -> (AddressSpace, Mirror<Pages>) {
    let space = AddressSpace::new();
    let mirror = space.mirror(PAGE, Pages::default()).unwrap();
    (space, mirror)
}

fn collide(space: &AddressSpace) {
    space.invalidate(PAGE, CLEAR).end();
}

fn last_ticket(mirror: &Mirror<Pages>) -> Option<u64> {
    mirror.with(|pages| pages.tickets.last().copied()).unwrap()
}

#[test]
fn b3_k_collisions_take_exactly_k_plus_1_begins() {
    for collisions in 0..6 {
        let (space, mirror) = one();
        let mut builds = 0;
        let done = mirror.update(
            Retry::times(collisions + 1),
            |attempt| {
                // Had the begin not been repeated, this attempt would be stale from the start, and so all to come.
                assert!(!attempt.is_stale());
                assert_eq!((attempt.number(), attempt.collided_with()), (builds + 1, last_ticket(&mirror)));
                builds += 1;
                let scratch = vec![builds.into()];
                if builds <= collisions {
                    collide(&space);
                    assert!(attempt.is_stale());
                }
                Ok::<_, Infallible>(scratch)
            },
            Pages::install,
        );
        assert!(done.is_ok() && builds == collisions + 1, "{done:?}");
        let built = mirror.with(|pages| pages.installed.clone()).unwrap();
        assert_eq!(built, [u64::from(builds)], "nothing is left of the attempts before");
    }
}

#[test]
fn a_stale_ticket_fails_at_once_and_for_ever() {
    let (space, mirror) = one();
    let seq = mirror.read_begin().unwrap();
    collide(&space);
    assert!(mirror.check_retry(&seq));
    collide(&space);
    assert!(mirror.check_retry(&seq), "a sequence does not come back");
    assert!(mirror.commit(seq, vec![1], Pages::install).is_err());
}

#[test]
fn an_attempt_names_what_collided_and_nothing_else() {
    let (space, own) = (AddressSpace::new(), Owner::new());
    let mirror = space.mirror(PAGE, Pages { own: Some(own), ..Pages::default() }).unwrap();
    let done = mirror.update(
        Retry::forever(),
        |attempt| {
            if attempt.number() == 1 {
                collide(&space);
                collide(&space);
                space.invalidate(ELSEWHERE, CLEAR).end();
                space.invalidate(PAGE, Event::new(EventKind::Migrate).with_owner(own)).end();
            } else {
                assert_eq!(attempt.collided_with(), last_ticket(&mirror), "the last of the two that concern it");
            }
            Ok::<_, Infallible>(Vec::new())
        },
        Pages::install,
    );
    assert!(done.is_ok());
    assert_eq!(mirror.with(|pages| pages.tickets.len()).unwrap(), 2);
}

#[test]
fn the_builders_own_error_comes_back_untouched_and_at_once() {
    let (_space, mirror) = one();
    let error = Box::new("no memory");
    let address = std::ptr::from_ref(&*error);
    let mut error = Some(error);
    let done = mirror.update(Retry::forever(), |_| Err::<Vec<u64>, _>(error.take().unwrap()), Pages::install);
    let Err(UpdateError::Build(back)) = done else { panic!("it was built for nothing") };
    assert_eq!(std::ptr::from_ref(&*back), address);
}

#[test]
fn an_error_of_a_stale_attempt_is_not_the_callers() {
    let (space, mirror) = one();
    let done = mirror.update(
        Retry::forever(),
        |attempt| match attempt.number() {
            1 => {
                collide(&space);
                Err("it was being remapped")
            }
            _ => Ok(vec![2]),
        },
        Pages::install,
    );
    assert!(done.is_ok());
}

#[test]
fn a_budget_is_used_up_and_not_exceeded() {
    for budget in 0..4 {
        let (space, mirror) = one();
        let mut builds = 0;
        let build = |_: Attempt<'_>| {
            builds += 1;
            collide(&space);
            Ok::<_, Infallible>(Vec::new())
        };
        let done = mirror.update(Retry::times(budget), build, Pages::install);
        let Err(UpdateError::Exhausted { attempts }) = done else { panic!("{done:?}") };
        assert_eq!((attempts, builds), (budget, budget));
        assert_eq!(mirror.last_collision(), last_ticket(&mirror));
    }
}

#[test]
fn after_the_deadline_no_build_begins_and_none_is_interrupted() {
    const LIMIT: Duration = Duration::from_millis(20);
    let (space, mirror) = one();
    let (before, mut last) = (Instant::now(), Instant::now());
    let build = |_: Attempt<'_>| {
        last = Instant::now();
        thread::sleep(LIMIT / 5);
        collide(&space);
        Ok::<_, Infallible>(Vec::new())
    };
    let done = mirror.update(Retry::within(LIMIT), build, Pages::install);
    let Err(UpdateError::Exhausted { attempts }) = done else { panic!("{done:?}") };
    assert!(attempts >= 1 && mirror.last_collision() == last_ticket(&mirror));
    assert!(before.elapsed() >= LIMIT, "given up too early");
    // The limit runs from a moment after `before`.
    assert!(last.duration_since(before) < LIMIT + Duration::from_millis(100), "begun too late");
}

#[test]
fn a_build_that_takes_longer_than_the_deadline_is_good_if_nothing_collides() {
    let (_space, mirror) = one();
    let build = |_: Attempt<'_>| {
        thread::sleep(Duration::from_millis(5));
        Ok::<_, Infallible>(vec![1])
    };
    assert!(mirror.update(Retry::within(Duration::from_millis(1)), build, Pages::install).is_ok());
}

#[test]
fn a_first_build_is_made_however_little_time_there_is() {
    let (_space, mirror) = one();
    assert!(mirror.update(Retry::within(Duration::ZERO), |_| Ok::<_, Infallible>(vec![1]), Pages::install).is_ok());
}

#[test]
fn a_begin_that_waits_gives_up_at_the_deadline() {
    let (space, mirror) = one();
    let open = space.invalidate(PAGE, CLEAR).into_owned();
    let never = |_: Attempt<'_>| -> Result<Vec<u64>, Infallible> { panic!("nothing can begin") };
    let done = mirror.update(Retry::times(3).and_within(Duration::from_millis(10)), never, Pages::install);
    let Err(UpdateError::Exhausted { attempts: 0 }) = done else { panic!("{done:?}") };
    open.end();
    assert!(mirror.update(Retry::times(1), |_| Ok::<_, Infallible>(vec![1]), Pages::install).is_ok());
}

#[test]
fn of_a_budget_and_a_deadline_the_first_one_counts() {
    let hour = Duration::from_secs(3600);
    let attempts = |policy: Retry| {
        let (space, mirror) = one();
        let build = |_: Attempt<'_>| {
            thread::sleep(Duration::from_millis(2));
            collide(&space);
            Ok::<_, Infallible>(Vec::new())
        };
        match mirror.update(policy, build, Pages::install) {
            Err(UpdateError::Exhausted { attempts, .. }) => attempts,
            done => panic!("{done:?}"),
        }
    };
    assert_eq!(attempts(Retry::times(3).and_within(hour)), 3);
    assert_eq!(attempts(Retry::times(1_000_000).and_within(Duration::from_millis(1))), 1);
}
