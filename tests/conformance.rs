//! The conformance harness finds what is wrong with a mirror, soon, and nothing with one that is right.
//!
//! The mirrors are those of `examples/conformance`. On plain threads by `cargo test`; under Shuttle by
//! `RUSTFLAGS='--cfg shuttle' cargo test --test conformance --target-dir target/shuttle`.
#![cfg(not(loom))]

#[path = "../examples/conformance/right.rs"]
mod right;
#[path = "../examples/conformance/wrong.rs"]
mod wrong;

use interval_notifier::conformance::{Broken, Event, Failure, Fault, Generation, Harness, Setting, Subject};
use interval_notifier::{Attempt, Change, Mirror, MirrorState, Retry};
use right::Right;
use std::convert::Infallible;
use std::ops::RangeBounds;
use std::time::Duration;
use wrong::{AnotherLock, NoRetry, OffByOne, Waits, Wrong};

/// Time is no limit where the result depends on it.
fn harness() -> Harness {
    Harness::new().runs(1_000).within(Duration::from_secs(120))
}

fn failure<S: Subject>() -> Failure {
    let failure = harness().check::<S>().expect_err("it is wrong");
    println!("{failure}\n");
    failure
}

/// One of these rules is broken, which is found within so many runs and shown in so many events.
fn assert_found<S: Subject>(rules: &[Broken], runs: usize, events: usize) {
    let failure = failure::<S>();
    assert!(rules.contains(&failure.broken()));
    assert!(failure.runs() <= runs, "it took {} runs", failure.runs());
    assert!(failure.history().len() <= events, "it took {} events", failure.history().len());
}

#[test]
fn a_right_mirror_passes() {
    let report = harness().check::<Right>().unwrap();
    println!("{report}");
    assert_eq!(report.runs(), 1_000);
}

#[test]
fn a_commit_without_a_retry_is_found() {
    assert_found::<Wrong<NoRetry>>(&[Broken::StaleCommit, Broken::MappedInside], 500, 12);
}

#[test]
fn a_sequence_set_under_another_lock_is_found() {
    assert_found::<Wrong<AnotherLock>>(&[Broken::LockNotTaken, Broken::MappedInside], 500, 12);
}

#[test]
fn a_callback_that_drops_too_little_is_found() {
    assert_found::<Wrong<OffByOne>>(&[Broken::NotDropped], 500, 8);
}

#[test]
fn a_callback_that_waits_although_it_may_not_is_found() {
    assert_found::<Wrong<Waits>>(&[Broken::Blocked], 1_000, 5);
}

/// A mirror behind the library's lock, of pages that have an inside; `M` says what is wrong with it.
struct Library<const MISTAKE: u8>(Mirror<Frames<MISTAKE>, usize>);

const NONE: u8 = 0;
const ROUNDS_INWARDS: u8 = 1;
const IGNORES_MIGRATIONS: u8 = 2;
const REFUSES_ALWAYS: u8 = 3;
const PANICS: u8 = 4;
const NEVER_MAPS: u8 = 5;
const WAITS_FOR_EVER: u8 = 6;

const PAGE: usize = 4096;

struct Frames<const MISTAKE: u8>(Vec<(usize, Generation)>);

impl<const MISTAKE: u8> MirrorState<usize> for Frames<MISTAKE> {
    fn invalidate(&mut self, change: &Change<usize>) {
        assert!(MISTAKE != PANICS || self.0.is_empty(), "out of order");
        if MISTAKE == REFUSES_ALWAYS {
            let _ = change.would_block();
        }
        let gone = change.overlap();
        self.0.retain(|&(page, _)| match MISTAKE {
            ROUNDS_INWARDS => !gone.contains(&page),
            _ => gone.overlap(&interval_notifier::Span::new(page..page + PAGE).unwrap()).is_none(),
        });
    }

    fn concerns(&self, change: &Change<usize>) -> bool {
        MISTAKE != IGNORES_MIGRATIONS || change.event().owner().is_none()
    }
}

impl<const MISTAKE: u8> Subject for Library<MISTAKE> {
    type Address = usize;
    const PAGE_SIZE: u64 = PAGE as u64;

    fn new(setting: &Setting<usize>) -> Self {
        Library(setting.space().mirror(setting.range(), Frames(Vec::new())).unwrap())
    }

    fn fault(&self, fault: &Fault<'_, usize>) {
        let page = fault.page();
        while MISTAKE == WAITS_FOR_EVER && self.held(page).is_some() {
            interval_notifier::conformance::sync::thread::yield_now();
        }
        let build = |_: Attempt<'_, usize>| Ok::<_, Infallible>(fault.read(page));
        let _ = self.0.update(Retry::forever(), build, |frames, generation| {
            frames.0.retain(|&(other, _)| other != page);
            frames.0.extend((MISTAKE != NEVER_MAPS).then_some((page, generation)));
        });
    }

    fn held(&self, page: usize) -> Option<Generation> {
        let found = self.0.with(|frames| frames.0.iter().find(|frame| frame.0 == page).copied());
        found.ok().flatten().map(|(_, generation)| generation)
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        let _ = self.0.with(|_| then());
    }
}

#[test]
fn a_right_mirror_of_the_library_passes() {
    println!("{}", harness().check::<Library<NONE>>().unwrap());
}

#[test]
fn pages_that_are_hit_in_part_must_go() {
    assert_found::<Library<ROUNDS_INWARDS>>(&[Broken::NotDropped], 500, 8);
}

#[test]
fn what_somebody_else_migrates_concerns_the_mirror() {
    assert_found::<Library<IGNORES_MIGRATIONS>>(&[Broken::NotDropped], 1_000, 8);
}

#[test]
fn a_refusal_where_none_is_allowed_is_reported() {
    let failure = failure::<Library<REFUSES_ALWAYS>>();
    assert_eq!(failure.broken(), Broken::Panicked);
    assert!(failure.to_string().contains("an invalidation that may block must not be refused"));
}

#[test]
fn a_panic_is_reported() {
    let failure = failure::<Library<PANICS>>();
    assert_eq!(failure.broken(), Broken::Panicked);
    assert!(failure.to_string().contains("out of order"));
}

#[test]
fn a_mirror_that_never_maps_anything_shows_nothing() {
    let failure = failure::<Library<NEVER_MAPS>>();
    assert_eq!((failure.broken(), failure.history()), (Broken::NeverMapped, &[] as &[Event]));
}

/// It costs a thread that spins as long as the process lives, so plain threads leave it to Shuttle.
#[cfg(shuttle)]
#[test]
fn what_never_ends_is_reported() {
    assert_found::<Library<WAITS_FOR_EVER>>(&[Broken::Hung], 1_000, 5);
}
