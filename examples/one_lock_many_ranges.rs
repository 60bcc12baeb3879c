//! A GPU that shares a process's addresses, as its driver sees it: one lock over all of its page tables, a few wide
//! subscriptions, and inside them many small ranges that come with the faults and go with the invalidations.
//!
//! Small ranges are not subscribed one by one: a fault would have to change the subscription tree. Instead each wide
//! *cover* is one subscription, and its callback drops whatever small ranges the invalidation hits. Begin and retry are
//! those of the cover; the price is that a fault may be repeated because of an invalidation elsewhere in its cover.
//! This is the low-level interface: the lock is the driver's own, and `set_seq` is called under it.
//!
//! `cargo run --release --example one_lock_many_ranges`

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use interval_notifier::{Ack, AddressSpace, Call, EventKind, Invalidate, Subscription, WouldBlock};

const PAGES: u64 = 256;
const COVER: u64 = 64; // pages in a cover
const RANGE: u64 = 4; // pages in a small range
const REMAPS: u64 = 2_000;

/// The device's page table: small ranges by their first page, each with the frames of its pages.
type Table = BTreeMap<u64, [u64; RANGE as usize]>;

/// The callback of every cover; all share the one lock. It owns no `Subscription`, so nothing owns itself.
struct Cover(Arc<Mutex<Table>>);

impl Invalidate for Cover {
    type Locked = Table;

    fn invalidate(&self, call: &Call<'_, Table>) -> Result<Ack, WouldBlock> {
        let mut table = match call.is_blockable() {
            true => self.0.lock().unwrap(),
            false => self.0.try_lock().map_err(|_| call.would_block())?,
        };
        let ack = call.set_seq(&mut table);
        let gone = call.overlap();
        let first = gone.first() / RANGE * RANGE; // a small range goes as a whole, even if only its end is hit
        while let Some((&range, _)) = table.range(first..=gone.last()).next() {
            table.remove(&range);
        }
        Ok(ack)
    }
}

struct Driver<'a> {
    table: Arc<Mutex<Table>>,
    covers: Vec<Subscription<Cover>>,
    /// The process's own page table, which the owner changes: page to frame.
    frames: &'a [AtomicU64],
    faults: AtomicU64,
    repeated: AtomicU64,
}

impl Driver<'_> {
    /// The device accesses `page`. What its table says must be true for as long as we hold the lock.
    fn access(&self, page: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let first = page / RANGE * RANGE;
        loop {
            if let Some(frames) = self.table.lock().unwrap().get(&first) {
                let now = self.frames[page as usize].load(Relaxed);
                assert_eq!(frames[(page - first) as usize], now, "the device's table is stale at page {page}");
                return Ok(());
            }
            self.fault(first)?;
        }
    }

    /// Maps the small range that begins at `first`.
    fn fault(&self, first: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let cover = &self.covers[(first / COVER) as usize];
        self.faults.fetch_add(1, Relaxed);
        loop {
            let seq = cover.read_begin()?;
            let built = std::array::from_fn(|i| self.frames[first as usize + i].load(Relaxed)); // no lock here,
            thread::sleep(Duration::from_micros(1)); // and it takes a while: time for the owner to move a page
            let mut table = self.table.lock().unwrap();
            if !cover.read_retry(seq, &table) {
                table.insert(first, built);
                return Ok(());
            }
            self.repeated.fetch_add(1, Relaxed);
        }
    }
}

/// The owner: moves one to eight pages at a time, anywhere, across covers too.
fn owner(space: &AddressSpace, frames: &[AtomicU64]) {
    for remap in 1..=REMAPS {
        let first = remap * 37 % PAGES;
        let end = (first + 1 + remap % 8).min(PAGES);
        space.invalidate_while(first..end, EventKind::Unmap, || {
            frames[first as usize..end as usize].iter().for_each(|frame| frame.store(remap, Relaxed));
        });
        thread::sleep(Duration::from_micros(1));
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let space = AddressSpace::new();
    let frames: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let table = Arc::new(Mutex::new(Table::new()));
    let covers = (0..PAGES / COVER).map(|i| space.subscribe(i * COVER..(i + 1) * COVER, Cover(Arc::clone(&table))));
    let driver = Driver {
        covers: covers.collect::<Result<_, _>>()?,
        table,
        frames: &frames,
        faults: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
    };

    let accesses = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let engines = [13, 29].map(|stride| {
            let (driver, accesses, done) = (&driver, &accesses, &done);
            scope.spawn(move || {
                let mut page = 0;
                while !done.load(Relaxed) {
                    driver.access(page)?;
                    accesses.fetch_add(1, Relaxed);
                    page = (page + stride) % PAGES;
                    (0..100).for_each(|_| std::hint::spin_loop()); // computes, without the lock
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            })
        });
        owner(&space, &frames);
        done.store(true, Relaxed);
        engines.into_iter().try_for_each(|engine| engine.join().unwrap())
    })?;

    // Whatever is still mapped is true, also outside the ranges that the last remaps touched.
    (0..PAGES).try_for_each(|page| driver.access(page))?;
    assert_eq!(driver.table.lock().unwrap().len() as u64, PAGES / RANGE);
    println!("{} covers over {PAGES} pages, {REMAPS} remaps by the owner", driver.covers.len());
    println!("{accesses:?} accesses by two engines: none through a stale entry");
    println!("{:?} faults, {:?} builds thrown away because a remap overtook them", driver.faults, driver.repeated);
    Ok(())
}
