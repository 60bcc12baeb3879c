//! What the kernel has no tests for: nested starts, refusals, insertion and removal during an invalidation,
//! starvation, time limits.
//!
//! The order of a release, get and put, and the two passes are tested where they are implemented, in
//! `src/tests/{release_order,sharing,two_pass}.rs`; removal against the end of an invalidation also under loom and
//! Shuttle, in `src/tests/removal.rs`.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use interval_notifier::{AddressSpace, BeginError, Change, EventKind, MirrorState, Retry, UpdateError};

use super::sim::device::{Device, Done};
use super::sim::pages::{Access, Fault};
use super::{PAGES, process, quiet, words};

/// Long enough to see that somebody does not wait, or is not woken.
const A_WHILE: Duration = Duration::from_millis(30);

/// Counts what is built, and forgets it when it is invalidated.
#[derive(Default)]
struct Built(u64);

impl MirrorState for Built {
    fn invalidate(&mut self, _: &Change) {
        self.0 = 0;
    }
}

#[test]
fn nested_start() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    let outer = primary.space.invalidate(0..4, EventKind::Clear);
    let inner = primary.space.invalidate(2..6, EventKind::Clear);
    primary.protect(8..9, Access::Write); // a whole change, nested
    let (done, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let read = device.read(0..PAGES);
            done.send(()).unwrap();
            assert_eq!(read, Ok((words(1), quiet(0..PAGES))), "it waits, and does not build in vain");
        });
        inner.end();
        assert!(wait.recv_timeout(A_WHILE).is_err(), "the end of the inner one is not the end of the outer one");
        outer.end();
    });
}

#[test]
fn non_block_refusal() {
    let (memory, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let quick = Device::open(&primary);
    let slow = Device::open_slow(&primary, Duration::from_millis(1));
    for device in [&quick, &slow] {
        device.read(0..PAGES).unwrap();
    }
    assert!(primary.reap(0..8).is_err());
    assert_eq!(memory.in_use() as u64, PAGES, "a refused change does not happen");
    // The one that had agreed lost its copies, the other one lost nothing, and nobody waits for an end that never comes.
    assert_eq!((quick.spans(0..8), slow.spans(0..8)), (0, 1));
    assert_eq!(quick.read(0..PAGES), Ok((words(1), quiet(0..PAGES))));
    assert_eq!(slow.read(0..PAGES), Ok((words(1), Done { pages: PAGES, ..Done::default() })));
    // With nothing mapped there it need not refuse.
    slow.migrate_back(0..8);
    assert!(primary.reap(0..8).is_ok());
    assert_eq!(slow.read(0..8).unwrap().0, [0; 8]);
}

#[test]
fn insert_during_an_invalidation() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let active = primary.space.invalidate(0..4, EventKind::Clear);
    let device = Device::open(&primary);
    // One that starts later calls it back at once; the kernel's would skip it in silence.
    primary.protect(8..12, Access::Write);
    assert_eq!(device.mirror.hits.load(Relaxed), 1);
    let (done, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(device.read(0..PAGES), Ok((words(1), quiet(0..PAGES))));
            done.send(()).unwrap();
        });
        assert!(wait.recv_timeout(A_WHILE).is_err(), "what was active before is waited for");
        active.end();
    });
}

#[test]
fn remove_during_an_invalidation() {
    let (_, primary) = process();
    let device = Device::open(&primary);
    let active = primary.space.invalidate(0..4, EventKind::Clear);
    drop(device); // on the thread that holds it open, and without waiting for the end
    let elsewhere = Device::open(&primary);
    thread::spawn(move || drop(elsewhere)).join().unwrap();
    active.end();
}

#[test]
fn readers_elsewhere_are_not_starved() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, Built::default()).unwrap();
    // Hand over hand: at every moment at least one invalidation is active, as when many threads fault.
    let mut active = space.invalidate(8..16, EventKind::Clear);
    for _ in 0..1_000 {
        let next = space.invalidate(8..20, EventKind::Clear);
        mirror.try_read_begin().map(drop).unwrap();
        active.end();
        active = next;
    }
    active.end();
}

#[test]
fn a_reader_does_not_wait_for_those_who_come_later() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, Built::default()).unwrap();
    let first = space.invalidate(0..4, EventKind::Clear).into_owned();
    let (done, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let seq = mirror.read_begin().unwrap();
            done.send(()).unwrap();
            seq
        });
        assert!(wait.recv_timeout(A_WHILE).is_err());
        let _second = space.invalidate(4..8, EventKind::Clear);
        first.end();
        wait.recv().expect("the kernel's reader would wait for the second one too");
    });
}

#[test]
fn a_reader_that_is_overtaken_for_ever_gives_up() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, Built::default()).unwrap();
    let overtaken = |_: interval_notifier::Attempt<'_>| {
        space.invalidate(0..1, EventKind::Clear).end();
        Ok::<_, std::convert::Infallible>(1)
    };
    let result = mirror.update(Retry::times(5), overtaken, |built, n| built.0 = n);
    assert!(matches!(result, Err(UpdateError::Exhausted { attempts: 5, .. })));
    let result = mirror.update(Retry::within(A_WHILE), overtaken, |built, n| built.0 = n);
    assert!(matches!(result, Err(UpdateError::Exhausted { attempts: 6.., .. })));
    assert_eq!(mirror.with(|built| built.0).unwrap(), 0);
}

#[test]
fn time_limits() {
    let (_, primary) = process();
    let device = Device::open(&primary);
    let mirror = primary.space.mirror(0..8, Built::default()).unwrap();
    let active = primary.space.invalidate(0..4, EventKind::Clear).into_owned();
    assert!(matches!(mirror.try_read_begin(), Err(BeginError::Active)));
    let before = Instant::now();
    assert!(matches!(mirror.read_begin_timeout(A_WHILE), Err(BeginError::Active)));
    assert!(before.elapsed() >= A_WHILE);
    // The device's own limit, HMM_RANGE_DEFAULT_TIMEOUT.
    assert_eq!(device.read(0..1), Err(Fault::Busy));
    assert!(before.elapsed() >= Duration::from_secs(1));
    active.end();
    assert!(device.read(0..1).is_ok());
}
