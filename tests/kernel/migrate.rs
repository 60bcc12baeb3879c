//! Pages move to the device's memory and back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::sim::device::{Device, Done};
use super::sim::memory::{HUGE, Memory};
use super::sim::pages::{Access, Fault, Mapping};
use super::sim::primary::Primary;
use super::{PAGES, TIMES, process, process_with, quiet, words};

/// How many of `pages` are in the device's own memory, and how many of those are parts of huge pages.
fn local(device: &Device, pages: Range<u64>) -> (usize, usize) {
    let seen = device.snapshot(pages).unwrap();
    let local = || seen.iter().flatten().filter(|seen| seen.local);
    (local().count(), local().filter(|seen| seen.huge).count())
}

#[test]
fn migrate() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    device.read(0..PAGES).unwrap();
    assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(local(&device, 0..PAGES), (PAGES as usize, 0));
    // It ignored its own migration and has mapped what it took.
    assert_eq!((device.mirror.ignored.load(Relaxed), device.mirror.hits.load(Relaxed)), (1, 0));
    assert_eq!(device.read(0..PAGES), Ok((words(1), Done { pages: PAGES, ..Done::default() })));
}

#[test]
fn migrate_fault() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    for _ in 0..2 {
        assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
        assert_eq!(primary.load_all(0..PAGES), Ok(words(1)), "a touch of the CPU brings them back");
        assert_eq!(local(&device, 0..PAGES), (0, 0));
    }
    assert_eq!(device.mirror.hits.load(Relaxed), 2 * PAGES);
    assert_eq!(device.read(0..PAGES), Ok((words(1), quiet(0..PAGES))));
}

#[test]
fn migrate_release() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(primary.load_all(0..PAGES / 2), Ok((1..=PAGES / 2).collect()));
    assert_eq!(device.withdraw(), PAGES - PAGES / 2);
    let hits = device.mirror.hits.load(Relaxed);
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
    assert_eq!(device.mirror.hits.load(Relaxed), hits, "nothing was left to bring back");
}

#[test]
fn migrate_shared() {
    let (_, primary) = process_with(Access::Write, Mapping::Shared);
    let device = Device::open(&primary);
    assert_eq!(device.migrate(0..PAGES), Err(Fault::Nothing));
}

#[test]
fn migrate_multiple() {
    let (memory, primary) = process();
    primary.unmap(0..PAGES);
    let device = Device::open(&primary);
    for time in 1..=TIMES {
        primary.map(0..PAGES, Access::Write, Mapping::Private);
        primary.store_all(0..PAGES, time).unwrap();
        assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
        assert_eq!(primary.load_all(0..PAGES), Ok(words(time)));
        assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
        primary.unmap(0..PAGES);
    }
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn a_page_comes_back_when_the_device_wants_it_to() {
    let (_, primary) = process();
    let device = Device::open(&primary);
    device.write(0, &words(1)).unwrap();
    device.migrate(0..PAGES).unwrap();
    assert_eq!(device.migrate_back(8..16), 8);
    assert_eq!(local(&device, 0..PAGES), (PAGES as usize - 8, 0));
    assert_eq!(device.mirror.hits.load(Relaxed), 0, "both ways were its own");
    assert_eq!(device.read(0..PAGES).unwrap().0, words(1));
}

/// `hmm_cow_in_device`: after a fork both processes have the same page on the device.
#[test]
fn hmm_cow_in_device() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    device.migrate(0..PAGES).unwrap();
    let child = primary.fork();
    assert_eq!(device.read(0..PAGES), Ok((words(1), quiet(0..PAGES))), "the fork took the permission to write");
    child.store_all(0..PAGES, 500).unwrap();
    assert_eq!(child.load_all(0..PAGES), Ok(words(500)));
    assert_eq!(local(&device, 0..PAGES), (PAGES as usize, 0));
    primary.store_all(0..PAGES, 900).unwrap();
    assert_eq!(child.load_all(0..PAGES), Ok(words(500)));
}

// ---- huge pages (the tests of the newer series)

fn huge_process() -> (Arc<Memory>, Arc<Primary>, Device) {
    let (memory, primary) = process_with(Access::Write, Mapping::Huge);
    let device = Device::open(&primary);
    (memory, primary, device)
}

const ALL_HUGE: (usize, usize) = (PAGES as usize, PAGES as usize);
const ALL_SMALL: (usize, usize) = (PAGES as usize, 0);

