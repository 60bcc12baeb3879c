//! A range that is mirrored: what its owner has there, and what the mirror holds of it.
//!
//! A region is cut into at most 64 **cells**. Each has a **stamp** that says which call of the trace changed it last, and
//! whether it still does: a changed cell is another one, as a remapped page is. The mirror holds for a cell the stamp
//! that its builder has read. So whoever has the mirror lock can tell whether what is held is true, and if not, which
//! calls the mirror has missed.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
const MOST_CELLS: u64 = 64;

/// Which call changed a cell last: its line in the trace.
///
/// A cell gets a stamp at most once, so that one which has changed and changed back is not taken for unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(NonZeroU64);

impl Stamp {
    /// The call in this line is at it.
    pub(crate) fn changing(line: u64) -> Self {
        Stamp(NonZeroU64::new(2 * line).expect("lines count from 1"))
    }

    /// The call in this line has returned.
    pub(crate) fn left_by(line: u64) -> Self {
        Stamp(NonZeroU64::MIN.saturating_add(2 * line))
    }

    pub(crate) fn is_changing(self) -> bool {
        self.0.get() % 2 == 0
    }

    pub(crate) fn line(self) -> u64 {
        (self.0.get() - u64::from(!self.is_changing())) / 2
    }
}

/// What the mirror holds of a region, for each cell: what the mirror lock protects.
#[derive(Debug)]
pub(crate) struct Held(Box<[Option<Stamp>]>);

impl Held {
    pub(crate) fn get(&self, cell: usize) -> Option<Stamp> {
        self.0[cell]
    }

    pub(crate) fn install(&mut self, cell: usize, stamp: Stamp) {
        self.0[cell] = Some(stamp);
    }

    fn remove(&mut self, cells: Range<usize>) {
        self.0[cells].fill(None);
    }

    /// The first of these cells that is held.
    pub(crate) fn any(&self, mut cells: Range<usize>) -> Option<(usize, Stamp)> {
        cells.find_map(|cell| Some((cell, self.0[cell]?)))
    }
}

/// A mapping, or a window of one.
#[derive(Debug)]
pub(crate) struct Region {
    range: Range<u64>,
    /// How many addresses a cell has.
    grain: u64,
    /// The owner's side. SeqCst as all here: the engine has to order them, and what is weaker could be blamed instead.
    stamps: Box<[AtomicU64]>,
    /// The mirror's side, behind the mirror lock.
    held: Mutex<Held>,
    /// How many invalidations have called back.
    collisions: AtomicU64,
    /// How many of them while the region was mapped.
    hits: AtomicU64,
    mapped: AtomicBool,
    /// How many overlapping invalidations are open: raised before the start, lowered after the end.
    open: AtomicUsize,
}

impl Region {
    /// A range that is not empty, and a stamp for each part of it.
    pub(crate) fn new(range: Range<u64>, stamp: impl Fn(Range<u64>) -> Stamp) -> Self {
        let pages = (range.end - range.start).div_ceil(PAGE);
        let grain = pages.div_ceil(MOST_CELLS) * PAGE;
        let count = (range.end - range.start).div_ceil(grain);
        let part = |cell| cell_of(&range, grain, cell);
        let stamps: Box<_> = (0..count).map(|cell| AtomicU64::new(stamp(part(cell)).0.get())).collect();
        let held = Mutex::new(Held(vec![None; stamps.len()].into()));
        Region {
            range,
            grain,
            stamps,
            held,
            collisions: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            mapped: AtomicBool::new(true),
            open: AtomicUsize::new(0),
        }
    }

    pub(crate) fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// The addresses of a cell.
    pub(crate) fn cell(&self, cell: usize) -> Range<u64> {
        cell_of(&self.range, self.grain, cell as u64)
    }

    /// The cell that an address is in, or the nearest.
    pub(crate) fn cell_at(&self, address: u64) -> usize {
        let cell = address.saturating_sub(self.range.start) / self.grain;
        cell.min(self.stamps.len() as u64 - 1) as usize
    }

