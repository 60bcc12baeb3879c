//! One process's page table, and what faults and system calls do to it. Who brackets the changes is `primary.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use interval_notifier::{EventKind, Owner};

use super::memory::{Frame, HUGE, Memory, ZERO};

/// What a mapping permits, and what an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    None,
    Read,
    Write,
}

/// Why an access or a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is mapped there, or it may not even be read: `-EFAULT`.
    Address,
    /// It may be read only: `-EPERM`.
    Permission,
    /// The command is not for such pages: `-EINVAL`.
    Invalid,
    /// There was nothing to do: `-ENOENT`.
    Nothing,
    /// The range changed all the time: `-EBUSY`.
    Busy,
    /// The process is gone: `-ESRCH`.
    Gone,
}

/// Who asks for a page: a device, which can use its own memory, or the CPU, which cannot.
pub(crate) type Who = Option<Owner>;

#[derive(Clone, Copy, Debug)]
struct Page {
    access: Access,
    /// Shared with children after a fork, not copied on write.
    shared: bool,
    /// Part of a huge page: a block of `HUGE` pages, aligned, that are in the same state.
    huge: bool,
    frame: Option<Frame>,
    exclusive: Who,
    /// A thread of the process itself has to fill the page before anybody can use it (`userfaultfd`).
    missing: bool,
}

/// How a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    Private,
    Shared,
    Huge,
    /// Faults wait for [`Pages::fill`].
    Filled,
}

/// What the page table says of a page: what a shadow page table may hold, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) frame: Frame,
    pub(crate) write: bool,
    pub(crate) exclusive: bool,
}

/// What a snapshot tells of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) access: Access,
    pub(crate) zero: bool,
    /// In the memory of the device that asks.
    pub(crate) local: bool,
    pub(crate) huge: bool,
}

/// What is to be done before a page can be used.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Nothing.
    Ready(Entry),
    /// Wait until it has been filled.
    Wait,
    /// Change these pages, inside an invalidation of them.
    Change(Range<u64>, EventKind),
}

pub(crate) struct Pages {
    memory: Arc<Memory>,
    map: BTreeMap<u64, Page>,
    /// What is being changed just now: no device may map anything of it.
    pub(crate) changing: Vec<Range<u64>>,
}

/// The aligned block that a huge page at `page` would be.
fn block(page: u64) -> Range<u64> {
    let first = page / HUGE * HUGE;
    first..first + HUGE
}

