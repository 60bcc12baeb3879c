//! P5: subscribing against invalidations. Whoever starts later calls it, whoever was active is waited for.

use super::toy::{CLEAR, ELSEWHERE, PAGE, Sub, Toy, Word, change, together};
use super::{explore, spawn};
use crate::{Address, AddressSpace, Event};
use std::ops::Range;

/// Whether the one invalidation of a scenario called the toy, and what a build saw.
fn outcome<A: Address>(toy: &Toy<A>, built: Option<u64>) -> &'static str {
    match (toy.calls(), built) {
        (0, Some(10)) => panic!("neither called nor waited for, and yet not later"),
        (0, _) => "not heard",
        (_, Some(10)) => "heard after the build",
        (_, Some(_)) => "heard before the build",
        (_, None) => "heard during the build",
    }
}

const OUTCOMES: [&str; 4] = ["not heard", "heard before the build", "heard during the build", "heard after the build"];

#[test]
fn a_subscription_born_during_a_start_is_called_or_waits() {
    explore(&OUTCOMES, |seen| {
        let (space, toy, word) = (AddressSpace::new(), Toy::new(), Word::new(10));
        let owner = spawn!([space, word] change(&space, &word, 20));
        let sub = Sub::new(&space, PAGE, &toy);
        let built = sub.build(|| word.get());
        owner.join().unwrap();
        sub.assert_fresh(word.get());
        seen.note(outcome(&toy, built));
    });
}

#[test]
fn a_start_during_a_birth_calls_it_or_is_waited_for() {
    // As above with the roles exchanged, because loom does not explore both alike.
    explore(&OUTCOMES, |seen| {
        let (space, toy, word) = (AddressSpace::new(), Toy::new(), Word::new(10));
        let builder = spawn!([space, toy, word] {
            let sub = Sub::new(&space, PAGE, &toy);
            let built = sub.build(|| word.get());
            (sub, built)
        });
        change(&space, &word, 20);
        let (sub, built) = builder.join().unwrap();
        sub.assert_fresh(word.get());
        seen.note(outcome(&toy, built));
    });
}

#[test]
fn a_birth_is_not_settled_by_the_callback_of_a_later_invalidation() {
    // The first one uses the slot for another range, so that what the scan finds in it may be old; the second one may
    // call the subscription before `subscribe` has made up its mind.
    explore(&OUTCOMES, |seen| {
        let (space, toy, word) = (AddressSpace::new(), Toy::new(), Word::new(10));
        let owner = spawn!([space, word] {
            space.invalidate(ELSEWHERE, CLEAR).end();
            change(&space, &word, 20);
        });
        let sub = Sub::new(&space, PAGE, &toy);
        let built = sub.build(|| word.get());
        owner.join().unwrap();
        sub.assert_fresh(word.get());
        seen.note(outcome(&toy, built));
    });
}

#[test]
#[cfg_attr(loom, ignore = "three threads with a search each: too many states")]
fn a_birth_amid_two_invalidations_misses_neither() {
    explore(&["none heard", "one heard", "both heard"], |seen| {
        let (space, toy, words) = (AddressSpace::new(), Toy::new(), [10, 20].map(Word::new));
        let owners = words.clone().map(|word| spawn!([space] change(&space, &word, 100)));
        let sub = Sub::new(&space, PAGE, &toy);
        let _ = sub.build(|| together(&words));
        owners.into_iter().for_each(|owner| owner.join().unwrap());
        sub.assert_fresh(together(&words));
        seen.note(["none heard", "one heard", "both heard"][usize::try_from(toy.calls()).unwrap()]);
    });
}

#[test]
#[cfg_attr(loom, ignore = "loom does not see the order that `OnceLock` gives to new slots")]
fn a_birth_sees_slots_that_are_added_meanwhile() {
    // Two open ones fill the first block of slots under a checker; the third, which matters, brings a new one.
    explore(&OUTCOMES, |seen| {
        let (space, toy, word) = (AddressSpace::new(), Toy::new(), Word::new(10));
        let builder = spawn!([space, toy, word] {
            let sub = Sub::new(&space, PAGE, &toy);
            let built = sub.build(|| word.get());
            (sub, built)
        });
        let full = [(); 2].map(|()| space.invalidate(ELSEWHERE, CLEAR));
        change(&space, &word, 20);
        let (sub, built) = builder.join().unwrap();
        sub.assert_fresh(word.get());
        drop(full);
        seen.note(outcome(&toy, built));
    });
}

/// The scan may find the slot of an ended invalidation in use again, with a range that does not overlap and is kept
/// open: what the first one changed must be visible, and the second one must not be waited for.
fn reused_by_the_same_thread<A: Address>(
    seen: &super::Seen,
    space: &AddressSpace<A>,
    page: Range<A>,
    elsewhere: Range<A>,
) {
    let (toy, word, cleared) = (Toy::new(), Word::new(10), Event::new(CLEAR));
    let owner = spawn!([space, word, page, elsewhere] {
        space.invalidate_while(page, cleared, || word.set(20));
        space.invalidate(elsewhere, cleared).into_owned()
    });
    let sub = Sub::new(space, page, &toy);
    let built = sub.build(|| word.get());
    let open = owner.join().unwrap();
    sub.assert_fresh(word.get());
    seen.note(outcome(&toy, built));
    open.end();
}

#[test]
fn a_slot_used_again_for_another_range_hides_nothing_from_a_birth() {
    explore(&OUTCOMES, |seen| reused_by_the_same_thread(seen, &AddressSpace::new(), PAGE, ELSEWHERE));
}

#[test]
fn a_slot_used_again_for_another_range_of_two_words_hides_nothing_from_a_birth() {
    // Read word by word, the two ranges may look like a third one. The halves are chosen so that a mixture of their
    // words overlaps neither, or both.
    const PAGE: Range<u128> = 1 << 64 | 0x1000..1 << 64 | 0x2000;
    const ELSEWHERE: Range<u128> = 0x1000..0x2000;
    explore(&OUTCOMES, |seen| reused_by_the_same_thread(seen, &AddressSpace::default(), PAGE, ELSEWHERE));
}

#[test]
fn a_slot_used_again_by_another_thread_hides_nothing_from_a_birth() {
    // What the first thread changed reaches the reader through the second thread's range alone.
    explore(&OUTCOMES, |seen| {
        let (space, toy, word) = (AddressSpace::new(), Toy::new(), Word::new(10));
        let first = spawn!([space, word] space.invalidate_while(PAGE, CLEAR, || word.set(20)));
        let second = spawn!([space] space.invalidate(ELSEWHERE, CLEAR).into_owned());
        let sub = Sub::new(&space, PAGE, &toy);
        let built = sub.build(|| word.get());
        first.join().unwrap();
        let open = second.join().unwrap();
        sub.assert_fresh(word.get());
        seen.note(outcome(&toy, built));
        open.end();
    });
}
