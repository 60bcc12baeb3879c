//! P1 with several overlapping invalidations open at once: what `also` has to remember.

use super::toy::{CLEAR, PAGE, Sub, Word, change_heard, one, together};
use super::{explore, spawn};
use crate::sync::{Mutex, lock};
use crate::{Ack, AddressSpace, Call, EventKind, Invalidate, Invalidation, OwnedInvalidation, WouldBlock};

/// A space, a subscription, and `N` words for that many invalidations.
fn with_words<const N: usize>() -> (AddressSpace, std::sync::Arc<Sub>, [Word; N]) {
    let (space, sub, _) = one();
    (space, sub, std::array::from_fn(|k| Word::new(10 + 20 * k as u64)))
}

/// Starts one invalidation inside the other, one for each word, then changes the words and ends them, last one first.
fn nest(space: &AddressSpace, words: &[Word]) {
    let mut open: Vec<Invalidation<'_>> = words.iter().map(|_| space.invalidate(PAGE, CLEAR)).collect();
    for word in words.iter().rev() {
        word.set(word.get() + 2);
        open.pop();
    }
}

/// What happened to a build of the words that `old` and nothing else held before.
fn outcome(built: Option<u64>, old: u64) -> &'static str {
    match built {
        None => "thrown away",
        Some(value) if value == old => "before",
        Some(_) => "after",
    }
}

const OUTCOMES: [&str; 3] = ["before", "after", "thrown away"];

#[test]
#[cfg_attr(loom, ignore = "three threads, two of them with a search: too many states")]
fn two_overlapping_invalidations_are_both_waited_for() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, words) = with_words::<2>();
        let old = together(&words);
        let other = spawn!([space, sub, words] change_heard(&space, sub.ops(), &words[0], 100));
        let builder = spawn!([sub, words] sub.build(|| together(&words)));
        change_heard(&space, sub.ops(), &words[1], 100);
        let built = builder.join().unwrap();
        other.join().unwrap();
        sub.assert_fresh(together(&words));
        seen.note(outcome(built, old));
    });
}

#[test]
fn an_outer_invalidation_is_waited_for_after_the_inner_one_ended() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, words) = with_words::<2>();
        let old = together(&words);
        let builder = spawn!([sub, words] sub.build(|| together(&words)));
        nest(&space, &words);
        let built = builder.join().unwrap();
        sub.assert_fresh(together(&words));
        seen.note(outcome(built, old));
    });
}

#[test]
#[cfg_attr(loom, ignore = "loom does not see the order that `OnceLock` gives to new cells")]
fn three_nested_invalidations_are_all_waited_for() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, words) = with_words::<3>();
        let old = together(&words);
        let builder = spawn!([sub, words] sub.build(|| together(&words)));
        nest(&space, &words);
        let built = builder.join().unwrap();
        sub.assert_fresh(together(&words));
        seen.note(outcome(built, old));
    });
}

#[test]
#[cfg_attr(loom, ignore = "loom does not see the order that `OnceLock` gives to new cells")]
fn more_at_once_than_a_subscription_has_cells_are_all_waited_for() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, words) = with_words::<6>();
        let old = together(&words);
        let builder = spawn!([sub, words] sub.build(|| together(&words)));
        nest(&space, &words);
        let built = builder.join().unwrap();
        sub.assert_fresh(together(&words));
        seen.note(outcome(built, old));
    });
}

#[test]
#[cfg_attr(loom, ignore = "four threads are too many for loom; the two-thread forms show the orderings")]
fn three_invalidations_at_once_are_all_waited_for() {
    explore(&OUTCOMES, |seen| {
        let (space, sub, words) = with_words::<3>();
        let old = together(&words);
        let owners = words.clone().map(|word| spawn!([space, sub] change_heard(&space, sub.ops(), &word, 100)));
        let built = sub.build(|| together(&words));
        owners.into_iter().for_each(|owner| owner.join().unwrap());
        sub.assert_fresh(together(&words));
        seen.note(outcome(built, old));
    });
}

#[test]
fn ended_ones_make_room_and_are_not_missed() {
    // At least one is active from the first to the last, and never more than two: no cell is added, and a begin that
    // finds the last ones alone must still see what the others changed.
    explore(&OUTCOMES, |seen| {
        let (space, sub, words) = with_words::<2>();
        let old = together(&words);
        let builder = spawn!([sub, words] sub.build(|| together(&words)));
        let mut open = space.invalidate(PAGE, CLEAR);
        for word in &words {
            let next = space.invalidate(PAGE, CLEAR);
            word.set(word.get() + 2);
            open = next;
        }
        open.end();
        let built = builder.join().unwrap();
        sub.assert_fresh(together(&words));
        seen.note(outcome(built, old));
    });
}

/// A mirror whose callback for an unmapping sets the sequence twice. Between the two, under no lock, one invalidation comes
/// and goes, and one comes and stays.
struct Twice {
    space: AddressSpace,
    copy: Mutex<Option<u64>>,
    stays: Mutex<Option<OwnedInvalidation>>,
}

impl Twice {
    fn set(&self, call: &Call<'_, Option<u64>>) -> Ack {
        let mut copy = lock(&self.copy);
        *copy = None;
        call.set_seq(&mut copy)
    }
}

impl Invalidate for Twice {
    type Locked = Option<u64>;
    fn invalidate(&self, call: &Call<'_, Option<u64>>) -> Result<Ack, WouldBlock> {
        let ack = self.set(call);
        if call.event().kind() != EventKind::Unmap {
            return Ok(ack);
        }
        self.space.invalidate(PAGE, CLEAR).end();
        *lock(&self.stays) = Some(self.space.invalidate(PAGE, CLEAR).into_owned());
        Ok(self.set(call))
    }
}

#[test]
#[cfg_attr(loom, ignore = "`also` may grow, by a lock of the standard library's: loom does not know what that orders")]
fn a_sequence_that_is_set_twice_hides_nothing_that_came_between() {
    explore(&["before", "after", "thrown away"], |seen| {
        let (space, word) = (AddressSpace::new(), Word::new(10));
        let twice = Twice { space: space.clone(), copy: Mutex::new(None), stays: Mutex::new(None) };
        let sub = std::sync::Arc::new(space.subscribe(PAGE, twice).expect("the space is not released"));
        let builder = spawn!([sub, word] {
            let seq = sub.read_begin().expect("nothing keeps this thread from waiting");
            let built = word.get();
            let mut copy = lock(&sub.ops().copy);
            let committed = !sub.read_retry(seq, &copy);
            if committed {
                *copy = Some(built);
            }
            committed.then_some(built)
        });
        space.invalidate(PAGE, EventKind::Unmap).end();
        word.set(11);
        assert_eq!(*lock(&sub.ops().copy), None, "mapped inside an invalidation");
        word.set(12);
        drop(lock(&sub.ops().stays).take());
        let built = builder.join().unwrap();
        assert!(built.is_none_or(|value| value % 2 == 0), "a build from the middle of a change was accepted");
        seen.note(outcome(built, 10));
    });
}
