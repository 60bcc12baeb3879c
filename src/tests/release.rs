//! The end of a space: every subscriber hears of it exactly once, and no one begins afterwards.

use super::toy::{PAGE, Toy, one};
use super::{explore, spawn};
use crate::{AddressSpace, BeginError, EventKind, SubscribeErrorKind};

#[test]
fn a_subscription_during_a_release_hears_of_it_once_or_is_refused() {
    explore(&["refused", "heard"], |seen| {
        let (space, toy) = (AddressSpace::new(), Toy::new());
        let owner = spawn!([space] space.release());
        match space.subscribe(PAGE, toy.clone()) {
            Ok(sub) => {
                owner.join().unwrap();
                assert_eq!(toy.calls(), 1, "the release is heard exactly once");
                assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Released);
                seen.note("heard");
            }
            Err(error) => {
                owner.join().unwrap();
                assert_eq!((error.kind, error.ops.calls()), (SubscribeErrorKind::Released, 0));
                seen.note("refused");
            }
        }
    });
}

#[test]
fn two_releases_are_heard_once() {
    explore(&[], |_| {
        let (space, sub, _) = one();
        let other = spawn!([space] space.release());
        space.release();
        other.join().unwrap();
        assert_eq!(sub.ops().calls(), 1);
    });
}

#[test]
fn no_build_is_accepted_once_the_release_has_returned() {
    explore(&["accepted", "thrown away", "released"], |seen| {
        let (space, sub, word) = one();
        let builder = spawn!([sub, word] sub.read_begin().map(|seq| sub.commit(seq, word.get())));
        space.release();
        assert_eq!(sub.ops().copy(), None, "mapped after the release");
        let built = builder.join().unwrap();
        assert_eq!(sub.ops().copy(), None, "mapped after the release");
        assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Released);
        seen.note(match built {
            Ok(Some(_)) => "accepted",
            Ok(None) => "thrown away",
            Err(error) => {
                assert_eq!(error, BeginError::Released);
                "released"
            }
        });
    });
}

#[test]
fn a_release_that_a_mirror_ignores_still_turns_readers_away() {
    // Its callback answers `unaffected`, so `seq` keeps its birth value, and `subscribe` may still be about to say that
    // nothing was active at birth.
    explore(&["refused", "heard"], |seen| {
        let space = AddressSpace::new();
        let owner = spawn!([space] space.release());
        let subscribed = space.subscribe(PAGE, Ignoring);
        owner.join().unwrap();
        match subscribed {
            Ok(sub) => {
                assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Released);
                seen.note("heard");
            }
            Err(_) => seen.note("refused"),
        }
    });
}

/// Nothing affects it.
struct Ignoring;

impl crate::Invalidate for Ignoring {
    type Locked = ();

    fn invalidate(&self, call: &crate::Call<'_, ()>) -> Result<crate::Ack, crate::WouldBlock> {
        assert_eq!(call.event().kind(), EventKind::Release);
        Ok(call.unaffected())
    }
}
