//! Threads against each other, while one more asks the oracle all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread::{self, Scope};
use std::time::Duration;

use super::sim::device::{Device, Done};
use super::sim::pages::{Access, Fault, Mapping};
use super::sim::primary::Primary;
use super::{PAGES, process, words};

/// Rounds of the short races.
const ROUNDS: u64 = 100;
/// Changes in the long one.
const CHANGES: u64 = 1_000;

/// A linear congruential generator: the races are as random as the machine, the programs are not.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Ends a race when it is dropped, also when the race has failed, so that nobody goes on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

/// Asks the oracle on a thread of its own until the race is over.
fn watch<'scope>(
    scope: &'scope Scope<'scope, '_>,
    primary: &'scope Primary,
    is_on: &'scope AtomicBool,
) -> Over<'scope> {
    scope.spawn(|| {
        while is_on.load(Acquire) {
            primary.check();
            thread::sleep(Duration::from_micros(20)); // Mutexes are not fair: the others want the mirror lock too.
        }
    });
    Over(is_on)
}

/// The kernel's only test with threads: half of the buffer is unmapped at some moment while the device reads.
#[test]
fn anon_teardown() {
    let mut random = Random(1);
    let (mut whole, mut torn) = (0, 0);
    for _ in 0..ROUNDS {
        let (_, primary) = process();
        primary.store_all(0..PAGES, 1).unwrap();
        let device = Device::open(&primary);
        let delay = Duration::from_micros(random.below(600));
        let is_on = AtomicBool::new(true);
        let read = thread::scope(|scope| {
            let _over = watch(scope, &primary, &is_on);
            let unmap = scope.spawn(|| {
                thread::sleep(delay);
                primary.unmap(PAGES / 2..PAGES);
            });
            let read = device.read(0..PAGES);
            unmap.join().unwrap();
            read
        });
        match read {
            Ok((read, done)) => {
                assert_eq!((read, done.pages, done.faults), (words(1), PAGES, 1));
                whole += 1;
            }
            Err(fault) => {
                assert_eq!(fault, Fault::Address);
                torn += 1;
            }
        }
        assert_eq!(device.read(0..PAGES), Err(Fault::Address));
        assert_eq!(device.read(0..PAGES / 2).unwrap().0, words(1)[..(PAGES / 2) as usize]);
    }
    eprintln!("{ROUNDS} races: {whole} reads were whole, {torn} torn");
}

/// The counterpart for writes: what the device has written is not lost, whoever moves the page meanwhile.
#[test]
fn no_write_of_the_device_is_lost_to_a_migration() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 0).unwrap();
    let devices = [(); 2].map(|()| Device::open(&primary));
    let is_on = AtomicBool::new(true);
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        let _over = watch(scope, &primary, &is_on);
        scope.spawn(|| {
            for round in 1.. {
                if !is_on.load(Acquire) {
                    break;
                }
                match devices[0].write(0, &words(round)) {
                    Ok(_) => assert_eq!(primary.load_all(0..PAGES), Ok(words(round))),
                    Err(fault) => assert_eq!(fault, Fault::Busy),
                }
                written.fetch_add(1, Relaxed);
                thread::sleep(Duration::from_micros(1));
            }
        });
        let mut random = Random(2);
        for _ in 0..CHANGES / 4 {
            let pages = 0..1 + random.below(PAGES);
            let mover = &devices[random.below(2) as usize];
            match random.below(3) {
                0 => drop(mover.migrate(pages)),
                1 => drop(mover.make_exclusive(pages)),
                _ => assert!(mover.migrate_back(pages) <= PAGES),
            }
            thread::sleep(Duration::from_micros(random.below(40)));
        }
    });
    eprintln!("{} moves, {written:?} writes of the whole buffer", CHANGES / 4);
    devices[0].write(0, &words(9)).unwrap();
    assert_eq!(primary.load_all(0..PAGES), Ok(words(9)));
}

/// Everything that a process can do, against two devices that read. Words only grow, so a stale read shows itself.
#[test]
fn nothing_stale_is_ever_read() {
    let (_, primary) = process();
    let floors: Vec<_> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let devices = [(); 2].map(|()| Device::open(&primary));
    let is_on = AtomicBool::new(true);
    let (reads, retries) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let _over = watch(scope, &primary, &is_on);
        for (device, step) in devices.iter().zip([5, 11]) {
            let (floors, is_on, reads, retries) = (&floors, &is_on, &reads, &retries);
            scope.spawn(move || {
                let mut first = 0;
                while is_on.load(Acquire) {
                    first = (first + step) % (PAGES - 4);
                    let done = read_floored(device, first, floors);
                    thread::sleep(Duration::from_micros(1)); // The device computes, without the lock.
                    reads.fetch_add(1, Relaxed);
                    retries.fetch_add(done.map_or(0, |done| done.retries), Relaxed);
                }
            });
        }
        let mut random = Random(3);
        (1..=CHANGES).for_each(|now| change(&primary, &devices, &floors, &mut random, now));
    });
    eprintln!("{CHANGES} changes, {reads:?} reads, {retries:?} builds thrown away");
}

