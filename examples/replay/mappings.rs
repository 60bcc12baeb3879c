//! What the traced program has mapped, and a subscription for each mapping or window of one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{AddAssign, Range};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::region::{Held, Region, Stamp};
use crate::rival::{Engine, Ops};
use crate::trace::Call;

/// How many of the ranges that the program used last a device may fault in.
const RECENT: usize = 64;

/// What an engine calls back.
pub(crate) struct Mirrored(pub(crate) Arc<Region>);

impl Ops for Mirrored {
    type Locked = Held;

    fn invalidate<R>(&self, range: Range<u64>, set_seq: impl FnOnce(&mut Held) -> R) -> R {
        self.0.invalidate(&range, set_seq)
    }
}

/// A region and its subscription. Whoever drops it last only hands the subscription to the janitor: to end one may
/// mean to wait for invalidations (the kernel's way), and the owner in whose bracket that happened would wait for itself.
pub(crate) struct Live<S> {
    pub(crate) region: Arc<Region>,
    sub: Option<S>,
    janitor: Sender<S>,
}

impl<S> Live<S> {
    pub(crate) fn sub(&self) -> &S {
        self.sub.as_ref().expect("only drop takes it")
    }
}

impl<S> Drop for Live<S> {
    fn drop(&mut self) {
        // If the janitor is gone a thread has panicked, and the run is over.
        self.sub.take().map(|sub| self.janitor.send(sub).ok());
    }
}

pub(crate) type Shared<S> = Arc<Live<S>>;

/// The table of live regions, which never overlap.
pub(crate) struct Mappings<'a, E: Engine<Mirrored>> {
    engine: &'a E,
    window: Option<u64>,
    janitor: Sender<E::Sub>,
    table: RwLock<Table<E::Sub>>,
    recent: Mutex<VecDeque<Range<u64>>>,
}

struct Table<S> {
    /// By their first address.
    live: BTreeMap<u64, Shared<S>>,
    /// The calls between open and close.
    open: Vec<Open>,
    counts: Counts,
}

/// A call between open and close.
struct Open {
    line: u64,
    /// What it changes.
    range: Range<u64>,
    /// Is it between change and apply?
    at_it: bool,
    /// What it found there, and what was born there since. The table does not do for that: another call may take a
    /// region out of it, also one that was born meanwhile, and a builder may still hold it.
    regions: Vec<Arc<Region>>,
}

impl Open {
    fn admit(&mut self, region: &Arc<Region>) {
        region.opened();
        self.regions.push(Arc::clone(region));
    }
}

/// How many subscriptions there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) made: usize,
    /// At most, at one time.
    pub(crate) most: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.made += other.made;
        self.most = self.most.max(other.most);
    }
}

