//! The primary side: a process and its system calls. Each brackets its change with start and end.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use interval_notifier::{AddressSpace, Event, EventKind, Owner, WouldBlock};

use super::memory::Memory;
use super::pages::{Access, Entry, Fault, Mapping, Pages, Seen, Step, Who};

/// A secondary page table, as the oracle sees it.
pub(crate) trait Shadowed: Send + Sync {
    /// Panics if it holds anything that the page table does not have (any more).
    fn check(&self, primary: &Primary);
}

/// A process. Addresses are page numbers.
pub(crate) struct Primary {
    pub(crate) space: AddressSpace,
    pub(crate) memory: Arc<Memory>,
    pages: Mutex<Pages>,
    filled: Condvar,
    shadows: Mutex<Vec<Weak<dyn Shadowed>>>,
}

impl Primary {
    pub(crate) fn new(memory: &Arc<Memory>) -> Arc<Self> {
        Self::with(memory, Pages::new(Arc::clone(memory)))
    }

    fn with(memory: &Arc<Memory>, pages: Pages) -> Arc<Self> {
        Arc::new(Primary {
            space: AddressSpace::new(),
            memory: Arc::clone(memory),
            pages: Mutex::new(pages),
            filled: Condvar::new(),
            shadows: Mutex::default(),
        })
    }

    /// The page table. Nobody takes a mirror lock under it: the oracle takes them the other way round.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the oracle look at `shadow` from now on.
    pub(crate) fn watch(&self, shadow: Weak<dyn Shadowed>) {
        self.shadows.lock().unwrap().push(shadow);
    }

    /// The oracle, over all devices of this process.
    pub(crate) fn check(&self) {
        let shadows = self.shadows.lock().unwrap().clone();
        shadows.iter().filter_map(Weak::upgrade).for_each(|shadow| shadow.check(self));
    }

    // ---- the bracket

    fn change<R>(&self, pages: &Range<u64>, event: impl Into<Event>, change: impl FnOnce(&mut Pages) -> R) -> R {
        let result = self.space.invalidate_while(pages.clone(), event, || self.change_inside(pages, change));
        self.check();
        result
    }

    fn change_inside<R>(&self, pages: &Range<u64>, change: impl FnOnce(&mut Pages) -> R) -> R {
        self.lock().changing.push(pages.clone());
        self.check();
        thread::yield_now(); // Time for a build that nobody has stopped.
        let mut table = self.lock();
        let result = change(&mut table);
        let at = table.changing.iter().position(|range| range == pages).expect("it was put there above");
        table.changing.swap_remove(at);
        result
    }

    // ---- accesses

    /// Makes a page usable for an access, and shows what it is mapped to while the page table is locked.
    pub(crate) fn fault<R>(
        &self,
        page: u64,
        access: Access,
        who: Who,
        then: impl FnOnce(Entry, &Memory) -> R,
    ) -> Result<R, Fault> {
        loop {
            let mut table = self.lock();
            let (pages, kind) = match table.step(page, access, who)? {
                Step::Ready(entry) => return Ok(then(entry, &self.memory)),
                Step::Wait => {
                    drop(self.filled.wait(table).unwrap());
                    continue;
                }
                Step::Change(pages, kind) => (pages, kind),
            };
            drop(table);
            self.change(&pages, kind, |table| table.perform(&pages, page, access, who));
        }
    }

    /// The CPU reads a page.
    pub(crate) fn load(&self, page: u64) -> Result<u64, Fault> {
        self.fault(page, Access::Read, None, |entry, memory| memory.read(entry.frame.number))
    }

    /// The CPU writes to a page.
    pub(crate) fn store(&self, page: u64, word: u64) -> Result<(), Fault> {
        self.fault(page, Access::Write, None, |entry, memory| memory.write(entry.frame.number, word))
    }

    /// The CPU adds one to a page.
    pub(crate) fn increment(&self, page: u64) -> Result<(), Fault> {
        self.fault(page, Access::Write, None, |entry, memory| {
            memory.write(entry.frame.number, memory.read(entry.frame.number) + 1);
        })
    }

    /// What the CPU reads in a range.
    pub(crate) fn load_all(&self, pages: Range<u64>) -> Result<Vec<u64>, Fault> {
        pages.map(|page| self.load(page)).collect()
    }

    /// The CPU fills a range with `first`, `first + 1`, ...
    pub(crate) fn store_all(&self, pages: Range<u64>, first: u64) -> Result<(), Fault> {
        pages.zip(first..).try_for_each(|(page, word)| self.store(page, word))
    }