fn is_within(inner: &Range<u64>, outer: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

impl Pages {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Pages { memory, map: BTreeMap::new(), changing: Vec::new() }
    }

    pub(crate) fn map(&mut self, pages: Range<u64>, access: Access, mapping: Mapping) {
        let (shared, huge) = (mapping == Mapping::Shared, mapping == Mapping::Huge);
        let missing = mapping == Mapping::Filled;
        assert!(!huge || pages.start % HUGE == 0 && pages.end % HUGE == 0, "huge pages are aligned");
        for page in pages {
            // Shared pages are there from the start, as those of a file: parents and children must find the same ones.
            let frame = shared.then(|| self.memory.alloc(None));
            let previous = self.map.insert(page, Page { access, shared, huge, frame, exclusive: None, missing });
            assert!(previous.is_none(), "unmap it first");
        }
    }

    // ---- faults

    /// Looks what an access to `page` takes. Pages that nobody has touched yet are populated here: there is nothing to
    /// invalidate.
    pub(crate) fn step(&mut self, page: u64, access: Access, who: Who) -> Result<Step, Fault> {
        let found = *self.map.get(&page).ok_or(Fault::Address)?;
        if found.access < access {
            return Err(if found.access == Access::None { Fault::Address } else { Fault::Permission });
        }
        if found.missing {
            return Ok(Step::Wait);
        }
        let Some(frame) = found.frame else {
            self.populate(page, access);
            return self.step(page, access, who);
        };
        let unit = if found.huge { block(page) } else { page..page + 1 };
        let copy = access == Access::Write && !found.shared && self.memory.is_shared(frame);
        Ok(if found.exclusive.is_some() && found.exclusive != who {
            Step::Change(page..page + 1, EventKind::Clear)
        } else if frame.home.is_some() && frame.home != who {
            Step::Change(unit, EventKind::Migrate)
        } else if copy {
            Step::Change(if frame == ZERO { unit } else { page..page + 1 }, EventKind::Clear)
        } else {
            Step::Ready(self.entry(&found, frame))
        })
    }

    fn entry(&self, page: &Page, frame: Frame) -> Entry {
        let write = page.access == Access::Write && (page.shared || !self.memory.is_shared(frame));
        Entry { frame, write, exclusive: page.exclusive.is_some() }
    }

    /// Does what [`step`](Self::step) asks for, as far as it is still to be done and lies in `pages`: the process has
    /// gone on since the look.
    pub(crate) fn perform(&mut self, pages: &Range<u64>, page: u64, access: Access, who: Who) {
        let Ok(Step::Change(now, kind)) = self.step(page, access, who) else { return };
        if !is_within(&now, pages) {
            return;
        }
        let revoke = kind == EventKind::Clear && self.map[&page].exclusive.is_some();
        if revoke {
            self.map.get_mut(&page).expect("the step found it").exclusive = None;
        } else {
            self.split(&now);
            self.renew(&now, None);
        }
    }

    fn populate(&mut self, page: u64, access: Access) {
        let pages = if self.map[&page].huge { block(page) } else { page..page + 1 };
        if access == Access::Write {
            self.renew(&pages, None);
        } else {
            self.map.range_mut(pages).for_each(|(_, page)| page.frame = Some(ZERO));
        }
    }

    /// Gives each of `pages` a frame of its own at `home`, with what it holds. A whole huge page stays one, if there are
    /// contiguous frames.
    fn renew(&mut self, pages: &Range<u64>, home: Who) {
        let huge = self.map.range(pages.clone()).all(|(_, page)| page.huge);
        let first = huge.then(|| self.memory.alloc_huge(home)).flatten();
        for (at, page) in self.map.range_mut(pages.clone()) {
            let frame = match first {
                Some(first) => Frame { number: first.number + (at - pages.start), home },
                None => self.memory.alloc(home),
            };
            if let Some(old) = page.frame.replace(frame) {
                self.memory.write(frame.number, self.memory.read(old.number));
                self.memory.put(old);
            }
            page.huge = first.is_some();
        }
    }

    /// Makes small pages of the huge ones that are not wholly in `pages`.
    fn split(&mut self, pages: &Range<u64>) {
        for edge in [block(pages.start), block(pages.end.saturating_sub(1))] {
            if !is_within(&edge, pages) {
                self.map.range_mut(edge).for_each(|(_, page)| page.huge = false);
            }
        }
    }

    /// A thread of the process fills a page that others wait for.
    pub(crate) fn fill(&mut self, page: u64, word: u64) {
        self.renew(&(page..page + 1), None);
        let page = self.map.get_mut(&page).expect("it is mapped");
        page.missing = false;
        self.memory.write(page.frame.expect("it has just been populated").number, word);
    }

    // ---- system calls, inside an invalidation

    pub(crate) fn unmap(&mut self, pages: &Range<u64>) {
        self.drop_frames(pages);
        self.map.extract(pages).for_each(drop);
    }

    /// The pages are dropped, the mapping stays.
    pub(crate) fn drop_frames(&mut self, pages: &Range<u64>) {
        self.split(pages);
        for (_, page) in self.map.range_mut(pages.clone()) {
            page.exclusive = None;
            page.frame.take().into_iter().for_each(|frame| self.memory.put(frame));
        }
    }

    pub(crate) fn protect(&mut self, pages: &Range<u64>, access: Access) {
        self.split(pages);
        for (_, page) in self.map.range_mut(pages.clone()) {
            page.access = access;
            page.exclusive = None;
        }
    }

    /// Moves mappings, and with them frames, to another address; `keep` leaves the old mappings there, empty.
    pub(crate) fn relocate(&mut self, from: &Range<u64>, to: u64, keep: bool) {
        self.split(from);
        let is_aligned = from.start % HUGE == to % HUGE;
        let moved: Vec<_> = self.map.extract(from).collect();
        for (at, mut page) in moved {
            if keep {
                self.map.insert(at, Page { frame: None, exclusive: None, ..page });
            }
            page.exclusive = None;
            page.huge &= is_aligned;
            let previous = self.map.insert(at - from.start + to, page);
            assert!(previous.is_none(), "unmap it first");
        }
    }

    /// The page table of a child. Ours becomes read-only where a frame is shared with it from now on.
    pub(crate) fn fork(&mut self) -> Self {
        self.map.values_mut().for_each(|page| page.exclusive = None);
        self.map.values().filter_map(|page| page.frame).for_each(|frame| self.memory.get(frame));
        Pages { memory: Arc::clone(&self.memory), map: self.map.clone(), changing: Vec::new() }
    }

    /// May a device ask for these pages at all?
    pub(crate) fn may_migrate(&self, pages: &Range<u64>) -> bool {
        let is_mapped = |page| self.map.get(&page).is_some_and(|page| page.access != Access::None);
        pages.clone().all(is_mapped)
    }

    /// The pages and huge pages that `pages` consists of.
    fn units(&mut self, pages: &Range<u64>) -> Vec<Range<u64>> {
        self.split(pages);
        let unit = |(&at, page): (&u64, &Page)| match page.huge {
            false => Some(at..at + 1),
            true => (block(at).start == at).then(|| block(at)),
        };
        self.map.range(pages.clone()).filter_map(unit).collect()
    }

    /// Moves pages into the memory of a device, as far as they can be moved: shared mappings, frames with other users
    /// and pages on another device stay where they are. Tells which are there now.
    pub(crate) fn migrate(&mut self, pages: &Range<u64>, to: Owner) -> Vec<(u64, Entry)> {
        for unit in self.units(pages) {
            if unit.clone().all(|page| self.can_move(&self.map[&page])) {
                self.renew(&unit, Some(to));
            }
        }
        self.at_home(pages, to)
    }

    fn can_move(&self, page: &Page) -> bool {
        let is_free = |frame: Frame| frame == ZERO || frame.home.is_none() && !self.memory.is_shared(frame);
        !page.shared && !page.missing && page.exclusive.is_none() && page.frame.is_none_or(is_free)
    }

    /// Moves what is in the memory of a device back to RAM. Tells how many pages.
    pub(crate) fn evict(&mut self, pages: &Range<u64>, from: Owner) -> u64 {
        let units = self.units(pages);
        let there = self.at_home(pages, from);
        let is_there = |unit: &&Range<u64>| there.iter().any(|(page, _)| unit.start == *page);
        units.iter().filter(is_there).for_each(|unit| self.renew(unit, None));
        there.len() as u64
    }

    fn at_home(&self, pages: &Range<u64>, home: Owner) -> Vec<(u64, Entry)> {
        let entry = |(at, page): (&u64, &Page)| Some((*at, self.entry(page, page.frame?)));
        let is_home = |(_, entry): &(u64, Entry)| entry.frame.home == Some(home);
        self.map.range(pages.clone()).filter_map(entry).filter(is_home).collect()
    }

    /// Gives pages that the CPU could write to just now to one device alone; tells which it has now.
    pub(crate) fn make_exclusive(&mut self, pages: &Range<u64>, to: Owner) -> Vec<(u64, Entry)> {
        let mut given = Vec::new();
        for at in pages.clone() {
            let who = self.is_exclusive(at, to).then_some(to);
            if let Ok(Step::Ready(entry)) = self.step(at, Access::Write, who) {
                self.map.get_mut(&at).expect("the step found it").exclusive = Some(to);
                given.push((at, Entry { exclusive: true, ..entry }));
            }
        }
        given
    }

    pub(crate) fn is_exclusive(&self, page: u64, to: Owner) -> bool {
        self.map.get(&page).is_some_and(|page| page.exclusive == Some(to))
    }

    // ---- looks

    /// What a device would see, if it took nothing that is not there; `None` if that is an error.
    pub(crate) fn look(&self, page: u64, who: Who) -> Option<Seen> {
        let page = self.map.get(&page).filter(|page| page.access != Access::None)?;
        let usable = page.frame.filter(|frame| frame.home.is_none() || frame.home == who);
        let usable = usable.filter(|_| page.exclusive.is_none() || page.exclusive == who);
        Some(match usable {
            None => Seen { access: Access::None, zero: false, local: false, huge: false },
            Some(frame) => Seen {
                access: if self.entry(page, frame).write { Access::Write } else { Access::Read },
                zero: frame == ZERO,
                local: frame.home.is_some(),
                huge: page.huge,
            },
        })
    }

    /// The oracle: what is wrong with a device's entry for `page`, if anything.
    pub(crate) fn objection(&self, page: u64, entry: (u64, bool, bool), who: Owner) -> Option<&'static str> {
        let (number, write, exclusive) = entry;
        let Some(found) = self.map.get(&page) else { return Some("nothing is mapped there") };
        let Some(frame) = found.frame else { return Some("the page was dropped") };
        let objections = [
            (self.changing.iter().any(|range| range.contains(&page)), "it is being changed"),
            (frame.number != number, "another frame is mapped there"),
            (found.access == Access::None, "it may not be read"),
            (write && !self.entry(found, frame).write, "it may not be written to"),
            (exclusive != (found.exclusive == Some(who)), "it is exclusive on one side only"),
            (found.exclusive.is_some_and(|owner| owner != who), "it is exclusive to another device"),
            (frame.home.is_some_and(|home| home != who), "it is in the memory of another device"),
        ];
        objections.into_iter().find_map(|(holds, what)| holds.then_some(what))
    }

    /// From the first to the last page that is mapped.
    pub(crate) fn hull(&self) -> Range<u64> {
        let first = self.map.first_key_value().map_or(0, |(page, _)| *page);
        first..self.map.last_key_value().map_or(first, |(page, _)| page + 1)
    }
}

/// `BTreeMap::extract_if` for a range, which is too new.
trait Extract {
    fn extract(&mut self, pages: &Range<u64>) -> impl Iterator<Item = (u64, Page)>;
}

impl Extract for BTreeMap<u64, Page> {
    fn extract(&mut self, pages: &Range<u64>) -> impl Iterator<Item = (u64, Page)> {
        let mut taken = self.split_off(&pages.start);
        let mut rest = taken.split_off(&pages.end);
        self.append(&mut rest);
        taken.into_iter()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let all = self.hull();
        self.drop_frames(&all);
    }
}
