//! The kernel's state machine, for comparison: one counter, one odd/even sequence, one list of what has to wait.
//!
//! A single-threaded reference of `mm/mmu_notifier.c`, written from a description of its behaviour, with what is odd
//! about it. Where the kernel sleeps, [`Coarse`] says that it would, and goes on as the kernel does when it wakes up.
//!
//! # Epoch
//!
//! The sequence is odd while an epoch is open. A start that hits an interval opens it, and so does an insert while
//! anything at all is being invalidated. It ends when *nothing* is being invalidated any more: only then are
//! intervals inserted or removed that could not be at once, and only then do all sleepers wake up.
//!
//! # What it does not do well
//!
//! - An interval that is inserted into an open epoch is deferred, and not called by what starts meanwhile; one that is
//!   removed there is still called.
//! - `[s, s)` hits the intervals that reach over `s`, and `[0, 0)` hits everything: the end is made inclusive by
//!   subtracting one.
//! - The release reaches up to the last address without it.
//! - A start that a notifier of the list refuses leaves the counter raised, for ever.

use std::collections::{BTreeMap, VecDeque};

/// Names an interval.
pub type IntervalId = u32;
/// Names a notifier of the list.
pub type NotifierId = u32;

/// What is called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Of an interval: a range is invalidated.
    Invalidate(IntervalId),
    /// Of an interval: the second pass.
    Finish(IntervalId),
    /// Of a notifier: a start.
    Start(NotifierId),
    /// Of a notifier: an end.
    End(NotifierId),
    /// Of a notifier: the address space goes away.
    Release(NotifierId),
}

/// What a callback answers. Notifiers `Ignore` or `Refuse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has called `mmu_interval_set_seq`.
    SetSeq,
    /// The same, and it is to be called again in the second pass.
    SetSeqAndFinish,
    /// It has not.
    Ignore,
    /// It would have to block.
    Refuse,
}

/// An interval could not be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// `-EOVERFLOW`: no length, or an end beyond the last address.
    Overflow,
    /// `-EINVAL`: the address space has no users any more.
    Invalid,
}

/// Why a start did not happen. In either case there must be no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An interval refused. It has ended for all of them.
    ByInterval,
    /// A notifier refused. It has ended for all notifiers, and for the intervals it never will.
    ByNotifier,
}

/// Does a call return at once, or sleep until the epoch ends?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// It returns at once.
    No,
    /// It sleeps.
    UntilEpochEnds,
}

/// Where an interval is in the tree: by its start, then by when it got there.
type Place = (u64, u64);

/// An interval.
#[derive(Debug)]
struct Interval {
    first: u64,
    last: u64,
    /// `invalidate_seq` of the last epoch that it was in; odd.
    seq: u64,
    /// `None` while its insertion is deferred.
    place: Option<Place>,
}

/// An address space of the kernel.
#[derive(Debug)]
pub struct Coarse {
    intervals: BTreeMap<IntervalId, Interval>,
    tree: BTreeMap<Place, IntervalId>,
    /// How many were ever put into the tree.
    placed: u64,
    /// To be inserted or removed when the epoch ends; newest first.
    deferred: VecDeque<IntervalId>,
    /// `active_invalidate_ranges`.
    active: u64,
    /// `invalidate_seq`.
    seq: u64,
    /// Newest first.
    notifiers: Vec<NotifierId>,
    released: bool,
}

impl Default for Coarse {
    fn default() -> Self {
        Coarse {
            intervals: BTreeMap::new(),
            tree: BTreeMap::new(),
            placed: 0,
            deferred: VecDeque::new(),
            active: 0,
            seq: 2,
            notifiers: Vec::new(),
            released: false,
        }
    }
}

/// The epoch.
impl Coarse {
    /// Is an epoch open?
    pub fn is_invalidating(&self) -> bool {
        self.seq % 2 == 1
    }

    /// How many invalidations have started and not ended.
    pub fn active(&self) -> u64 {
        self.active
    }

    /// Those that `[first, end)` hits, ascending.
    fn hits(&self, first: u64, end: u64) -> Vec<IntervalId> {
        let last = end.wrapping_sub(1);
        let overlaps = |id: &IntervalId| self.intervals[id].first <= last && first <= self.intervals[id].last;
        self.tree.values().copied().filter(overlaps).collect()
    }

    fn open(&mut self) {
        self.seq |= 1;
    }

    fn end_intervals(&mut self) {
        self.active -= 1;
        if self.active > 0 || !self.is_invalidating() {
            return;
        }
        self.seq += 1;
        for id in std::mem::take(&mut self.deferred) {
            match self.intervals[&id].place {
                None => self.place(id),
                Some(place) => self.forget(id, place),
            }
        }
    }

    fn place(&mut self, id: IntervalId) {
        let interval = self.intervals.get_mut(&id).expect("it was inserted");
        let place = (interval.first, self.placed);
        interval.place = Some(place);
        self.tree.insert(place, id);
        self.placed += 1;
    }

    fn forget(&mut self, id: IntervalId, place: Place) {
        self.tree.remove(&place);
        self.intervals.remove(&id);
    }
}