impl<'a, E: Engine<Mirrored>> Mappings<'a, E> {
    pub(crate) fn new(engine: &'a E, window: Option<u64>, janitor: Sender<E::Sub>) -> Self {
        let table = RwLock::new(Table { live: BTreeMap::new(), open: Vec::new(), counts: Counts::default() });
        Mappings { engine, window, janitor, table, recent: Mutex::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.read().counts
    }

    /// Says in all regions of a call's range that a begin may have to wait from now on. To be called before the start.
    pub(crate) fn open(&self, call: &Call) {
        let range = call.effect.change.clone();
        let mut table = self.write();
        let hit = table.overlapping(&range);
        let mut open = Open { line: call.line, range, at_it: false, regions: Vec::new() };
        hit.iter().for_each(|live| open.admit(&live.region));
        table.open.push(open);
    }

    /// Takes it back, also in those that have come or gone meanwhile. To be called after the end.
    pub(crate) fn close(&self, call: &Call) {
        let mut table = self.write();
        if let Some(index) = table.open.iter().position(|open| open.line == call.line) {
            table.open.swap_remove(index).regions.iter().for_each(|region| region.closed());
        }
    }

    /// A call changes its range: from here to its return the cells say so. Gives the regions concerned.
    ///
    /// What replaces a mapping does so here, inside the bracket, so that regions are born while an invalidation that
    /// overlaps them is active; its return is far enough away for a builder to come by.
    pub(crate) fn change(&self, call: &Call) -> Vec<Shared<E::Sub>> {
        let range = &call.effect.change;
        let mut table = self.write();
        table.opened_by(call).expect("it is open").at_it = true;
        let hit = table.overlapping(range);
        hit.iter().for_each(|live| live.region.set_stamps(range, Stamp::changing(call.line)));
        if call.effect.replaces() {
            // They are among those that were hit.
            drop(self.map(&mut table, range, call.line));
        }
        drop(table);
        self.touch(range);
        hit
    }

    /// A call returns: its cells are changed, also in what it or another call has replaced; what it unmaps is gone and
    /// what it maps is there. Gives the regions that are gone, which must not be dropped before the end.
    pub(crate) fn apply(&self, call: &Call) -> Vec<Shared<E::Sub>> {
        let effect = &call.effect;
        let mut table = self.write();
        if let Some(open) = table.opened_by(call) {
            open.at_it = false;
            open.regions.iter().for_each(|region| region.set_stamps(&effect.change, Stamp::left_by(call.line)));
        }
        if effect.replaces() {
            return Vec::new();
        }
        let mut gone = self.unmap(&mut table, &effect.unmap, call.line);
        gone.extend(self.map(&mut table, &effect.map, call.line));
        drop(table);
        self.touch(&effect.map);
        gone
    }

    /// Puts `range` into the table, and takes out what is there: there may be what the trace has forgotten to unmap.
    fn map(&self, table: &mut Table<E::Sub>, range: &Range<u64>, line: u64) -> Vec<Shared<E::Sub>> {
        let gone = self.unmap(table, range, line);
        windows(range.clone(), self.window).for_each(|window| self.add(table, window, line));
        gone
    }

    /// Takes `range` out of the table; what sticks out at its sides becomes regions of its own.
    fn unmap(&self, table: &mut Table<E::Sub>, range: &Range<u64>, line: u64) -> Vec<Shared<E::Sub>> {
        let gone = table.overlapping(range);
        for live in &gone {
            let old = &live.region;
            table.live.remove(&old.range().start);
            old.unmapped();
            let sides = [old.range().start..range.start, range.end..old.range().end];
            for side in sides.into_iter().filter(|side| !side.is_empty()) {
                self.add(table, side, line);
            }
        }
        gone
    }

    /// A new region, that the call in this line leaves there.
    fn add(&self, table: &mut Table<E::Sub>, range: Range<u64>, line: u64) {
        let region = Arc::new(Region::new(range, |cell| table.stamp(&cell, line)));
        let open = table.open.iter_mut().filter(|open| overlap(&open.range, region.range()));
        open.for_each(|open| open.admit(&region));
        let sub = self.engine.subscribe(region.range().clone(), Mirrored(Arc::clone(&region)));
        let start = region.range().start;
        let live = Live { region, sub: Some(sub), janitor: self.janitor.clone() };
        table.live.insert(start, Arc::new(live));
        table.counts.made += 1;
        table.counts.most = table.counts.most.max(table.live.len());
    }

    /// A region to fault in, and an address in it: somewhere in a range that the program has used lately.
    pub(crate) fn pick(&self, random: &mut fastrand::Rng) -> Option<(Shared<E::Sub>, u64)> {
        let recent = self.recent();
        let range = recent.get(random.usize(..recent.len().max(1)))?.clone();
        drop(recent);
        let address = random.u64(range);
        let live = self.read().covering(address)?;
        Some((live, address))
    }

    fn touch(&self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut recent = self.recent();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(range.clone());
    }

    fn read(&self) -> RwLockReadGuard<'_, Table<E::Sub>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table<E::Sub>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Range<u64>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Table<S> {
    fn overlapping(&self, range: &Range<u64>) -> Vec<Shared<S>> {
        let before = self.live.range(..range.end).rev();
        before.take_while(|(_, live)| live.region.range().end > range.start).map(|(_, live)| Arc::clone(live)).collect()
    }

    /// What a new cell says, which the call in this line leaves there; another call may be at it.
    fn stamp(&self, cell: &Range<u64>, line: u64) -> Stamp {
        let at_it = self.open.iter().find(|open| open.at_it && overlap(&open.range, cell));
        at_it.map_or(Stamp::left_by(line), |open| Stamp::changing(open.line))
    }

    /// What there is of a call between open and close; a call that changes nothing is never opened.
    fn opened_by(&mut self, call: &Call) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.line == call.line)
    }

    fn covering(&self, address: u64) -> Option<Shared<S>> {
        let (_, live) = self.live.range(..=address).next_back()?;
        live.region.range().contains(&address).then(|| Arc::clone(live))
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The parts of `range` that lie in different windows of the address space; all of it, if there are none.
fn windows(range: Range<u64>, window: Option<u64>) -> impl Iterator<Item = Range<u64>> {
    let size = window.unwrap_or(u64::MAX);
    let mut start = range.start;
    std::iter::from_fn(move || {
        let next = (start / size + 1).saturating_mul(size).min(range.end);
        let part = start..next;
        start = next;
        (!part.is_empty()).then_some(part)
    })
}

/// How many parts that gives, without making them.
pub(crate) fn count_windows(range: &Range<u64>, size: u64) -> u64 {
    if range.is_empty() { 0 } else { (range.end - 1) / size - range.start / size + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rival::Interval;
    use crate::trace::Effect;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const PAGE: u64 = 0x1000;

    fn call(line: u64, effect: Effect) -> Call {
        Call { line, thread: 0, op: "mmap".to_owned(), begin: Duration::ZERO, end: Duration::ZERO, effect }
    }

    fn map(range: Range<u64>) -> Effect {
        Effect { map: range, ..Effect::default() }
    }

    fn unmap(range: Range<u64>) -> Effect {
        Effect { change: range.clone(), unmap: range, ..Effect::default() }
    }

    /// The regions that are left after these calls, one after the other.
    fn left_after(window: Option<u64>, effects: &[Effect]) -> Vec<Range<u64>> {
        let (engine, (janitor, retired)) = (Interval::default(), channel());
        let mappings = Mappings::new(&engine, window, janitor);
        for (line, effect) in (1..).zip(effects) {
            let call = call(line, effect.clone());
            mappings.open(&call);
            let hit = mappings.change(&call);
            drop(mappings.apply(&call));
            mappings.close(&call);
            drop(hit);
        }
        let left =
            mappings.read().overlapping(&(0..u64::MAX)).iter().rev().map(|live| live.region.range().clone()).collect();
        let made = mappings.counts().made;
        drop(mappings);
        assert_eq!(retired.iter().count(), made, "every subscription goes to the janitor");
        left
    }

    #[test]
    fn an_unmap_cuts_what_sticks_out() {
        // mapped  1---------5      7--8
        // unmapped     3-------6
        let mapped = [map(PAGE..5 * PAGE), map(7 * PAGE..8 * PAGE)];
        let cut = [&mapped[..], &[unmap(3 * PAGE..6 * PAGE)]].concat();
        assert_eq!(left_after(None, &cut), [PAGE..3 * PAGE, 7 * PAGE..8 * PAGE]);
        let hole = [&mapped[..], &[unmap(2 * PAGE..3 * PAGE)]].concat();
        assert_eq!(left_after(None, &hole), [PAGE..2 * PAGE, 3 * PAGE..5 * PAGE, 7 * PAGE..8 * PAGE]);
        let all = [&mapped[..], &[unmap(0..9 * PAGE)]].concat();
        assert_eq!(left_after(None, &all), []);
    }

    #[test]
    fn a_mapping_replaces_what_the_trace_forgot_to_unmap() {
        let left = left_after(None, &[map(PAGE..5 * PAGE), map(2 * PAGE..9 * PAGE)]);
        assert_eq!(left, [PAGE..2 * PAGE, 2 * PAGE..9 * PAGE]);
    }

    #[test]
    fn windows_lie_where_the_address_space_has_them() {
        let window = Some(4 * PAGE);
        let left = left_after(window, &[map(3 * PAGE..9 * PAGE), unmap(5 * PAGE..6 * PAGE)]);
        assert_eq!(left, [3 * PAGE..4 * PAGE, 4 * PAGE..5 * PAGE, 6 * PAGE..8 * PAGE, 8 * PAGE..9 * PAGE]);
        for range in [0..0, PAGE..PAGE, 0..4 * PAGE, PAGE..9 * PAGE, 7 * PAGE..8 * PAGE + 1] {
            assert_eq!(count_windows(&range, 4 * PAGE), windows(range, window).count() as u64);
        }
        assert!(windows(5..u64::MAX, None).eq(std::iter::once(5..u64::MAX)));
    }

    #[test]
    fn what_another_call_is_at_says_so_in_the_new_region_too() {
        let (engine, (janitor, _retired)) = (Interval::default(), channel());
        let mappings = Mappings::new(&engine, None, janitor);
        mappings.apply(&call(1, map(0..4 * PAGE)));
        let protect = call(2, Effect { change: 3 * PAGE..4 * PAGE, ..Effect::default() });
        let cut = call(3, unmap(0..PAGE));
        for call in [&protect, &cut] {
            mappings.open(call);
            mappings.change(call);
        }
        mappings.apply(&cut);
        let stamps = || {
            let live = mappings.read().covering(PAGE).unwrap();
            (0..3).map(|cell| live.region.stamp(cell)).collect::<Vec<_>>()
        };
        assert_eq!(stamps(), [Stamp::left_by(3), Stamp::left_by(3), Stamp::changing(2)]);
        mappings.apply(&protect);
        assert_eq!(stamps(), [Stamp::left_by(3), Stamp::left_by(3), Stamp::left_by(2)]);
    }

    #[test]
    fn what_was_born_inside_a_call_and_is_gone_hears_of_its_return() {
        let (engine, (janitor, _retired)) = (Interval::default(), channel());
        let mappings = Mappings::new(&engine, None, janitor);
        let protect = call(1, Effect { change: 0..4 * PAGE, ..Effect::default() });
        mappings.open(&protect);
        mappings.change(&protect);
        mappings.apply(&call(2, map(0..4 * PAGE)));
        let whole = mappings.read().covering(0).unwrap();
        mappings.apply(&call(3, map(PAGE..2 * PAGE)));
        let split = mappings.read().covering(3 * PAGE).unwrap();
        mappings.apply(&call(4, map(0..4 * PAGE)));
        let born = [&whole.region, &split.region];
        assert_eq!(born.map(|region| (region.stamp(0), region.is_open())), [(Stamp::changing(1), true); 2]);
        mappings.apply(&protect);
        mappings.close(&protect);
        assert_eq!(born.map(|region| (region.stamp(0), region.is_open())), [(Stamp::left_by(1), false); 2]);
    }

    #[test]
    fn a_begin_may_wait_while_an_overlapping_call_is_open() {
        let (engine, (janitor, _retired)) = (Interval::default(), channel());
        let mappings = Mappings::new(&engine, None, janitor);
        let replace = call(2, Effect { change: 0..PAGE, unmap: 0..PAGE, map: 0..PAGE });
        mappings.apply(&call(1, map(0..2 * PAGE)));
        let is_open = |address| mappings.read().covering(address).unwrap().region.is_open();
        assert!(!is_open(0));
        mappings.open(&replace);
        assert!(is_open(0));
        let old = mappings.change(&replace);
        assert_eq!((is_open(0), is_open(PAGE)), (true, false), "what has come meanwhile knows it, too");
        let stamp = || mappings.read().covering(0).unwrap().region.stamp(0);
        assert_eq!((old[0].region.stamp(0), stamp()), (Stamp::changing(2), Stamp::changing(2)));
        mappings.apply(&replace);
        assert_eq!((old[0].region.stamp(0), stamp()), (Stamp::left_by(2), Stamp::left_by(2)));
        mappings.close(&replace);
        assert!(!is_open(0));
    }

    #[test]
    fn faults_are_where_the_program_was_lately() {
        let (engine, (janitor, _retired)) = (Interval::default(), channel());
        let mappings = Mappings::new(&engine, None, janitor);
        let mut random = fastrand::Rng::with_seed(1);
        assert!(mappings.pick(&mut random).is_none());
        mappings.apply(&call(1, map(0..PAGE)));
        for line in 2..2 + RECENT as u64 {
            mappings.apply(&call(line, map(line * PAGE..(line + 1) * PAGE)));
        }
        for _ in 0..1000 {
            let (live, address) = mappings.pick(&mut random).unwrap();
            assert!(live.region.range().contains(&address) && address >= 2 * PAGE);
        }
    }
}