    pub(crate) fn look(&self, page: u64, who: Who) -> Option<Seen> {
        self.lock().look(page, who)
    }

    // ---- system calls

    /// Nothing was mapped there, so there is nothing to invalidate.
    pub(crate) fn map(&self, pages: Range<u64>, access: Access, mapping: Mapping) {
        self.lock().map(pages, access, mapping);
    }

    /// Resolves a fault that waits (`UFFDIO_COPY`).
    pub(crate) fn fill(&self, page: u64, word: u64) {
        self.lock().fill(page, word);
        self.filled.notify_all();
    }

    pub(crate) fn unmap(&self, pages: Range<u64>) {
        self.change(&pages, EventKind::Unmap, |table| table.unmap(&pages));
    }

    /// Puts a new mapping in the place of an old one (`mmap` with `MAP_FIXED`), in one invalidation but not in one step.
    pub(crate) fn replace(&self, pages: Range<u64>, access: Access, mapping: Mapping) {
        self.space.invalidate_while(pages.clone(), EventKind::Unmap, || {
            self.change_inside(&pages, |table| table.unmap(&pages));
            thread::yield_now();
            self.map(pages.clone(), access, mapping);
        });
        self.check();
    }

    pub(crate) fn protect(&self, pages: Range<u64>, access: Access) {
        self.change(&pages, EventKind::ProtectVma, |table| table.protect(&pages, access));
    }

    /// Drops the pages and keeps the mapping (`MADV_DONTNEED`).
    pub(crate) fn clear(&self, pages: Range<u64>) {
        self.change(&pages, EventKind::Clear, |table| table.drop_frames(&pages));
    }

    /// The same, or nothing if somebody would have to wait for it (the OOM reaper).
    pub(crate) fn reap(&self, pages: Range<u64>) -> Result<(), WouldBlock> {
        let reaping = self.space.try_invalidate(pages.clone(), EventKind::Clear)?;
        self.change_inside(&pages, |table| table.drop_frames(&pages));
        reaping.end();
        self.check();
        Ok(())
    }

    /// Moves a mapping over whatever was mapped at `to` (`mremap`); `keep` leaves the old one there, empty.
    pub(crate) fn remap(&self, from: Range<u64>, to: u64, keep: bool) {
        self.unmap(to..to + (from.end - from.start));
        self.change(&from, EventKind::Unmap, |table| table.relocate(&from, to, keep));
    }

    /// A child: private pages are copied by whoever writes first, shared ones stay shared.
    pub(crate) fn fork(&self) -> Arc<Self> {
        let all = self.lock().hull();
        Self::with(&self.memory, self.change(&all, EventKind::ProtectPage, Pages::fork))
    }

    /// The process goes away.
    pub(crate) fn exit(&self) {
        self.space.release();
        let mut table = self.lock();
        let all = table.hull();
        table.unmap(&all);
        drop(table);
        self.check();
    }

    // ---- on behalf of a device, whose own callback then ignores it

    /// Moves pages to a device; tells which are there now.
    pub(crate) fn migrate(&self, pages: &Range<u64>, to: Owner) -> Result<Vec<(u64, Entry)>, Fault> {
        if !self.lock().may_migrate(pages) {
            return Err(Fault::Invalid);
        }
        let event = Event::new(EventKind::Migrate).with_owner(to);
        let there = self.change(pages, event, |table| table.migrate(pages, to));
        if there.is_empty() { Err(Fault::Nothing) } else { Ok(there) }
    }

    /// Moves pages from a device back to RAM; tells how many.
    pub(crate) fn evict(&self, pages: &Range<u64>, from: Owner) -> u64 {
        let event = Event::new(EventKind::Migrate).with_owner(from);
        self.change(pages, event, |table| table.evict(pages, from))
    }

    /// Gives pages to one device alone, until the CPU or another device uses them; tells which it got.
    pub(crate) fn make_exclusive(&self, pages: &Range<u64>, to: Owner) -> Result<Vec<(u64, Entry)>, Fault> {
        for page in pages.clone() {
            if !self.lock().is_exclusive(page, to) {
                self.fault(page, Access::Write, None, |_, _| ())?;
            }
        }
        let event = Event::new(EventKind::Exclusive).with_owner(to);
        Ok(self.change(pages, event, |table| table.make_exclusive(pages, to)))
    }
}