/// Readers.
impl Coarse {
    /// `mmu_interval_notifier_insert`.
    pub fn insert(&mut self, id: IntervalId, start: u64, length: u64) -> Result<(), InsertError> {
        if self.released {
            return Err(InsertError::Invalid);
        }
        let last = length.checked_sub(1).and_then(|more| start.checked_add(more)).ok_or(InsertError::Overflow)?;
        let was_invalidating = self.is_invalidating();
        let seq = if self.active > 0 {
            self.open();
            self.seq
        } else {
            self.seq - 1
        };
        self.intervals.insert(id, Interval { first: start, last, seq, place: None });
        if was_invalidating {
            self.deferred.push_front(id);
        } else {
            self.place(id);
        }
        Ok(())
    }

    /// Is it inserted and not in the tree yet?
    pub fn is_deferred(&self, id: IntervalId) -> bool {
        self.intervals[&id].place.is_none()
    }

    /// `mmu_interval_notifier_remove`.
    pub fn remove(&mut self, id: IntervalId) -> Sleep {
        match self.intervals[&id].place {
            None => {
                self.deferred.retain(|deferred| *deferred != id);
                self.intervals.remove(&id);
                Sleep::No
            }
            Some(_) if self.is_invalidating() => {
                self.deferred.push_front(id);
                Sleep::UntilEpochEnds
            }
            Some(place) => {
                self.forget(id, place);
                Sleep::No
            }
        }
    }

    /// `mmu_interval_read_begin`: what it returns, and whether it sleeps before.
    pub fn read_begin(&self, id: IntervalId) -> (u64, Sleep) {
        let seq = self.intervals[&id].seq;
        (seq, if seq == self.seq { Sleep::UntilEpochEnds } else { Sleep::No })
    }

    /// `mmu_interval_read_retry`.
    pub fn read_retry(&self, id: IntervalId, seq: u64) -> bool {
        self.intervals[&id].seq != seq
    }
}

/// Whoever invalidates.
impl Coarse {
    /// `mmu_notifier_invalidate_range_start` of `[first, end)`, and with `_nonblock` if not `blockable`.
    pub fn start(
        &mut self,
        (first, end): (u64, u64),
        blockable: bool,
        hear: &mut dyn FnMut(Heard) -> Answer,
    ) -> Result<(), Refused> {
        self.start_intervals((first, end), blockable, hear)?;
        // All are called, also those after one that refuses.
        let refused = self.notifiers.iter().filter(|&&id| hear(Heard::Start(id)) == Answer::Refuse).count();
        if refused > 0 && !blockable {
            self.end_notifiers(hear);
            return Err(Refused::ByNotifier);
        }
        Ok(())
    }

    fn start_intervals(
        &mut self,
        (first, end): (u64, u64),
        blockable: bool,
        hear: &mut dyn FnMut(Heard) -> Answer,
    ) -> Result<(), Refused> {
        self.active += 1;
        let hits = self.hits(first, end);
        if !hits.is_empty() {
            self.open();
        }
        let (mut finishes, mut refused) = (Vec::new(), false);
        for id in hits {
            let answer = hear(Heard::Invalidate(id));
            if matches!(answer, Answer::SetSeq | Answer::SetSeqAndFinish) {
                self.intervals.get_mut(&id).expect("it is in the tree").seq = self.seq;
            }
            if answer == Answer::SetSeqAndFinish {
                finishes.push(id);
            }
            // Where it may block, a refusal is a warning and nothing else.
            if answer == Answer::Refuse && !blockable {
                refused = true;
                break;
            }
        }
        for id in finishes {
            hear(Heard::Finish(id));
        }
        if refused {
            self.end_intervals();
            return Err(Refused::ByInterval);
        }
        Ok(())
    }

    /// `mmu_notifier_invalidate_range_end`.
    pub fn end(&mut self, hear: &mut dyn FnMut(Heard) -> Answer) {
        self.end_intervals();
        self.end_notifiers(hear);
    }

    fn end_notifiers(&self, hear: &mut dyn FnMut(Heard) -> Answer) {
        for &id in &self.notifiers {
            hear(Heard::End(id));
        }
    }

    /// `mmu_notifier_release`. Every call of it calls the intervals, the first one the notifiers.
    pub fn release(&mut self, hear: &mut dyn FnMut(Heard) -> Answer) {
        self.released = true;
        let _ = self.start_intervals((0, u64::MAX), true, hear);
        self.end_intervals();
        for id in std::mem::take(&mut self.notifiers) {
            hear(Heard::Release(id));
        }
    }

    /// `mmu_notifier_register`; false if the address space has no users any more.
    pub fn register(&mut self, id: NotifierId) -> bool {
        if !self.released {
            self.notifiers.insert(0, id);
        }
        !self.released
    }

    /// `mmu_notifier_unregister`. Tells it of the release, if nobody has.
    pub fn unregister(&mut self, id: NotifierId, hear: &mut dyn FnMut(Heard) -> Answer) {
        if let Some(at) = self.notifiers.iter().position(|listed| *listed == id) {
            hear(Heard::Release(id));
            self.notifiers.remove(at);
        }
    }
}
