//! A device that mirrors a process, as the kernel's own test driver does (`lib/test_hmm.c`): one mutex, a shadow page
//! table, begin and retry. The process unmaps, protects, forks and takes pages back while the device works on them; the
//! device faults, writes, takes pages into its own memory, or for itself alone. `sim` has both sides; an oracle compares
//! every entry of the shadow page table with the process's at every change.
//!
//! `cargo run --release --example dmirror`

#[allow(dead_code, reason = "each user of the simulation takes its part")]
mod sim;

use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use sim::device::Device;
use sim::memory::Memory;
use sim::pages::{Access, Fault, Mapping};
use sim::primary::Primary;

const PAGES: u64 = 64;
/// How long the last act takes.
const RACE: Duration = Duration::from_millis(700);

fn main() -> Result<(), Box<dyn Error>> {
    let memory = Memory::new();
    let process = Primary::new(&memory);
    process.map(0..PAGES, Access::Write, Mapping::Private);
    let device = Device::open(&process);
    act(&process, &device).map_err(|fault| format!("{fault:?}"))?;
    race(&process, &device).map_err(|fault| format!("{fault:?}"))?;

    process.exit();
    assert_eq!(device.read(0..1), Err(Fault::Gone));
    assert_eq!(memory.in_use(), 0);
    println!("the process has ended: the device maps nothing, and no frame is left");
    Ok(())
}

/// One after the other: what the two sides see of each other.
fn act(process: &Primary, device: &Device) -> Result<(), Fault> {
    process.store_all(0..PAGES, 100)?;
    let (words, done) = device.read(0..PAGES)?;
    assert!(words.into_iter().eq(100..100 + PAGES) && done.faults == 1 && done.retries == 0);
    println!("the device has read {PAGES} pages with one fault, and maps them in {} span(s)", device.spans(0..PAGES));

    process.protect(0..16, Access::Read);
    assert_eq!((device.spans(0..16), device.write(0, &[1])), (0, Err(Fault::Permission)));
    process.protect(0..16, Access::Write);
    device.write(0, &[1])?;
    assert_eq!(process.load(0), Ok(1));
    println!("mprotect took 16 of them out of its page table; it writes again since they may be written to");

    let child = process.fork();
    device.write(0, &[2])?;
    assert_eq!((process.load(0), child.load(0)), (Ok(2), Ok(1)));
    println!("after a fork its write copied the page; the child has kept the old one");
    drop(child);

    assert_eq!(device.migrate(0..32)?, 32);
    let calls = (device.mirror.hits.load(Relaxed), device.mirror.ignored.load(Relaxed));
    assert_eq!((process.load(7), device.spans(7..8)), (Ok(107), 0));
    assert_eq!(device.withdraw(), 31);
    println!(
        "32 pages have been on the device; its callback ignored that ({} of {} calls)",
        calls.1,
        calls.0 + calls.1
    );

    assert_eq!(device.make_exclusive(0..8)?, 8);
    process.increment(3)?;
    assert_eq!((device.exclusive(0..8), process.load(3)), (7, Ok(104)));
    println!("it had 8 pages for itself alone, until the process touched one of them");
    Ok(())
}

/// At the same time: the process puts a new buffer in the place of half of the old one, again and again, while the device
/// reads it. A read may find a page that was not filled yet; it never finds one that is gone.
fn race(process: &Primary, device: &Device) -> Result<(), Fault> {
    let half = PAGES / 2..PAGES;
    let filled = AtomicU64::new(0); // the last generation that was complete
    let (mut reads, mut retries) = (0, 0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| remap(process, &half, &filled));
        while !writer.is_finished() {
            // Acquire: pairs with the Release in `remap`; what we read then is not older than that.
            let floor = filled.load(Acquire);
            let (words, done) = device.read(half.clone())?;
            assert!(words.iter().all(|word| *word == 0 || *word >= floor), "stale: {words:?} after {floor}");
            reads += 1;
            retries += done.retries;
            thread::sleep(Duration::from_micros(1)); // It computes, without the lock.
        }
        writer.join().expect("the writer")
    })?;
    assert!(reads > 0);
    println!("{filled:?} new buffers, {reads} reads, {retries} builds thrown away: none stale");
    Ok(())
}

fn remap(process: &Primary, half: &Range<u64>, filled: &AtomicU64) -> Result<(), Fault> {
    let start = Instant::now();
    for generation in 1.. {
        process.replace(half.clone(), Access::Write, Mapping::Private);
        half.clone().try_for_each(|page| process.store(page, generation))?;
        filled.store(generation, Release);
        thread::sleep(Duration::from_micros(100));
        if start.elapsed() > RACE {
            break;
        }
    }
    Ok(())
}
