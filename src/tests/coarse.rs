//! The reference does what the kernel does: the cases in which its own code was run, and what came out.

use crate::coarse::{Answer, Coarse, Heard, InsertError, Refused, Sleep};

/// Everything collides.
fn collide(_: Heard) -> Answer {
    Answer::SetSeq
}

/// Nobody is called.
fn nobody(heard: Heard) -> Answer {
    panic!("{heard:?} was called")
}

/// A space with the interval 1 at `[10, 20)`.
fn one() -> Coarse {
    let mut kernel = Coarse::default();
    kernel.insert(1, 10, 10).unwrap();
    kernel
}

fn sleeps(kernel: &Coarse, id: u32) -> bool {
    kernel.read_begin(id).1 == Sleep::UntilEpochEnds
}

#[test]
fn row_1_lengths_that_do_not_fit() {
    let mut kernel = Coarse::default();
    assert_eq!(kernel.insert(1, 10, 0), Err(InsertError::Overflow));
    assert_eq!(kernel.insert(1, u64::MAX, 2), Err(InsertError::Overflow));
    assert_eq!(kernel.insert(1, u64::MAX, 1), Ok(()), "up to the last address is legal");
}

#[test]
fn row_4_an_insert_opens_the_epoch() {
    let mut kernel = Coarse::default();
    kernel.start((50, 60), true, &mut nobody).unwrap();
    assert!(!kernel.is_invalidating());
    kernel.insert(1, 10, 10).unwrap();
    assert!(kernel.is_invalidating() && !kernel.is_deferred(1) && sleeps(&kernel, 1), "though nothing was hit");
    kernel.end(&mut nobody);
    assert!(!sleeps(&kernel, 1));
}

#[test]
fn row_5_a_deferred_interval_is_not_called() {
    let mut kernel = one();
    kernel.start((10, 11), true, &mut collide).unwrap();
    kernel.insert(2, 30, 10).unwrap();
    assert!(kernel.is_deferred(2) && sleeps(&kernel, 2));
    kernel.start((30, 31), true, &mut nobody).unwrap();
    kernel.end(&mut nobody);
    kernel.end(&mut nobody);
    assert!(!kernel.is_deferred(2) && !sleeps(&kernel, 2));
}

#[test]
fn rows_7_to_9_removal() {
    let mut kernel = one();
    kernel.insert(2, 30, 10).unwrap();
    kernel.start((50, 60), true, &mut nobody).unwrap();
    assert_eq!(kernel.remove(2), Sleep::No, "the epoch is closed");
    kernel.start((10, 11), true, &mut collide).unwrap();
    kernel.insert(3, 30, 10).unwrap();
    assert_eq!(kernel.remove(3), Sleep::No, "it was deferred still");
    assert_eq!(kernel.remove(1), Sleep::UntilEpochEnds);
    let mut calls = 0;
    kernel
        .start((10, 11), true, &mut |_| {
            calls += 1;
            Answer::SetSeq
        })
        .unwrap();
    assert_eq!(calls, 1, "until then it is called");
    (0..3).for_each(|_| kernel.end(&mut nobody));
    kernel.start((0, u64::MAX), true, &mut nobody).unwrap();
}

#[test]
fn rows_12_14_and_16_who_sleeps_and_for_how_long() {
    let mut kernel = one();
    kernel.insert(2, 30, 10).unwrap();
    let (seq, _) = kernel.read_begin(2);
    kernel.start((10, 11), true, &mut collide).unwrap();
    assert!(sleeps(&kernel, 1) && !sleeps(&kernel, 2), "not hit, not waiting");
    kernel.start((90, 91), true, &mut nobody).unwrap();
    kernel.end(&mut nobody);
    assert!(sleeps(&kernel, 1), "its own has ended, but the other one has not");
    kernel.end(&mut nobody);
    assert!(!sleeps(&kernel, 1) && !kernel.read_retry(2, seq));
}

#[test]
fn row_15_no_set_seq_no_collision() {
    let mut kernel = one();
    let (seq, _) = kernel.read_begin(1);
    kernel.start((10, 11), true, &mut |_| Answer::Ignore).unwrap();
    assert!(!sleeps(&kernel, 1) && !kernel.read_retry(1, seq));
}

#[test]
fn row_18_ranges_of_no_length() {
    let hit = |range| {
        let mut calls = 0;
        one()
            .start(range, true, &mut |_| {
                calls += 1;
                Answer::SetSeq
            })
            .unwrap();
        calls
    };
    assert_eq!((hit((10, 10)), hit((11, 11)), hit((20, 20))), (0, 1, 0), "only what reaches over it");
    assert_eq!((hit((0, 0)), hit((25, 12))), (1, 0), "everything, and nothing");
}

#[test]
fn row_21_an_interval_that_refuses() {
    let mut kernel = one();
    kernel.insert(2, 15, 10).unwrap();
    kernel.insert(3, 16, 10).unwrap();
    let (seq, _) = kernel.read_begin(1);
    let mut calls = Vec::new();
    let mut hear = |heard| {
        calls.push(heard);
        if heard == Heard::Invalidate(2) { Answer::Refuse } else { Answer::SetSeqAndFinish }
    };
    assert_eq!(kernel.start((0, 100), false, &mut hear), Err(Refused::ByInterval));
    // Row 22: what had started is finished.
    assert_eq!(calls, [Heard::Invalidate(1), Heard::Invalidate(2), Heard::Finish(1)]);
    assert!(kernel.read_retry(1, seq) && !sleeps(&kernel, 1), "once for nothing");
}

#[test]
fn rows_23_and_24_a_notifier_that_refuses() {
    let mut kernel = one();
    kernel.register(1);
    kernel.register(2);
    let mut calls = Vec::new();
    let mut hear = |heard| {
        calls.push(heard);
        if heard == Heard::Start(2) { Answer::Refuse } else { Answer::SetSeq }
    };
    assert_eq!(kernel.start((10, 11), false, &mut hear), Err(Refused::ByNotifier));
    let (start, end) = (Heard::Start, Heard::End);
    assert_eq!(calls, [Heard::Invalidate(1), start(2), start(1), end(2), end(1)]);
    assert!(kernel.active() == 1 && sleeps(&kernel, 1), "for ever");
}

#[test]
fn row_33_the_last_address_hears_no_release() {
    let mut kernel = one();
    kernel.insert(2, u64::MAX, 1).unwrap();
    let mut calls = Vec::new();
    let mut hear = |heard| {
        calls.push(heard);
        Answer::SetSeq
    };
    kernel.release(&mut hear);
    kernel.release(&mut hear);
    assert_eq!(calls, [Heard::Invalidate(1); 2], "the others twice");
    assert_eq!(kernel.insert(3, 1, 1), Err(InsertError::Invalid));
}