    /// The cells that have an address of `range`.
    pub(crate) fn cells(&self, range: &Range<u64>) -> Range<usize> {
        let (start, end) = (range.start.max(self.range.start), range.end.min(self.range.end));
        if start >= end { 0..0 } else { self.cell_at(start)..self.cell_at(end - 1) + 1 }
    }

    pub(crate) fn stamp(&self, cell: usize) -> Stamp {
        Stamp(NonZeroU64::new(self.stamps[cell].load(SeqCst)).expect("only stamps are stored"))
    }

    /// The owner changes a range.
    pub(crate) fn set_stamps(&self, range: &Range<u64>, stamp: Stamp) {
        self.stamps[self.cells(range)].iter().for_each(|old| old.store(stamp.0.get(), SeqCst));
    }

    /// The mirror lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The callback of every engine: takes the mirror lock, sets the engine's sequence, drops what is not true any more.
    ///
    /// Collisions are counted last, so that a builder who counted before its begin, and is told to retry, finds one more.
    pub(crate) fn invalidate<R>(&self, range: &Range<u64>, set_seq: impl FnOnce(&mut Held) -> R) -> R {
        let mut held = self.lock();
        held.remove(self.cells(range));
        let answer = set_seq(&mut held);
        self.collisions.fetch_add(1, SeqCst);
        self.hits.fetch_add(u64::from(self.mapped.load(SeqCst)), SeqCst);
        answer
    }

    /// The owner has unmapped it. Until its subscription has ended too it is still called back.
    pub(crate) fn unmapped(&self) {
        self.mapped.store(false, SeqCst);
    }

    /// How many invalidations have called back while it was mapped.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(SeqCst)
    }

    pub(crate) fn collisions(&self) -> u64 {
        self.collisions.load(SeqCst)
    }

    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, SeqCst);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, SeqCst);
    }

    /// May a begin wait now?
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(SeqCst) > 0
    }
}

fn cell_of(range: &Range<u64>, grain: u64, cell: u64) -> Range<u64> {
    let start = range.start + cell * grain;
    start..start.saturating_add(grain).min(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(range: Range<u64>) -> Region {
        Region::new(range, |_| Stamp::left_by(1))
    }

    #[test]
    fn a_stamp_names_its_call_and_whether_it_has_returned() {
        for line in [1, 2, 9_330] {
            let (during, after) = (Stamp::changing(line), Stamp::left_by(line));
            assert_eq!((during.line(), during.is_changing()), (line, true));
            assert_eq!((after.line(), after.is_changing()), (line, false));
        }
    }

    #[test]
    fn cells_cover_the_region_and_are_at_most_64() {
        for pages in [1, 2, 63, 64, 65, 1000, 32_768] {
            let region = region(0x7000..0x7000 + pages * PAGE);
            let count = region.stamps.len();
            assert!(count as u64 == pages.min(64) || (33..=64).contains(&count), "{pages} pages, {count} cells");
            let mut at = region.range.start;
            for cell in 0..count {
                let range = region.cell(cell);
                assert_eq!((range.start, region.cell_at(range.end - 1)), (at, cell));
                at = range.end;
            }
            assert_eq!(at, region.range.end);
        }
    }

    #[test]
    fn a_range_touches_every_cell_it_has_an_address_of() {
        let region = region(0x1000..0x5000);
        for (range, cells) in [
            (0..0x1000, 0..0),
            (0..0x1001, 0..1),
            (0x1fff..0x2001, 0..2),
            (0x2000..0x4000, 1..3),
            (0..u64::MAX, 0..4),
            (0x5000..0x6000, 0..0),
            (0x3000..0x3000, 0..0),
        ] {
            assert_eq!(region.cells(&range), cells, "{range:x?}");
        }
    }

    #[test]
    fn a_callback_drops_what_it_overlaps_and_is_counted() {
        let region = region(0x1000..0x4000);
        (0..3).for_each(|cell| region.lock().install(cell, region.stamp(cell)));
        region.invalidate(&(0x2800..0x2900), |_| ());
        assert_eq!(region.lock().any(0..3), Some((0, Stamp::left_by(1))));
        assert_eq!(region.lock().any(1..2), None);
        assert_eq!(region.lock().get(2), Some(Stamp::left_by(1)));
        assert_eq!(region.collisions(), 1);
    }
}
