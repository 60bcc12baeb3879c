//! P1 and P2: a build against invalidations, begin against callback, end against begin.

use super::toy::{CLEAR, ELSEWHERE, PAGE, Sub, Toy, Word, change_heard, one, together};
use super::{explore, spawn, thread};
use crate::seq::{BIRTH, Sequence};
use crate::slots::Identity;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering::*};
use crate::{AddressSpace, BeginError};

#[test]
fn a_build_against_an_invalidation_is_never_stale() {
    explore(&["before", "after", "thrown away"], |seen| {
        let (space, sub, word) = one();
        let builder = spawn!([sub, word] sub.build(|| word.get()));
        change_heard(&space, sub.ops(), &word, 20);
        seen.note(match builder.join().unwrap() {
            Some(10) => "before",
            Some(_) => "after",
            None => "thrown away",
        });
        sub.assert_fresh(word.get());
    });
}

#[test]
fn two_builds_against_one_invalidation_are_never_stale() {
    explore(&["accepted twice", "thrown away, then accepted", "accepted, then thrown away"], |seen| {
        let (space, sub, word) = one();
        let builder = spawn!([sub, word] [(); 2].map(|()| sub.build(|| word.get())));
        change_heard(&space, sub.ops(), &word, 20);
        let built = builder.join().unwrap();
        sub.assert_fresh(word.get());
        seen.note(match built {
            [Some(_), Some(_)] => "accepted twice",
            [None, Some(_)] => "thrown away, then accepted",
            [Some(_), None] => "accepted, then thrown away",
            [None, None] => panic!("one invalidation makes one collision"),
        });
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch, and no memory is at stake")]
fn two_readers_of_one_subscription_are_never_stale() {
    explore(&["both accepted", "one accepted", "none accepted"], |seen| {
        let (space, sub, word) = one();
        let builders = [(); 2].map(|()| spawn!([sub, word] sub.build(|| word.get())));
        change_heard(&space, sub.ops(), &word, 20);
        let accepted = builders.map(|builder| builder.join().unwrap()).iter().flatten().count();
        sub.assert_fresh(word.get());
        seen.note(["none accepted", "one accepted", "both accepted"][accepted]);
    });
}

#[test]
fn what_one_reader_settled_serves_the_next() {
    // The invalidation here, the reader that waits first, the one that finds everything settled last.
    explore(&["active", "accepted", "thrown away"], |seen| {
        let (space, sub, word) = one();
        let settler = spawn!([sub] drop(sub.read_begin()));
        let reader = spawn!([sub, word] match sub.try_read_begin() {
            Ok(seq) => Some(sub.commit(seq, word.get())),
            Err(error) => {
                assert_eq!(error, BeginError::Active);
                None
            }
        });
        change_heard(&space, sub.ops(), &word, 20);
        settler.join().unwrap();
        seen.note(match reader.join().unwrap() {
            None => "active",
            Some(Some(_)) => "accepted",
            Some(None) => "thrown away",
        });
        sub.assert_fresh(word.get());
    });
}

#[test]
fn what_a_reader_settled_is_handed_on_by_the_next_collision() {
    // The second invalidation finds the first one settled and forgets it; a begin that waits for the second alone
    // must still see what the first has changed.
    explore(&["settled", "still active"], |seen| {
        let (space, sub, word) = one();
        let first = space.invalidate(PAGE, CLEAR).into_owned();
        let owner = {
            let word = word.clone();
            thread::spawn(move || {
                word.set(20);
                first.end();
            })
        };
        let settler = spawn!([sub] sub.try_read_begin().is_ok());
        space.invalidate(PAGE, CLEAR).end();
        let built = sub.build(|| word.get());
        owner.join().unwrap();
        sub.assert_fresh(word.get());
        assert_eq!(built, Some(20), "the first one was still open, or what it changed is not visible");
        seen.note(if settler.join().unwrap() { "settled" } else { "still active" });
    });
}

#[test]
fn what_a_reader_settled_is_handed_on_though_one_that_is_late_settles_the_birth_after_it() {
    // As above, of the sequence alone. The late one overwrites `settled`, so that the last reader does not come by there to
    // what the first one settled: only the second collision can have handed it on.
    explore(&["settled", "seen to have ended", "still active"], |seen| {
        let [first, second] = [1, 2].map(Identity::from_word);
        let sequence = Arc::new(Sequence::new());
        let (word, ended) = (Word::new(10), Arc::new(AtomicU64::new(0)));
        sequence.set(1, first, |_| false);
        let late = spawn!([sequence] sequence.settle(BIRTH));
        let settler = spawn!([sequence, word, ended] {
            word.set(20);
            ended.store(1, Release);
            sequence.settle(1)
        });
        // The second collision, and then a reader: what is settled, if it is that, and what it would wait for otherwise.
        let is_active = |identity| identity == first && ended.load(Acquire) == 0;
        let asked = std::cell::Cell::new(false);
        sequence.set(2, second, |identity| {
            asked.set(true);
            is_active(identity)
        });
        assert_eq!((sequence.current(), sequence.idle()), (2, None));
        let waits = sequence.try_for_each_blocker(|other| if is_active(other) { Err(()) } else { Ok(()) });
        if waits.is_ok() {
            assert_eq!(word.get(), 20, "the first one has ended, but what it changed is not visible");
        }
        seen.note(match (waits, asked.get()) {
            (Err(()), _) => "still active",
            (Ok(()), true) => "seen to have ended",
            (Ok(()), false) => "settled",
        });
        for thread in [late, settler] {
            thread.join().unwrap().unwrap();
        }
    });
}

#[test]
fn an_invalidation_elsewhere_stops_no_reader() {
    // P3: it stays open until the reader is through, so a reader that waited for it would wait for ever.
    explore(&["before", "after", "thrown away"], |seen| {
        let space = AddressSpace::new();
        let (sub, other) = (Sub::new(&space, PAGE, &Toy::new()), Sub::new(&space, ELSEWHERE, &Toy::new()));
        let word = Word::new(10);
        let open = space.invalidate(ELSEWHERE, CLEAR);
        let builder = spawn!([sub, word] sub.build(|| word.get()));
        change_heard(&space, sub.ops(), &word, 20);
        seen.note(match builder.join().unwrap() {
            Some(10) => "before",
            Some(_) => "after",
            None => "thrown away",
        });
        assert_eq!(other.try_read_begin().unwrap_err(), BeginError::Active);
        open.end();
        assert!(other.try_read_begin().is_ok());
        assert_eq!((sub.ops().calls(), other.ops().calls()), (1, 1));
        sub.assert_fresh(word.get());
    });
}

#[test]
fn a_retry_that_was_announced_comes_true() {
    explore(&["announced", "found under the lock", "accepted"], |seen| {
        let (space, sub, word) = one();
        let builder = spawn!([sub, word] {
            let seq = sub.read_begin().unwrap();
            let value = word.get();
            (sub.check_retry(&seq), sub.commit(seq, value).is_some())
        });
        change_heard(&space, sub.ops(), &word, 20);
        let (announced, accepted) = builder.join().unwrap();
        assert!(!(announced && accepted), "`check_retry` is reliable when it says true");
        sub.assert_fresh(word.get());
        seen.note(match (announced, accepted) {
            (true, _) => "announced",
            (false, false) => "found under the lock",
            (false, true) => "accepted",
        });
    });
}

#[test]
fn one_lock_over_two_subscriptions_keeps_both_fresh() {
    // One invalidation hits both in one batch; each is built from its own word.
    explore(&["both", "one", "none"], |seen| {
        let space = AddressSpace::new();
        let subs = [0, 1].map(|_| Sub::new(&space, PAGE, &Toy::new()));
        let words = [10, 20].map(Word::new);
        let builder = spawn!([subs, words] [0, 1].map(|k| subs[k].build(|| words[k].get())));
        let open = space.invalidate(.., CLEAR);
        words.iter().for_each(|word| word.set(31));
        words.iter().for_each(|word| word.set(30));
        open.end();
        let accepted = builder.join().unwrap();
        subs.iter().zip(&words).for_each(|(sub, word)| sub.assert_fresh(word.get()));
        seen.note(["none", "one", "both"][accepted.iter().flatten().count()]);
        assert_eq!(together(&words), 30 << 8 | 30);
    });
}
