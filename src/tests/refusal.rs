//! P6 and P7: a start that is refused, or unwinds, leaves nothing behind on any side.

use super::toy::{CLEAR, PAGE, Sub, Toy, Word, change, one};
use super::{explore, spawn, thread};
use crate::seq::{Closed, Sequence};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, AddressSpace, BeginError, Call, EventKind, Invalidate, WouldBlock};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A toy that cannot follow a non-blocking invalidation.
fn refusing() -> Arc<Toy> {
    Toy::meeting(|call| if call.is_blockable() { Ok(()) } else { Err(call.would_block()) })
}

/// A toy whose callback panics. Not by `panic!`, which would print something each of many thousand times.
fn panicking() -> Arc<Toy> {
    Toy::meeting(|_| resume_unwind(Box::new("a callback panics")))
}

/// Starts and ends an invalidation of [`PAGE`]; did it unwind?
fn unwinds(space: &AddressSpace) -> bool {
    unwinds_at(space, CLEAR)
}

fn unwinds_at(space: &AddressSpace, kind: EventKind) -> bool {
    catch_unwind(AssertUnwindSafe(|| space.invalidate(PAGE, kind).end())).is_err()
}

#[test]
#[cfg_attr(loom, ignore = "about interleavings of three threads; too many states for loom")]
fn a_refusal_in_the_middle_of_a_batch_ends_it_for_everyone() {
    explore(&["refused", "not refused"], |seen| {
        let space = AddressSpace::new();
        let first = Sub::new(&space, PAGE, &Toy::new());
        let middle = Sub::new(&space, PAGE, &refusing()).unshared();
        let last = Sub::new(&space, PAGE, &Toy::new());
        let owner = spawn!([space] space.try_invalidate(PAGE, CLEAR).is_err());
        let remover = thread::spawn(move || middle.unsubscribe().unwrap().calls());
        drop(first.read_begin().unwrap()); // It may wait for the refused one, never for ever.
        let asked = remover.join().unwrap() == 1;
        let refused = owner.join().unwrap();
        assert_eq!(refused, asked, "refused by nobody, or a refusal was overheard");
        assert_eq!(last.ops().calls(), u64::from(!refused), "those after the refusal are not told");
        assert!(first.try_read_begin().is_ok() && last.try_read_begin().is_ok(), "something was left open");
        seen.note(if refused { "refused" } else { "not refused" });
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch, and no memory is at stake")]
fn a_refused_start_disturbs_a_build_and_no_more() {
    // The owner that is refused does what it wants later, in a start that may block.
    explore(&["before", "between", "after", "thrown away"], |seen| {
        let (space, sub, word) = one();
        let _refusing = Sub::new(&space, PAGE, &refusing());
        let builder = spawn!([sub, word](sub.build(|| word.get()), sub.ops().calls()));
        assert!(space.try_invalidate(PAGE, CLEAR).is_err());
        change(&space, &word, 20);
        let (built, calls) = builder.join().unwrap();
        sub.assert_fresh(word.get());
        assert_eq!(sub.ops().calls(), 2, "told of both: it comes before the one that refuses");
        seen.note(match (built, calls) {
            (None, _) => "thrown away",
            (Some(10), 0) => "before",
            (Some(10), _) => "between",
            (Some(_), _) => "after",
        });
    });
}

/// A mirror that refuses when its lock is held, and only then.
struct Shy(Mutex<Option<u64>>);

impl Invalidate for Shy {
    type Locked = Option<u64>;

    fn invalidate(&self, call: &Call<'_, Option<u64>>) -> Result<Ack, WouldBlock> {
        let Ok(mut copy) = self.0.try_lock() else { return Err(call.would_block()) };
        let ack = call.set_seq(&mut copy);
        *copy = None;
        Ok(ack)
    }
}

#[test]
fn an_owner_that_may_not_block_is_never_blocked_by_a_reader() {
    explore(&["refused, accepted", "followed, accepted", "followed, thrown away"], |seen| {
        let (space, word) = (AddressSpace::new(), Word::new(10));
        let sub = Arc::new(space.subscribe(PAGE, Shy(Mutex::new(None))).unwrap());
        let owner = spawn!([space, word] match space.try_invalidate(PAGE, CLEAR) {
            Ok(open) => {
                word.set(20);
                open.end();
                "followed"
            }
            Err(WouldBlock { .. }) => "refused",
        });
        let seq = sub.read_begin().unwrap();
        let value = word.get();
        let mut copy = lock(&sub.ops().0);
        thread::yield_now(); // Without it loom never tries the lock while it is held.
        let accepted = !sub.read_retry(seq, &copy);
        if accepted {
            *copy = Some(value);
        }
        drop(copy);
        let owner = owner.join().unwrap();
        let copy = *lock(&sub.ops().0);
        assert!(copy.is_none() || copy == Some(word.get()), "the mirror holds a stale copy");
        match (owner, accepted) {
            ("refused", true) => seen.note("refused, accepted"),
            ("followed", true) => seen.note("followed, accepted"),
            ("followed", false) => seen.note("followed, thrown away"),
            // The lock is held by a build that a collision had overtaken; but there was only one invalidation.
            _ => panic!("refused, and yet there was a collision"),
        }
    });
}

#[test]
fn a_panic_in_the_middle_of_a_batch_ends_it_for_everyone() {
    explore(&["before", "after", "thrown away"], |seen| {
        let (space, first, word) = one();
        let middle = Sub::new(&space, PAGE, &panicking());
        let last = Sub::new(&space, PAGE, &Toy::new());
        let owner = spawn!([space] unwinds(&space));
        let built = first.build(|| word.get());
        let calls = first.ops().calls();
        assert!(owner.join().unwrap(), "the panic reaches whoever started");
        assert!(first.try_read_begin().is_ok() && last.try_read_begin().is_ok(), "something was left open");
        assert_eq!(middle.try_read_begin().unwrap_err(), BeginError::Poisoned);
        assert_eq!(last.ops().calls(), 0, "those after the panic are not told");
        assert!(!unwinds(&space), "a poisoned subscription is not called again");
        assert_eq!((middle.ops().calls(), last.ops().calls()), (1, 1));
        assert_eq!(middle.unshared().unsubscribe().unwrap().calls(), 1);
        seen.note(match (built, calls) {
            (None, _) => "thrown away",
            (_, 0) => "before",
            (_, _) => "after",
        });
    });
}

#[test]
fn a_poisoned_subscription_accepts_no_build() {
    explore(&["poisoned", "accepted", "thrown away"], |seen| {
        let (space, word) = (AddressSpace::new(), Word::new(10));
        let sub = Sub::new(&space, PAGE, &panicking());
        let reader = spawn!([sub, word] sub.read_begin().map(|seq| sub.commit(seq, word.get())));
        assert!(unwinds(&space));
        // From here on nothing invalidates the mirror any more, so nothing may get into it.
        let before = sub.ops().copy();
        let built = reader.join().unwrap();
        assert_eq!(sub.ops().copy(), before, "installed after the mirror had gone deaf");
        assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Poisoned);
        seen.note(match built {
            Err(error) => {
                assert_eq!(error, BeginError::Poisoned);
                "poisoned"
            }
            Ok(Some(_)) => "accepted",
            Ok(None) => "thrown away",
        });
    });
}

/// A toy whose callback writes the word and panics if something is unmapped, and does nothing otherwise.
fn panicking_after(word: &Word) -> Arc<Toy> {
    let word = word.clone();
    Toy::meeting(move |call| match call.event().kind() {
        EventKind::Unmap => {
            word.set(20);
            resume_unwind(Box::new("a callback panics"))
        }
        _ => Ok(()),
    })
}

fn unmap(space: &AddressSpace) {
    assert!(unwinds_at(space, EventKind::Unmap));
}

#[test]
fn what_a_callback_did_before_it_panicked_is_visible_to_a_reader_who_hears_of_it() {
    explore(&["poisoned", "not yet"], |seen| {
        let (space, word) = (AddressSpace::new(), Word::new(10));
        let sub = Sub::new(&space, PAGE, &panicking_after(&word));
        space.invalidate(PAGE, CLEAR).end(); // Nothing is settled: nothing but the flag can tell the reader.
        let reader = spawn!([sub, word](sub.try_read_begin().err(), word.get()));
        unmap(&space);
        seen.note(match reader.join().unwrap() {
            (Some(BeginError::Poisoned), value) => {
                assert_eq!(value, 20, "poisoned, but by what is not visible");
                "poisoned"
            }
            _ => "not yet",
        });
    });
}

#[test]
fn what_was_done_before_readers_are_turned_away_is_visible_to_those_who_are() {
    // Of the sequence alone: an install that panics, or a release, silences nobody before it turns readers away.
    explore(&["turned away", "not yet"], |seen| {
        let (sequence, word) = (Arc::new(Sequence::new()), Word::new(10));
        let reader = spawn!([sequence, word](sequence.open().is_err(), word.get()));
        word.set(20);
        sequence.close(Closed::Poisoned);
        let (turned_away, value) = reader.join().unwrap();
        assert!(!turned_away || value == 20, "turned away by what is not visible");
        seen.note(if turned_away { "turned away" } else { "not yet" });
    });
}

#[test]
fn what_a_callback_did_before_it_panicked_is_visible_to_an_owner_who_does_not_call_it() {
    explore(&["called", "not called"], |seen| {
        let (space, word) = (AddressSpace::new(), Word::new(10));
        let sub = Sub::new(&space, PAGE, &panicking_after(&word));
        let other = spawn!([space] unmap(&space));
        let tickets = sub.last_collision();
        let open = space.invalidate(PAGE, CLEAR);
        let called = sub.last_collision() != tickets;
        assert!(called || word.get() == 20, "not called, and what its last callback did is not visible");
        open.end();
        other.join().unwrap();
        seen.note(if called { "called" } else { "not called" });
    });
}

#[test]
fn a_subscription_that_is_poisoned_at_birth_says_so() {
    // The callback may panic before `subscribe` has looked whether anything is active: by then nothing is.
    explore(&["poisoned", "not heard"], |seen| {
        let (space, toy) = (AddressSpace::new(), panicking());
        let owner = spawn!([space] unwinds(&space));
        let sub = Sub::new(&space, PAGE, &toy);
        let unwound = owner.join().unwrap();
        assert_eq!(sub.try_read_begin().err(), unwound.then_some(BeginError::Poisoned));
        seen.note(if unwound { "poisoned" } else { "not heard" });
    });
}
