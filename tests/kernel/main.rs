//! The kernel's own tests of device mirroring (`tools/testing/selftests/mm/hmm-tests.c` with `lib/test_hmm.c`), under
//! their names, then what the kernel has no tests for, then its known bugs.
//!
//! The device and the processes are those of `examples/dmirror/sim`; its head says what the oracle checks after and in
//! the middle of every change. Tests with threads let one more thread ask the oracle all the time.
//!
//! Three counts are compared exactly: pages used, faults of the device, and builds that were thrown away. A quiet
//! access has one fault for all of its range and throws nothing away: `faults == 1` is the kernel's check against
//! spurious retries.
//!
//! Not ported: `mixedmap` (pages without a frame behind them, here just one more read-only mapping), the pinning half of
//! `hmm_gup_test` (there is no `get_user_pages` here), `benchmark_thp_migration` (a benchmark). `anon_write_hugetlbfs`
//! is `anon_write_huge`: huge pages are of one kind here.

#![cfg(not(any(loom, shuttle)))]

mod access;
mod bugs;
mod migrate;
mod missing;
mod names;
mod races;
#[path = "../../examples/dmirror/sim/mod.rs"]
#[allow(dead_code, reason = "each user of the simulation takes its part")]
mod sim;
mod two_devices;

use std::ops::Range;
use std::sync::Arc;

use sim::device::{CHUNK, Device, Done};
use sim::memory::Memory;
use sim::pages::{Access, Fault, Mapping};
use sim::primary::Primary;

/// A test's buffer: two chunks, the second one not full.
const PAGES: u64 = CHUNK + CHUNK / 2;
/// Repetitions, as the kernel's `NTIMES`.
const TIMES: u64 = 10;

/// A process with a private mapping of `PAGES` pages, and the memory of both.
fn process() -> (Arc<Memory>, Arc<Primary>) {
    process_with(Access::Write, Mapping::Private)
}

fn process_with(access: Access, mapping: Mapping) -> (Arc<Memory>, Arc<Primary>) {
    let memory = Memory::new();
    let primary = Primary::new(&memory);
    primary.map(0..PAGES, access, mapping);
    (memory, primary)
}

/// The words `first`, `first + 1`, ... for `PAGES` pages.
fn words(first: u64) -> Vec<u64> {
    (first..first + PAGES).collect()
}

/// The counts of an access that nothing disturbed.
fn quiet(pages: Range<u64>) -> Done {
    Done { pages: pages.end - pages.start, faults: 1, retries: 0 }
}

#[test]
fn open_close() {
    let (memory, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    device.read(0..PAGES).unwrap();
    let mirror = Arc::downgrade(&device.mirror);
    drop(device);
    assert!(mirror.upgrade().is_none(), "the subscription is gone, and with it what it called back");
    primary.unmap(0..PAGES);
    assert_eq!(memory.in_use(), 0);
}

#[test]
fn the_end_of_a_process_is_the_end_of_its_mirrors() {
    let (memory, primary) = process();
    let device = Device::open(&primary);
    device.write(0, &words(1)).unwrap();
    primary.exit();
    assert_eq!((device.spans(0..PAGES), memory.in_use()), (0, 0));
    assert_eq!(device.read(0..1), Err(Fault::Gone));
    assert_eq!(device.snapshot(0..1), Err(Fault::Gone));
}
