//! A device with a TLB. The host's page table maps pages to frames and changes all the time; the mirror keeps the
//! device's page table, a `TranslationTable`; device threads translate through its `DeviceCache` without any lock.
//!
//! Frame numbers only grow here, so a stale translation shows itself: the device first looks where the page is, and
//! whatever it finds then must not be older. Two promises of the library make it so:
//!
//! - nothing mapped inside (P2): between start and end the cache has no page of the range;
//! - no stale commit (P1): a build that began before and committed after would bring the old frame back.
//!
//! `cargo run --release --features table --example translation_table`

use std::convert::Infallible;
use std::error::Error;
use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use interval_notifier::{AddressSpace, DeviceCache, EventKind, Mirror, Retry, TranslationTable};

type Failure = Box<dyn Error + Send + Sync>;

const PAGES: u64 = 64;
const PAGE: u64 = 4096;
const AROUND: u64 = 8 * PAGE; // a fault looks at the pages around it
const REMAPS: u64 = 2_000;

/// The host moves each page of `pages` to a frame of its own, from `frame` on.
fn remap_pages(space: &AddressSpace, device: &DeviceCache, host: &[AtomicU64], pages: Range<u64>, frame: u64) {
    let change = space.invalidate(pages.start * PAGE..pages.end * PAGE, EventKind::Unmap);
    for (page, frame) in pages.zip(frame..) {
        assert_eq!(device.lookup(page * PAGE), None, "page {page} is mapped inside the invalidation");
        // Release: pairs with the Acquire in `Device::access`; a lookup that knows of it happens after the start.
        host[page as usize].store(frame, Release);
    }
    change.end();
}

/// What a device thread has: the cache, and the way to the driver for what it misses.
struct Device<'a> {
    cache: DeviceCache,
    mirror: &'a Mirror<TranslationTable>,
    host: &'a [AtomicU64],
    hits: AtomicU64,
    misses: AtomicU64,
    faults: AtomicU64,
    repeated: AtomicU64,
}

impl Device<'_> {
    fn access(&self, address: u64) -> Result<(), Failure> {
        let now = self.host[(address / PAGE) as usize].load(Acquire);
        let target = match self.cache.lookup(address) {
            Some(target) => {
                self.hits.fetch_add(1, Relaxed);
                target
            }
            None => self.miss(address)?,
        };
        let frame = target / PAGE;
        assert_eq!(target % PAGE, address % PAGE);
        assert!(frame >= now, "address {address:#x} is translated to frame {frame}, but was already in {now}");
        Ok(())
    }

    /// Asks the device's page table; what is not there is a fault.
    fn miss(&self, address: u64) -> Result<u64, Failure> {
        self.misses.fetch_add(1, Relaxed);
        loop {
            if let Some(target) = self.mirror.with(|table| table.translate(address))? {
                return Ok(target);
            }
            self.fault(address)?;
        }
    }

    /// Maps what is missing around `address`. Neighbours that lie in neighbouring frames become one span.
    fn fault(&self, address: u64) -> Result<(), Failure> {
        let first = address / AROUND * AROUND;
        let gaps = |table: &TranslationTable| table.gaps(first..first + AROUND).collect::<Vec<_>>();
        let missing = self.mirror.with(gaps)?;
        self.faults.fetch_add(1, Relaxed);
        self.mirror.update(
            Retry::forever(),
            |attempt| {
                self.repeated.fetch_add(u64::from(attempt.number() > 1), Relaxed);
                let pages = missing.iter().flat_map(|gap| gap.first() / PAGE..=gap.last() / PAGE);
                let frames = pages.map(|page| (page, self.host[page as usize].load(Relaxed)));
                let found: Vec<_> = frames.collect();
                thread::sleep(Duration::from_micros(1)); // asking takes a while: time for the host to move a page
                Ok::<_, Infallible>(found)
            },
            |table, found| {
                found.iter().try_for_each(|(page, frame)| table.map(page * PAGE..(page + 1) * PAGE, frame * PAGE))
            },
        )??;
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let space = AddressSpace::new();
    let mirror = space.mirror(..PAGES * PAGE, TranslationTable::new())?;
    let host: Vec<_> = (0..PAGES).map(AtomicU64::new).collect();
    let count = AtomicU64::default;
    let device = Device {
        cache: mirror.with(TranslationTable::device_cache)?,
        mirror: &mirror,
        host: &host,
        hits: count(),
        misses: count(),
        faults: count(),
        repeated: count(),
    };

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let engines = [0x238, 0x3b8].map(|stride| {
            let (device, done) = (&device, &done);
            scope.spawn(move || -> Result<(), Failure> {
                let mut address = 0;
                while !done.load(Relaxed) {
                    device.access(address)?;
                    address = (address + stride) % (PAGES * PAGE);
                }
                Ok(())
            })
        });
        for remap in 1..=REMAPS {
            let first = remap * 29 % PAGES;
            let pages = first..(first + 1 + remap % 4).min(PAGES);
            remap_pages(&space, &device.cache, &host, pages, PAGES + remap * 4);
            thread::sleep(Duration::from_micros(1));
        }
        done.store(true, Relaxed);
        engines.into_iter().try_for_each(|engine| engine.join().unwrap())
    })?;

    let Device { hits, misses, faults, repeated, .. } = &device;
    assert!(hits.load(Relaxed) > 0 && misses.load(Relaxed) > 0);
    println!("{REMAPS} remaps by the host; the device found {hits:?} translations in its cache, none was stale");
    println!("{misses:?} misses went to the driver, {faults:?} of them were faults; {repeated:?} builds were repeated");
    Ok(())
}
