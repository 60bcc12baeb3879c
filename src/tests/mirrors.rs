//! The high level: a [`Mirror`] keeps the promises without its user's help.

use super::toy::{CLEAR, PAGE, Word};
use super::{explore, spawn};
use crate::sync::Arc;
use crate::{AddressSpace, Attempt, Change, Collision, Mirror, MirrorState, Retry, UpdateError, WouldBlock};
use std::convert::Infallible;

/// A copied value, and how often it was dropped.
#[derive(Default)]
struct State {
    copy: Option<u64>,
    calls: u64,
}

impl MirrorState for State {
    fn invalidate(&mut self, _: &Change) {
        self.copy = None;
        self.calls += 1;
    }
}

/// A space, a mirror of [`PAGE`] in it, and a word.
fn one() -> (AddressSpace, Arc<Mirror<State>>, Word) {
    let space = AddressSpace::new();
    let mirror = Arc::new(space.mirror(PAGE, State::default()).expect("the space is not released"));
    (space, mirror, Word::new(10))
}

fn change(space: &AddressSpace, mirror: &Mirror<State>, word: &Word) {
    let open = space.invalidate(PAGE, CLEAR);
    word.set(21);
    assert_eq!(mirror.with(|state| state.copy).unwrap(), None, "mapped inside an invalidation");
    word.set(20);
    open.end();
}

fn assert_fresh(mirror: &Mirror<State>, word: &Word) {
    let copy = mirror.with(|state| state.copy).unwrap();
    assert!(copy.is_none() || copy == Some(word.get()), "the mirror holds a stale copy");
}

#[test]
fn an_update_installs_nothing_stale() {
    explore(&["first attempt", "second attempt"], |seen| {
        let (space, mirror, word) = one();
        let owner = spawn!([space, mirror, word] change(&space, &mirror, &word));
        let mut attempts = 0;
        let build = |_: Attempt<'_>| {
            attempts += 1;
            Ok::<_, Infallible>(word.get())
        };
        mirror.update(Retry::forever(), build, |state, value| state.copy = Some(value)).unwrap();
        owner.join().unwrap();
        assert_fresh(&mirror, &word);
        seen.note(["first attempt", "second attempt"][attempts - 1]);
    });
}

#[test]
fn an_update_gives_up_after_its_attempts_and_not_before() {
    explore(&["done", "exhausted"], |seen| {
        let (space, mirror, word) = one();
        let owner = spawn!([space, mirror, word] change(&space, &mirror, &word));
        let build = |_: Attempt<'_>| Ok::<_, Infallible>(word.get());
        let done = mirror.update(Retry::times(1), build, |state, value| state.copy = Some(value));
        owner.join().unwrap();
        assert_fresh(&mirror, &word);
        seen.note(match done {
            Ok(()) => "done",
            Err(UpdateError::Exhausted { attempts: 1, .. }) => "exhausted",
            Err(error) => panic!("{error}"),
        });
    });
}

#[test]
fn a_commit_that_collided_gives_back_what_was_built() {
    explore(&["committed", "given back"], |seen| {
        let (space, mirror, word) = one();
        let owner = spawn!([space, mirror, word] change(&space, &mirror, &word));
        let seq = mirror.read_begin().unwrap();
        let built = Box::new(word.get());
        let committed = mirror.commit(seq, built, |state, value| state.copy = Some(*value));
        owner.join().unwrap();
        assert_fresh(&mirror, &word);
        seen.note(match committed {
            Ok(()) => "committed",
            Err(Collision(value)) => {
                assert!(*value == 10 || *value == 20 || *value == 21);
                "given back"
            }
        });
    });
}

#[test]
fn a_held_mirror_lock_refuses_an_owner_that_may_not_block() {
    explore(&["refused", "followed"], |seen| {
        let (space, mirror, word) = one();
        let owner = spawn!([space, word] match space.try_invalidate(PAGE, CLEAR) {
            Ok(open) => {
                word.set(20);
                open.end();
                true
            }
            Err(WouldBlock { .. }) => false,
        });
        let before = mirror.with(|state| state.calls).unwrap();
        let followed = owner.join().unwrap();
        assert_eq!(mirror.with(|state| state.calls).unwrap(), u64::from(followed));
        assert!(before <= u64::from(followed));
        assert!(mirror.try_read_begin().is_ok(), "something was left open");
        seen.note(if followed { "followed" } else { "refused" });
    });
}

#[test]
fn a_mirror_gives_its_state_back_after_the_last_callback() {
    explore(&["called", "not called"], |seen| {
        let (space, mirror, _) = one();
        let mirror = Arc::into_inner(mirror).expect("shared with nobody");
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        let state = mirror.unsubscribe().unwrap_or_else(|_| panic!("no lock is held"));
        owner.join().unwrap();
        seen.note(["not called", "called"][usize::try_from(state.calls).unwrap()]);
    });
}
