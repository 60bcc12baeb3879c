//! A GPU driver's shared virtual memory: one read-write lock over all small ranges, wide covers that are subscribed,
//! and user pointers that are subscribed one by one as trait objects. Commits hold the lock *shared*.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use interval_notifier::{Ack, AddressSpace, Call, Event, EventKind, Invalidate, Owner, Span, Subscription, WouldBlock};

const PAGE: u64 = 0x1000;
const COVER: std::ops::Range<u64> = 0..512 << 20;

/// Small ranges inside wide covers, by their first address.
#[derive(Default)]
struct Table {
    ranges: BTreeMap<u64, Range>,
}

#[derive(Default)]
struct Range {
    frame: AtomicU64,
    valid: AtomicBool,
    unmapped: bool,
}

/// What all covers share. It owns no `Subscription`: there is no cycle.
struct Vm {
    lock: RwLock<Table>,
    gc: mpsc::Sender<Span>,
    me: Owner,
}

struct Cover(Arc<Vm>);
type Dyn = Arc<dyn Invalidate<Locked = Table>>;

impl Invalidate for Cover {
    type Locked = Table;

    fn invalidate(&self, call: &Call<'_, Table>) -> Result<Ack, WouldBlock> {
        let event = call.event();
        if event.kind() == EventKind::Migrate && event.owner() == Some(self.0.me) {
            return Ok(call.unaffected());
        }
        let mut table = match call.is_blockable() {
            true => self.0.lock.write().unwrap(),
            false => self.0.lock.try_write().map_err(|_| call.would_block())?,
        };
        let ack = call.set_seq(&mut table);
        for range in table.ranges.range_mut(call.overlap()).map(|(_, range)| range) {
            *range.valid.get_mut() = false;
            range.unmapped |= event.kind() == EventKind::Unmap;
        }
        if event.kind() == EventKind::Unmap {
            let _ = self.0.gc.send(call.overlap());
        }
        Ok(ack)
    }
}

struct Driver {
    vm: Arc<Vm>,
    covers: BTreeMap<u64, Subscription<Cover>>,
    userptr: Vec<Subscription<Dyn>>,
    /// The process's page table.
    frames: Arc<AtomicU64>,
}

impl Driver {
    fn fault(&self, at: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let cover = self.covers.range(..=at).next_back().ok_or("no cover")?.1;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let seq = cover.read_begin_timeout(deadline.saturating_duration_since(Instant::now()))?;
            if self.vm.lock.read().unwrap().ranges.get(&at).is_some_and(|range| range.valid.load(Relaxed)) {
                return Ok(());
            }
            let frame = self.fault_pages(at)?;
            let table = self.vm.lock.read().unwrap();
            if !cover.read_retry(seq, &table) {
                return program_device(&table, at, frame);
            }
        }
    }

    /// Where the page is now; asked without a lock.
    fn fault_pages(&self, _at: u64) -> Result<u64, std::io::Error> {
        Ok(self.frames.load(Relaxed))
    }

    /// The worker that takes covers away whose addresses are gone.
    fn collect(&mut self, gone: Span) -> Option<Arc<Vm>> {
        let cover = self.covers.remove(&gone.first())?;
        let Cover(vm) = cover.unsubscribe().expect("no callback runs on the worker");
        Some(vm)
    }

    fn translate(&self, at: u64) -> Option<u64> {
        let table = self.vm.lock.read().unwrap();
        table.ranges.get(&at).filter(|range| range.valid.load(Relaxed)).map(|range| range.frame.load(Relaxed))
    }
}

fn program_device(table: &Table, at: u64, frame: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    let range = table.ranges.get(&at).filter(|range| !range.unmapped).ok_or("nothing is mapped there")?;
    range.frame.store(frame, Relaxed);
    range.valid.store(true, Relaxed);
    Ok(())
}

fn driver(space: &AddressSpace) -> (Driver, mpsc::Receiver<Span>) {
    let (gc, collected) = mpsc::channel();
    let vm = Arc::new(Vm { lock: RwLock::default(), gc, me: Owner::new() });
    vm.lock.write().unwrap().ranges.insert(PAGE, Range::default());
    let cover = space.subscribe(COVER, Cover(Arc::clone(&vm))).unwrap();
    let userptr = space.subscribe(PAGE..2 * PAGE, Arc::new(Cover(Arc::clone(&vm))) as Dyn).unwrap();
    let frames = Arc::new(AtomicU64::new(1));
    (Driver { vm, covers: BTreeMap::from([(COVER.start, cover)]), userptr: vec![userptr], frames }, collected)
}

#[test]
fn a_fault_waits_for_the_invalidation_and_finds_the_new_frame() {
    let space = AddressSpace::new();
    let (driver, _gc) = driver(&space);
    driver.fault(PAGE).unwrap();
    assert_eq!(driver.translate(PAGE), Some(1));

    thread::scope(|scope| {
        let change = space.invalidate(PAGE..2 * PAGE, EventKind::Clear);
        assert_eq!(driver.translate(PAGE), None, "nothing is mapped inside");
        let fault = scope.spawn(|| driver.fault(PAGE));
        driver.frames.store(2, Relaxed);
        change.end();
        fault.join().unwrap().unwrap();
    });
    assert_eq!(driver.translate(PAGE), Some(2));
    assert_eq!(driver.userptr[0].range(), Span::new(PAGE..2 * PAGE).unwrap());
}

#[test]
fn the_drivers_own_migration_leaves_its_table_alone() {
    let space = AddressSpace::new();
    let (driver, _gc) = driver(&space);
    driver.fault(PAGE).unwrap();
    let migrate = Event::new(EventKind::Migrate);
    space.invalidate_while(.., migrate.with_owner(driver.vm.me), || assert_eq!(driver.translate(PAGE), Some(1)));
    space.invalidate_while(.., migrate.with_owner(Owner::new()), || assert_eq!(driver.translate(PAGE), None));
}

#[test]
fn a_non_blocking_owner_is_refused_while_the_table_is_read() {
    let space = AddressSpace::new();
    let (driver, _gc) = driver(&space);
    driver.fault(PAGE).unwrap();
    let reading = driver.vm.lock.read().unwrap();
    assert!(space.try_invalidate(PAGE..2 * PAGE, EventKind::Clear).is_err());
    drop(reading);
    assert_eq!(driver.translate(PAGE), Some(1), "the refusal changed nothing");
    space.try_invalidate(PAGE..2 * PAGE, EventKind::Clear).unwrap().end();
    assert_eq!(driver.translate(PAGE), None);
}

#[test]
fn an_unmapped_cover_is_collected_by_the_worker() {
    let space = AddressSpace::new();
    let (mut driver, gc) = driver(&space);
    driver.fault(PAGE).unwrap();
    space.invalidate_while(COVER, EventKind::Unmap, || {});
    let gone = gc.recv().unwrap();
    assert_eq!(gone, Span::new(COVER).unwrap());
    assert_eq!(gc.recv().unwrap(), driver.userptr[0].range(), "ascending: the cover first");
    assert!(driver.collect(gone).is_some_and(|vm| Arc::ptr_eq(&vm, &driver.vm)));
    assert!(driver.fault(PAGE).is_err(), "no cover");
    space.invalidate_while(COVER, EventKind::Unmap, || {});
    assert_eq!(gc.try_iter().count(), 1, "only the user pointer is still called");
}