#[test]
fn migrate_anon_huge_empty() {
    let (_, primary, device) = huge_process();
    assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(local(&device, 0..PAGES), ALL_HUGE);
    assert_eq!(primary.load_all(0..PAGES), Ok(vec![0; PAGES as usize]));
}

#[test]
fn migrate_anon_huge_zero() {
    let (_, primary, device) = huge_process();
    primary.load(0).unwrap();
    assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(local(&device, 0..PAGES), ALL_HUGE);
    assert_eq!(primary.load_all(0..PAGES), Ok(vec![0; PAGES as usize]));
}

#[test]
fn migrate_anon_huge_free() {
    let (memory, primary, device) = huge_process();
    primary.store_all(0..PAGES, 1).unwrap();
    device.migrate(0..PAGES).unwrap();
    primary.clear(0..PAGES);
    assert_eq!((device.spans(0..PAGES), memory.in_use()), (0, 0));
    assert_eq!(device.read(0..PAGES).unwrap().0, vec![0; PAGES as usize]);
}

#[test]
fn migrate_anon_huge_fault() {
    let (_, primary, device) = huge_process();
    primary.store_all(0..PAGES, 1).unwrap();
    device.migrate(0..PAGES).unwrap();
    assert_eq!(primary.load(0), Ok(1));
    assert_eq!(device.mirror.hits.load(Relaxed), 1, "a huge page comes back in one invalidation");
    assert_eq!(local(&device, 0..PAGES), (ALL_HUGE.0 - HUGE as usize, ALL_HUGE.1 - HUGE as usize));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
}

#[test]
fn migrate_anon_huge_err() {
    let (memory, primary, device) = huge_process();
    primary.store_all(0..PAGES, 1).unwrap();
    // There are no huge pages on the device: small ones do.
    memory.is_fragmented.store(true, Relaxed);
    assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(local(&device, 0..PAGES), ALL_SMALL);
    assert_eq!(device.read(0..PAGES).unwrap().0, words(1));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
}

#[test]
fn migrate_anon_huge_zero_err() {
    let (memory, primary, device) = huge_process();
    primary.load(0).unwrap();
    memory.is_fragmented.store(true, Relaxed);
    assert_eq!(device.migrate(0..PAGES), Ok(PAGES));
    assert_eq!(local(&device, 0..PAGES), ALL_SMALL);
    assert_eq!(primary.load_all(0..PAGES), Ok(vec![0; PAGES as usize]));
}

#[test]
fn migrate_anon_huge_fault_err() {
    let (memory, primary, device) = huge_process();
    primary.store_all(0..PAGES, 1).unwrap();
    device.migrate(0..PAGES).unwrap();
    // No huge page in RAM for the way back: the huge page comes back in small ones.
    memory.is_fragmented.store(true, Relaxed);
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
    assert!(device.snapshot(0..PAGES).unwrap().iter().flatten().all(|seen| !seen.huge && !seen.local));
}

#[test]
fn migrate_partial_unmap_fault() {
    for offset in [0, HUGE / 4, HUGE / 2] {
        let (_, primary, device) = huge_process();
        primary.store_all(0..PAGES, 1).unwrap();
        device.migrate(0..HUGE).unwrap();
        let gone = offset..offset + HUGE / 2;
        primary.unmap(gone.clone());
        for page in 0..HUGE {
            let expected = if gone.contains(&page) { Err(Fault::Address) } else { Ok(page + 1) };
            assert_eq!(device.read(page..page + 1).map(|(words, _)| words[0]), expected, "device, page {page}");
            assert_eq!(primary.load(page), expected, "process, page {page}");
        }
    }
}

#[test]
fn migrate_remap_fault() {
    let to = 1 << 20;
    for before in [true, false] {
        for keep in [true, false] {
            for offset in [0, HUGE / 4, HUGE / 2] {
                let (_, primary, device) = huge_process();
                primary.store_all(0..HUGE, 1).unwrap();
                if before {
                    primary.remap(0..HUGE, to + offset, keep);
                    device.migrate(to + offset..to + offset + HUGE).unwrap();
                } else {
                    device.migrate(0..HUGE).unwrap();
                    primary.remap(0..HUGE, to + offset, keep);
                }
                let moved = to + offset..to + offset + HUGE;
                let old = if keep { Ok(vec![0; HUGE as usize]) } else { Err(Fault::Address) };
                assert_eq!(device.read(0..HUGE).map(|(words, _)| words), old);
                assert_eq!(device.read(moved.clone()).unwrap().0, (1..=HUGE).collect::<Vec<_>>());
                assert_eq!(primary.load_all(moved), Ok((1..=HUGE).collect()));
            }
        }
    }
}
