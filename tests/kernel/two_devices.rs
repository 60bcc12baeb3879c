//! Snapshots, exclusive access, and two devices on the same pages: who is told of whose changes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use interval_notifier::{Event, EventKind, Owner};

use super::sim::device::{Device, Done};
use super::sim::pages::{Access, Fault, Mapping, Seen};
use super::sim::primary::Primary;
use super::{PAGES, process, quiet, words};

/// Callbacks that concerned a device, and those it ignored.
fn calls(device: &Device) -> (u64, u64) {
    (device.mirror.hits.load(Relaxed), device.mirror.ignored.load(Relaxed))
}

/// Pages 2 and on: a zero page, one that may be read, and the rest written to.
fn assorted(primary: &Primary, pages: u64) {
    primary.protect(2..3, Access::Read);
    assert_eq!(primary.load(2), Ok(0));
    primary.protect(3..pages, Access::Write);
    primary.store_all(3..pages, 3).unwrap();
    primary.protect(3..4, Access::Read);
}

/// A range that is reserved, with a hole at page 1.
fn reserved(pages: u64) -> Arc<Primary> {
    let (_, primary) = process();
    primary.unmap(0..PAGES);
    primary.map(0..pages, Access::None, Mapping::Private);
    primary
}

#[test]
fn migrate_mixed() {
    let primary = reserved(6);
    let [device0, device1] = [(); 2].map(|()| Device::open(&primary));
    assert_eq!(device1.migrate(0..6), Err(Fault::Invalid), "a protected range");
    primary.unmap(1..2);
    assert_eq!(device1.migrate(0..3), Err(Fault::Invalid), "a range with a hole");
    assorted(&primary, 6);
    assert_eq!(device1.migrate(2..6), Ok(4));
    assert_eq!(device0.migrate(5..6), Err(Fault::Nothing), "page 5 is on device 1");
    assert_eq!(device1.read(2..6).unwrap().0, [0, 3, 4, 5]);
}

#[test]
fn snapshot() {
    let primary = reserved(7);
    let [device0, device1] = [(); 2].map(|()| Device::open(&primary));
    primary.unmap(1..2);
    assorted(&primary, 7);
    assert_eq!(device0.migrate(5..6), Ok(1));
    assert_eq!(device1.migrate(6..7), Ok(1));
    let seen = |access, zero, local| Some(Seen { access, zero, local, huge: false });
    let expected = [
        None, // may not be read
        None, // a hole
        seen(Access::Read, true, false),
        seen(Access::Read, false, false),
        seen(Access::Write, false, false),
        seen(Access::Write, false, true),
        seen(Access::None, false, false), // on the other device
    ];
    assert_eq!(device0.snapshot(0..7).unwrap(), expected);
    assert_eq!(device0.spans(0..7), 1, "a snapshot maps nothing; page 5 was mapped when it was migrated");
}

#[test]
fn double_map() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    primary.protect(0..PAGES, Access::Read);
    let devices = [(); 2].map(|()| Device::open(&primary));
    for device in &devices {
        assert_eq!(device.read(0..PAGES), Ok((words(1), quiet(0..PAGES))));
    }
    let [device0, device1] = devices;
    assert_eq!(device1.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
    assert_eq!(device0.read(0..PAGES), Ok((words(1), quiet(0..PAGES))));
}

#[test]
fn a_page_that_is_on_one_device_comes_back_when_another_one_reads_it() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let [device0, device1] = [(); 2].map(|()| Device::open(&primary));
    assert_eq!(device1.migrate(0..PAGES), Ok(PAGES));
    // The fault of device 0 invalidates the very range that it builds from: one build more for each chunk.
    assert_eq!(device0.read(0..PAGES), Ok((words(1), Done { pages: PAGES, faults: 1, retries: 2 })));
    assert_eq!(device1.spans(0..PAGES), 0);
}

// ---- exclusive access

#[test]
fn exclusive() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 0).unwrap();
    let device = Device::open(&primary);
    assert_eq!(device.make_exclusive(0..PAGES), Ok(PAGES));
    assert_eq!(device.exclusive(0..PAGES), PAGES as usize);
    assert_eq!(device.read(0..PAGES), Ok((words(0), Done { pages: PAGES, ..Done::default() })));
    for page in 0..PAGES {
        primary.increment(page).unwrap(); // The CPU's touch revokes it.
        assert_eq!(device.exclusive(0..PAGES), (PAGES - page - 1) as usize);
    }
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
}

#[test]
fn exclusive_of_pages_that_were_never_touched() {
    let (_, primary) = process();
    primary.load_all(0..PAGES).unwrap(); // all zero pages, which must be replaced first
    let device = Device::open(&primary);
    assert_eq!(device.make_exclusive(0..PAGES), Ok(PAGES));
    assert_eq!(device.make_exclusive(0..PAGES), Ok(PAGES));
    assert_eq!(device.exclusive(0..PAGES), PAGES as usize);
}

#[test]
fn exclusive_mprotect() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 0).unwrap();
    let device = Device::open(&primary);
    device.make_exclusive(0..PAGES).unwrap();
    primary.protect(0..PAGES, Access::Read);
    assert_eq!(device.write(0, &words(5)), Err(Fault::Permission));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(0)));
}

#[test]
fn exclusive_cow() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 0).unwrap();
    let device = Device::open(&primary);
    device.make_exclusive(0..PAGES).unwrap();
    let child = primary.fork();
    assert_eq!(device.exclusive(0..PAGES), 0);
    for process in [&primary, &child] {
        (0..PAGES).try_for_each(|page| process.increment(page)).unwrap();
    }
    for process in [&primary, &child] {
        assert_eq!(process.load_all(0..PAGES), Ok(words(1)));
    }
}

// ---- owners

#[test]
fn a_migration_is_ignored_by_its_own_device_and_hits_the_others() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let [device0, device1] = [(); 2].map(|()| Device::open(&primary));
    for device in [&device0, &device1] {
        device.read(0..PAGES).unwrap();
    }
    assert_eq!(device1.migrate(0..8), Ok(8));
    assert_eq!((calls(&device0), calls(&device1)), ((1, 0), (0, 1)));
    // What was migrated is mapped anew on its device, and on no other; the rest is where it was.
    assert_eq!((device0.spans(0..8), device1.spans(0..8)), (0, 1));
    assert_eq!((device0.spans(8..PAGES), device1.spans(8..PAGES)), (1, 1));
}

#[test]
fn exclusive_access_is_ignored_by_its_own_device_and_hits_the_others() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let [device0, device1] = [(); 2].map(|()| Device::open(&primary));
    device0.read(0..PAGES).unwrap();
    assert_eq!(device1.make_exclusive(0..8), Ok(8));
    assert_eq!((calls(&device0), calls(&device1)), ((1, 0), (0, 1)));
    assert_eq!((device0.spans(0..8), device1.exclusive(0..PAGES)), (0, 8));
    // Device 0 takes them back.
    device0.read(0..PAGES).unwrap();
    assert_eq!(device1.exclusive(0..PAGES), 0);
}

#[test]
fn nobody_ignores_a_migration_of_somebody_else_or_of_nobody() {
    let (_, primary) = process();
    let device = Device::open(&primary);
    primary.space.invalidate(.., EventKind::Migrate).end();
    primary.space.invalidate(.., Event::new(EventKind::Migrate).with_owner(Owner::new())).end();
    assert_eq!(calls(&device), (2, 0));
}
