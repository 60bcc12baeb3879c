//! Slots: used again and again, and more of them when all are taken.

use super::toy::{CLEAR, ELSEWHERE, PAGE, Sub, Toy, change_heard, one};
use super::{explore, spawn};
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, BeginError};

#[test]
fn a_slot_that_is_used_again_is_another_invalidation() {
    explore(&["before", "between", "after", "thrown away"], |seen| {
        let (space, sub, word) = one();
        let builder = spawn!([sub, word] sub.build(|| word.get()));
        change_heard(&space, sub.ops(), &word, 20);
        change_heard(&space, sub.ops(), &word, 40);
        seen.note(match builder.join().unwrap() {
            Some(10) => "before",
            Some(20) => "between",
            Some(_) => "after",
            None => "thrown away",
        });
        sub.assert_fresh(word.get());
    });
}

#[test]
fn no_ticket_is_drawn_twice() {
    explore(&["in order", "out of order"], |seen| {
        let space = AddressSpace::new();
        let tickets: Arc<Mutex<Vec<u64>>> = Arc::default();
        let toy = Toy::meeting({
            let tickets = tickets.clone();
            move |call| {
                lock(&tickets).push(call.ticket());
                Ok(())
            }
        });
        let sub = Sub::new(&space, PAGE, &toy);
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        let mut heard = lock(&tickets).clone();
        assert!(heard.iter().all(|ticket| ticket % 2 == 1), "tickets are odd: {heard:?}");
        seen.note(if heard.is_sorted() { "in order" } else { "out of order" });
        heard.sort_unstable();
        heard.dedup();
        assert_eq!(heard.len(), 3, "the same ticket twice, or a call too few");
        assert!(sub.try_read_begin().is_ok());
    });
}

#[test]
fn two_claims_at_once_get_two_slots() {
    explore(&[], |_| {
        let space = AddressSpace::new();
        let (page, elsewhere) = (Sub::new(&space, PAGE, &Toy::new()), Sub::new(&space, ELSEWHERE, &Toy::new()));
        let others = [PAGE, ELSEWHERE].map(|range| spawn!([space] space.invalidate(range, CLEAR).into_owned()));
        let [first, second] = others.map(|other| other.join().unwrap());
        let active = |sub: &Sub| sub.try_read_begin().is_err_and(|error| error == BeginError::Active);
        assert!(active(&page) && active(&elsewhere));
        first.end();
        assert!(!active(&page) && active(&elsewhere), "ending the one ended the other");
        second.end();
        assert!(!active(&elsewhere));
    });
}

#[test]
#[cfg_attr(loom, ignore = "loom does not see the order that `OnceLock` gives to new slots")]
fn more_invalidations_than_slots_bring_new_slots() {
    // A checker's first block has two. All are open at once, and each is waited for.
    explore(&["began before", "waited"], |seen| {
        let (space, sub, word) = one();
        let builder = spawn!([sub, word] sub.build(|| word.get()));
        let full = [(); 2].map(|()| space.invalidate(ELSEWHERE, CLEAR));
        let grown = [(); 2].map(|()| space.invalidate(PAGE, CLEAR));
        word.set(20);
        drop(grown);
        let built = builder.join().unwrap();
        drop(full);
        sub.assert_fresh(word.get());
        if let Some(value) = built {
            seen.note(if value == 10 { "began before" } else { "waited" });
        }
    });
}

#[test]
#[cfg_attr(loom, ignore = "loom does not see the order that `OnceLock` gives to new slots")]
fn two_that_add_slots_at_once_both_find_one() {
    explore(&[], |_| {
        let (space, sub, _) = one();
        let full = [(); 2].map(|()| space.invalidate(ELSEWHERE, CLEAR));
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).into_owned());
        let mine = space.invalidate(PAGE, CLEAR).into_owned();
        let other = other.join().unwrap();
        assert_eq!(sub.ops().calls(), 2);
        mine.end();
        assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Active);
        other.end();
        assert!(sub.try_read_begin().is_ok());
        drop(full);
    });
}
