//! The protocol as an abstract model, explored exhaustively by stateright.
//!
//! A step of the model is one atomic access of the protocol, as if all of them were SeqCst; steps that nobody can tell
//! apart are one. It has slots with generations, batches, the words of a subscription, births, removal, and sleeping and
//! waking in the steps of a lock and a condition variable. What is not there: memory orderings (loom's work), the tree,
//! reclamation, panics, refusals; the second pass, the end of a space, and the bits that spare a scan the slots that were
//! never used, all of which Shuttle and loom explore with the code itself.
//!
//! What it adds to the schedules that Shuttle draws: within its bounds there is no schedule left. And each of the wrong
//! protocols in `twin` is refuted, so it can see.
//!
//! `cargo test --test abstract_model -- --nocapture` prints how many states there are, and who is refuted by what.

mod membership;
mod owner;
mod protocol;
mod reader;
mod twin;
mod world;

use protocol::{BEGIN, Cast, END, P1, P2, P3, P4, P5, Protocol};
use stateright::{Checker, HasDiscoveries, Model};
use std::time::Instant;
use twin::Twin;

/// Nobody yet.
const NOBODY: Cast = Cast {
    name: "nobody",
    slots: 2,
    batch: 2,
    ranges: &[1, 1],
    owners: &[1, 1],
    subs: 1,
    readers: &[0],
    subscribed: None,
    unsubscribed: None,
    sleeps: false,
    open_until_gone: false,
};

/// Two readers, two invalidations and a subscriber, all over the one subscription.
const BIRTH: Cast = Cast { name: "birth", readers: &[0, 0], subscribed: Some(0), ..NOBODY };

/// Three invalidations that overlap on one subscription.
const THREE: Cast = Cast { name: "three at once", slots: 3, ranges: &[1, 1, 1], owners: &[1, 1, 1], ..NOBODY };

/// Two readers of one subscription: the one settles, the other profits.
const SETTLING: Cast = Cast { name: "settling", readers: &[0, 0], ..NOBODY };

/// An unsubscribe against batches of two; the neighbour is being read.
const REMOVAL: Cast =
    Cast { name: "removal", ranges: &[0b11, 0b11], subs: 2, readers: &[1], unsubscribed: Some(0), ..NOBODY };

/// One slot is used again, by an invalidation that does not overlap the new subscription; searches go on in new snapshots.
const REUSE: Cast = Cast {
    name: "reuse",
    slots: 1,
    batch: 1,
    ranges: &[0b11, 0b01],
    owners: &[2],
    subs: 2,
    readers: &[0, 1],
    subscribed: Some(1),
    ..NOBODY
};

/// Two invalidations, of which one does not overlap the new subscription.
const APART: Cast =
    Cast { name: "apart", ranges: &[0b01, 0b11], subs: 2, readers: &[1], subscribed: Some(1), ..NOBODY };

/// Two readers that sleep until one invalidation ends.
const WAKING: Cast =
    Cast { name: "waking", slots: 1, ranges: &[1], owners: &[1], readers: &[0, 0], sleeps: true, ..NOBODY };

/// A reader that sleeps until one invalidation ends, and then until another one does.
const TWICE: Cast = Cast { name: "waking twice", sleeps: true, ..NOBODY };

/// A remover and a reader that sleep: the one until the batch is over, the other until the end. The end waits for the
/// removal, as it does where a thread unsubscribes inside its own invalidation.
const LEAVING: Cast = Cast {
    name: "leaving",
    slots: 1,
    ranges: &[0b11],
    owners: &[1],
    subs: 2,
    readers: &[1],
    unsubscribed: Some(0),
    sleeps: true,
    open_until_gone: true,
    ..NOBODY
};

/// Who is wrong, in which scenario it shows, and by which promise.
const REFUTED: [(Twin, &Cast, &str); 24] = [
    (Twin::NoWaitForBy, &WAKING, P1),
    (Twin::NoWaitForAlso, &SETTLING, P1),
    (Twin::NoWaitForBirths, &APART, P2),
    (Twin::ByIsLoadedBeforeSeq, &SETTLING, P2),
    (Twin::SettlesThePresentSeq, &SETTLING, P1),
    (Twin::RetryOutsideTheLock, &WAKING, P2),
    (Twin::NoSetSeq, &WAKING, P1),
    (Twin::NothingPushed, &SETTLING, BEGIN),
    (Twin::CellReusedTooEarly, &THREE, P1),
    (Twin::ByIsStoredAfterSeq, &SETTLING, P1),
    (Twin::SearchesBeforeActive, &APART, P1),
    (Twin::OneBatchOnly, &REUSE, P5),
    (Twin::GenerationIsKept, &REUSE, P3),
    (Twin::RemovedIsIgnored, &REMOVAL, P4),
    (Twin::RemovedIsReadBeforeCurrent, &REMOVAL, P4),
    (Twin::NoWakeUpAfterABatch, &LEAVING, END),
    (Twin::EndIsNoReadModifyWrite, &WAKING, END),
    (Twin::WakesWithoutTheLock, &WAKING, END),
    (Twin::ScansBeforePublishing, &APART, BEGIN),
    (Twin::BirthsThatDoNotOverlap, &APART, P3),
    (Twin::BirthSettlesThePresentSeq, &APART, P1),
    (Twin::BirthIsAlwaysSettled, &APART, P2),
    (Twin::NoWaitInUnsubscribe, &LEAVING, P4),
    (Twin::MarksAfterWaiting, &LEAVING, P4),
];

/// Explores all states, or until one of the promises `sought` is broken. Those that are broken, and how many states
/// were seen.
fn explore(cast: &Cast, twin: Option<Twin>, sought: &[&'static str]) -> (Vec<&'static str>, usize) {
    let checker = Protocol { cast: cast.clone(), twin }.checker().threads(2);
    let until = HasDiscoveries::AnyOf(sought.iter().copied().collect());
    let checker = checker.finish_when(until).spawn_bfs().join();
    (checker.discoveries().into_keys().collect(), checker.unique_state_count())
}

fn holds(cast: &Cast) {
    let begun = Instant::now();
    let (broken, states) = explore(cast, None, &[P1, P2, P3, P4, P5, BEGIN, END]);
    println!("{}: {states} states in {:?}", cast.name, begun.elapsed());
    assert!(broken.is_empty(), "{}: broken: {broken:?}", cast.name);
}

#[test]
fn the_wrong_ones_are_refuted() {
    for (twin, cast, promise) in REFUTED {
        let (broken, states) = explore(cast, Some(twin), &[promise]);
        println!("{twin:?} in \"{}\": {promise}, within {states} states", cast.name);
        assert!(broken.contains(&promise), "{twin:?} in {}: not refuted, broken: {broken:?}", cast.name);
    }
}

#[test]
fn birth() {
    holds(&BIRTH);
}

#[test]
fn three_at_once() {
    holds(&THREE);
}

#[test]
fn settling() {
    holds(&SETTLING);
}

#[test]
fn removal() {
    holds(&REMOVAL);
}

#[test]
fn reuse() {
    holds(&REUSE);
}

#[test]
fn apart() {
    holds(&APART);
}

#[test]
fn waking() {
    holds(&WAKING);
}

#[test]
fn waking_twice() {
    holds(&TWICE);
}

#[test]
fn leaving() {
    holds(&LEAVING);
}