/// Reads four pages, none of which may be older than what was known of it before.
fn read_floored(device: &Device, first: u64, floors: &[AtomicU64]) -> Option<Done> {
    // Acquire: pairs with the Release in `change`; that store is before our read.
    let before: Vec<_> = (first..first + 4).map(|page| floors[page as usize].load(Acquire)).collect();
    match device.read(first..first + 4) {
        Err(fault) => {
            assert_eq!(fault, Fault::Busy);
            None
        }
        Ok((words, done)) => {
            assert!(before.iter().zip(&words).all(|(floor, word)| floor <= word), "{before:?} {words:?}");
            Some(done)
        }
    }
}

fn change(primary: &Arc<Primary>, devices: &[Device; 2], floors: &[AtomicU64], random: &mut Random, now: u64) {
    let first = random.below(PAGES - 8);
    let pages = first..first + 1 + random.below(8);
    let device = &devices[random.below(2) as usize];
    match random.below(8) {
        0 => {
            primary.protect(pages.clone(), Access::Read);
            primary.protect(pages, Access::Write);
        }
        1 => drop(device.migrate(pages)),
        2 => drop(device.make_exclusive(pages)),
        3 => drop(device.migrate_back(pages)),
        4 => {
            let child = primary.fork();
            child.store_all(pages, 1 << 40).unwrap(); // which must not show in the parent
        }
        _ => {
            for page in pages {
                primary.store(page, now).unwrap();
                floors[page as usize].store(now, Release);
            }
        }
    }
}

/// A build may see the hole between an old mapping and a new one. Its error is not the device's: it is an attempt that
/// was overtaken.
#[test]
fn a_mapping_that_is_replaced_is_never_a_fault() {
    let (_, primary) = process();
    let device = Device::open(&primary);
    let is_on = AtomicBool::new(true);
    thread::scope(|scope| {
        let _over = watch(scope, &primary, &is_on);
        scope.spawn(|| {
            while is_on.load(Acquire) {
                let read = device.read(0..8).map(|(words, _)| words);
                assert!(matches!(read, Ok(_) | Err(Fault::Busy)), "{read:?}");
                thread::sleep(Duration::from_micros(1));
            }
        });
        for _ in 0..CHANGES {
            primary.replace(0..8, Access::Write, Mapping::Private);
            thread::sleep(Duration::from_micros(1));
        }
    });
}

/// A snapshot is of one moment, though it looks at one page after the other.
#[test]
fn a_snapshot_never_sees_half_of_a_change() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    let is_on = AtomicBool::new(true);
    thread::scope(|scope| {
        let _over = watch(scope, &primary, &is_on);
        scope.spawn(|| {
            while is_on.load(Acquire) {
                match device.snapshot(0..PAGES) {
                    Ok(seen) => assert!(seen.iter().all(|page| *page == seen[0]), "{seen:?}"),
                    Err(fault) => assert_eq!(fault, Fault::Busy),
                }
                thread::sleep(Duration::from_micros(1));
            }
        });
        for change in 0..CHANGES {
            primary.protect(0..PAGES, if change % 2 == 0 { Access::Read } else { Access::Write });
            thread::sleep(Duration::from_micros(1));
        }
    });
}

/// A device comes and goes while its process changes: whoever leaves hears nothing any more, whoever comes misses
/// nothing.
#[test]
fn devices_come_and_go_while_the_process_changes() {
    let (memory, primary) = process();
    let is_on = AtomicBool::new(true);
    thread::scope(|scope| {
        let _over = watch(scope, &primary, &is_on);
        scope.spawn(|| {
            while is_on.load(Acquire) {
                let device = Device::open(&primary);
                let _ = device.read(0..PAGES);
                let mirror = Arc::clone(&device.mirror);
                drop(device);
                let hits = mirror.hits.load(Relaxed);
                thread::yield_now();
                assert_eq!(mirror.hits.load(Relaxed), hits, "a callback came after the end");
            }
        });
        for _ in 0..CHANGES {
            primary.unmap(0..PAGES / 2);
            primary.map(0..PAGES / 2, Access::Write, Mapping::Private);
        }
    });
    primary.exit();
    assert_eq!(memory.in_use(), 0);
}
