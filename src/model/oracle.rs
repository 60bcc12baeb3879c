//! What must happen: the promises, said with lists.
//!
//! The oracle knows every subscription ever made, every invalidation ever started, and the generation of every page
//! of the primary. It has no sequence, no slot and no tree. One run is one thread, so every answer is exact: it is
//! told what is about to happen, and says what the crate must answer.

use super::op::{KEYS, Range};
use crate::{BeginError, Change, Event, EventKind, Span, SubscribeErrorKind};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

/// A subscription; counts up in the order of subscribing.
pub(crate) type SubId = usize;
/// An invalidation; counts up in the order of starting.
pub(crate) type InvId = usize;
/// The pages that a toy holds, by address, each with the generation that it saw.
pub(crate) type Pages = BTreeMap<u64, u64>;

/// How often each outcome was reached, so that a test can tell that it was not vacuous.
pub(crate) type Reached = BTreeMap<String, u64>;

/// First and last address; one word wider than an address, so that nothing wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reach(i128, i128);

impl Reach {
    /// `None` if it is empty.
    pub(crate) fn of(range: &Range) -> Option<Reach> {
        let first = match range.0 {
            Included(a) => i128::from(a),
            Excluded(a) => i128::from(a) + 1,
            Unbounded => 0,
        };
        let last = match range.1 {
            Included(a) => i128::from(a),
            Excluded(a) => i128::from(a) - 1,
            Unbounded => i128::from(u64::MAX),
        };
        (first <= last).then_some(Reach(first, last))
    }

    pub(crate) fn holds(&self, page: u64) -> bool {
        (self.0..=self.1).contains(&i128::from(page))
    }

    /// The common part.
    pub(crate) fn clip(&self, other: &Reach) -> Option<Reach> {
        let both = Reach(self.0.max(other.0), self.1.min(other.1));
        (both.0 <= both.1).then_some(both)
    }

    pub(crate) fn of_span(span: Span) -> Reach {
        Reach(span.first().into(), span.last().into())
    }
}

/// How a callback was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Answered,
    Refused,
    Panicked,
}

#[derive(Debug)]
struct Sub {
    reach: Option<Reach>,
    live: bool,
    poisoned: bool,
    /// Has it heard the release?
    released: bool,
    /// How often its value was dropped.
    drops: u32,
    /// How often an invalidation changed something under it: a build that spans a change of this number is stale.
    collisions: u64,
    /// The ticket of the last of these.
    last_collision: Option<u64>,
    /// The generation that each page got from the last change that concerned this subscription.
    floor: Pages,
}

#[derive(Debug)]
struct Inv {
    reach: Option<Reach>,
    event: Event,
    blocking: bool,
    /// Is it a guard of this thread, which cannot end while the thread waits?
    bound: bool,
    /// Those it collided with, and those subscribed while it was active: their begins wait for its end.
    concerned: Vec<SubId>,
    /// Those still to be called, the next one last.
    due: Vec<SubId>,
    /// How many were called.
    calls: u32,
    ticket: Option<u64>,
    left: Left,
}

impl Inv {
    fn is_release(&self) -> bool {
        self.event.kind() == EventKind::Release
    }
}

/// The oracle.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    released: bool,
    generation: u64,
    primary: Pages,
    subs: Vec<Sub>,
    /// Not subscribed, and not dropped yet.
    doomed: Vec<SubId>,
    /// The invalidations that have started, or are about to, and have not ended.
    active: BTreeMap<InvId, Inv>,
    invs: InvId,
    newest_ticket: u64,
    /// Starts that have not returned, the innermost last.
    starting: Vec<InvId>,
    /// Callbacks that have not returned, the innermost last.
    inside: Vec<SubId>,
    /// Mirrors whose lock this thread holds.
    locked: Vec<SubId>,
    /// What happened, and how often.
    pub(crate) reached: Reached,
}

/// Subscriptions.
impl Oracle {
    /// A value is about to be offered to `subscribe`.
    pub(crate) fn offer(&mut self, range: &Range) -> SubId {
        let reach = Reach::of(range);
        let (live, poisoned, released, floor) = (false, false, false, Pages::new());
        let (drops, collisions, last_collision) = (0, 0, None);
        self.subs.push(Sub { reach, live, poisoned, released, drops, collisions, last_collision, floor });
        self.doomed.push(self.subs.len() - 1);
        self.subs.len() - 1
    }

    pub(crate) fn note(&mut self, outcome: impl Into<String>) {
        *self.reached.entry(outcome.into()).or_default() += 1;
    }

    /// The answer of `subscribe`. P5: whatever is active now is waited for; whatever starts later will find it.
    pub(crate) fn subscribed(&mut self, sub: SubId) -> Result<(), SubscribeErrorKind> {
        let reach = self.subs[sub].reach.ok_or(SubscribeErrorKind::Empty)?;
        if self.released {
            return Err(SubscribeErrorKind::Released);
        }
        self.subs[sub].live = true;
        self.doomed.retain(|doomed| *doomed != sub);
        let overlapping = |inv: &&mut Inv| inv.reach.is_some_and(|r| r.clip(&reach).is_some());
        self.active.values_mut().filter(overlapping).for_each(|inv| inv.concerned.push(sub));
        Ok(())
    }

    /// P4: no callback from here on.
    pub(crate) fn removed(&mut self, sub: SubId) {
        assert!(std::mem::take(&mut self.subs[sub].live), "{sub} was not subscribed");
        self.doomed.push(sub);
    }

    /// P7: may a subscription be taken back here, or would that wait for its own caller?
    pub(crate) fn may_unsubscribe(&self) -> bool {
        self.inside.is_empty() && self.locked.is_empty()
    }

    /// A value was dropped: once, and not while it was subscribed.
    pub(crate) fn dropped(&mut self, sub: SubId) {
        assert!(!self.subs[sub].live, "{sub} was dropped while subscribed");
        self.subs[sub].drops += 1;
        self.doomed.retain(|doomed| *doomed != sub);
        assert_eq!(self.subs[sub].drops, 1, "{sub} was dropped twice");
    }

    pub(crate) fn drops(&self, sub: SubId) -> u32 {
        self.subs[sub].drops
    }

    pub(crate) fn is_poisoned(&self, sub: SubId) -> bool {
        self.subs[sub].poisoned
    }

    /// Nothing is under way.
    pub(crate) fn rest(&self) {
        assert!(self.inside.is_empty() && self.locked.is_empty() && self.starting.is_empty());
    }

    /// Something has just ended that drops the values of those removed where nobody could wait: all are gone, if they
    /// could be dropped here.
    pub(crate) fn swept(&self) {
        assert!(self.doomed.is_empty() || !self.may_unsubscribe(), "P4: removed and not dropped: {:?}", self.doomed);
    }
}

/// Invalidations.
impl Oracle {
    /// A start is about to happen. It is due at everybody who overlaps now, in order, and at nobody who comes later.
    pub(crate) fn start(&mut self, range: &Range, event: Event, blocking: bool) -> InvId {
        let reach = Reach::of(range);
        let overlaps = |sub: &Sub| reach.and_then(|r| r.clip(&sub.reach?)).is_some();
        let mut due: Vec<SubId> =
            (0..self.subs.len()).filter(|&s| self.subs[s].live && overlaps(&self.subs[s])).collect();
        due.sort_by_key(|&s| std::cmp::Reverse((self.subs[s].reach, s)));
        let (bound, concerned, left) = (true, vec![], Left::Answered);
        self.invs += 1;
        self.active
            .insert(self.invs, Inv { reach, event, blocking, bound, concerned, due, calls: 0, ticket: None, left });
        self.starting.push(self.invs);
        self.invs
    }

    /// The invalidation whose callbacks are running, the innermost.
    fn calling(&mut self) -> (InvId, &mut Inv) {
        let id = *self.starting.last().expect("no start is under way");
        (id, self.active.get_mut(&id).expect("what starts has not ended"))
    }

    /// A callback was entered. It must be the next one due: P3 knows no others.
    pub(crate) fn enter(&mut self, sub: SubId, change: &Change) {
        let mine = self.subs[sub].reach.expect("it is live");
        let next = self.next_due();
        let (_, inv) = self.calling();
        assert!(inv.left == Left::Answered || inv.is_release(), "called after {:?} by an earlier one", inv.left);
        assert_eq!(next, Some(sub), "the next one due for {:?}", inv.reach);
        let whole = inv.reach.expect("an empty range hits nothing");
        assert_eq!(whole, Reach::of_span(change.range()));
        assert_eq!(whole.clip(&mine).expect("they overlap"), Reach::of_span(change.overlap()));
        assert_eq!((change.event(), change.is_blockable()), (inv.event, inv.blocking));
        inv.due.pop();
        inv.calls += 1;
        if inv.calls == 33 {
            self.note("a second batch");
        }
        self.number(change.ticket());
        self.note(format!("callback inside {} others", self.inside.len()));
        self.inside.push(sub);
    }

    /// One ticket an invalidation, odd, and never used before.
    fn number(&mut self, ticket: u64) {
        let newest = self.newest_ticket;
        let (_, inv) = self.calling();
        match inv.ticket.replace(ticket) {
            Some(known) => assert_eq!(ticket, known, "all hits of an invalidation have one ticket"),
            None => assert!(ticket & 1 == 1 && newest < ticket, "ticket {ticket} after {newest}"),
        }
        self.newest_ticket = newest.max(ticket);
    }

    /// The innermost callback has called `set_seq`.
    pub(crate) fn collide(&mut self, sub: SubId) {
        let (_, inv) = self.calling();
        inv.concerned.push(sub);
        let ticket = inv.ticket;
        self.subs[sub].collisions += 1;
        self.subs[sub].last_collision = ticket;
    }

    /// The innermost callback is over. A panic poisons its subscription.
    pub(crate) fn leave(&mut self, sub: SubId, left: Left) {
        assert_eq!(self.inside.pop(), Some(sub));
        let (_, inv) = self.calling();
        // A panic does not keep the others from hearing of a release, and goes on when they have.
        let panicked = inv.left == Left::Panicked;
        inv.left = if panicked { Left::Panicked } else { left };
        let heard_release = inv.is_release() && left == Left::Answered;
        self.subs[sub].released |= heard_release;
        self.subs[sub].poisoned |= left == Left::Panicked;
    }

    /// The innermost start is over, by returning a guard, by refusing or by unwinding. The last two leave nothing open
    /// (P6).
    pub(crate) fn started(&mut self, left: Left) {
        self.note(format!("start {left:?}"));
        let next = self.next_due();
        let (id, inv) = self.calling();
        match left {
            Left::Answered => assert_eq!((inv.left, next), (left, None), "P5: the start of {id} missed somebody"),
            // A mirror whose lock is held refuses by itself.
            Left::Refused if inv.left == Left::Answered => {
                assert!(next.is_some_and(|sub| self.locked.contains(&sub)), "P6: nobody refused {id}");
                self.note("start refused by a lock");
            }
            _ => {
                assert_eq!(inv.left, left, "how the start of {id} ended");
                assert!(!inv.is_release() || next.is_none(), "the release missed somebody");
            }
        }
        self.starting.pop();
        if left == Left::Answered {
            self.change(id);
        } else {
            self.active.remove(&id);
        }
    }

    /// Whom the innermost start calls next: P4 passes over those removed meanwhile, P7 over the poisoned.
    fn next_due(&mut self) -> Option<SubId> {
        let id = self.starting.last()?;
        let (due, subs) = (&mut self.active.get_mut(id)?.due, &self.subs);
        let called = |sub: &SubId| subs[*sub].live && !subs[*sub].poisoned;
        due.truncate(due.iter().rposition(called).map_or(0, |last| last + 1));
        due.last().copied()
    }

    /// The guard of this thread became one that travels.
    pub(crate) fn unbind(&mut self, id: InvId) {
        self.active.get_mut(&id).expect("it is open").bound = false;
    }

    /// An open invalidation is about to end: its last chance to change anything.
    pub(crate) fn end(&mut self, id: InvId) {
        self.change(id);
        self.active.remove(&id);
    }

    /// The primary changes every page of the range, and whoever is concerned may not show older ones from now on.
    fn change(&mut self, id: InvId) {
        self.generation += 1;
        let Inv { reach: Some(reach), concerned, .. } = &self.active[&id] else { return };
        for page in KEYS.into_iter().filter(|&page| reach.holds(page)) {
            self.primary.insert(page, self.generation);
            for &sub in concerned {
                self.subs[sub].floor.insert(page, self.generation);
            }
        }
    }

    /// The release is about to happen; `false` if it has happened before.
    pub(crate) fn release(&mut self) -> bool {
        !std::mem::replace(&mut self.released, true)
    }

    pub(crate) fn depth(&self) -> usize {
        self.inside.len()
    }

    /// May this thread wait for a mirror lock, or does it hold one itself?
    pub(crate) fn may_lock(&self) -> bool {
        self.locked.is_empty()
    }

    pub(crate) fn lock(&mut self, sub: SubId) {
        self.locked.push(sub);
    }

    pub(crate) fn unlock(&mut self, sub: SubId) {
        assert_eq!(self.locked.pop(), Some(sub));
    }

    pub(crate) fn is_locked(&self, sub: SubId) -> bool {
        self.locked.contains(&sub)
    }
}

/// Builds.
impl Oracle {
    /// What a begin may answer; `Ok` carries what `is_stale` wants back. P3: only those concerned are waited for.
    pub(crate) fn begin(&self, sub: SubId, waits: bool) -> Result<u64, &'static [BeginError]> {
        let active = || self.active.values().filter(|inv| inv.concerned.contains(&sub));
        match self.subs[sub] {
            Sub { poisoned: true, .. } => Err(&[BeginError::Poisoned]),
            Sub { released: true, .. } => Err(&[BeginError::Released]),
            Sub { collisions, .. } if active().count() == 0 => Ok(collisions),
            _ if !waits => Err(&[BeginError::Active]),
            // P7: it would wait for its own caller.
            _ if self.inside.contains(&sub) || !self.may_lock() => Err(&[BeginError::InsideCallback]),
            _ if active().all(|inv| inv.bound) => Err(&[BeginError::InsideInvalidation]),
            _ if active().all(|inv| !inv.bound) => Err(&[BeginError::Active]),
            _ => Err(&[BeginError::Active, BeginError::InsideInvalidation]), // Whichever it meets first.
        }
    }

    /// What a build that begins now sees of `sub`'s range.
    pub(crate) fn read(&self, sub: SubId) -> Pages {
        let reach = self.subs[sub].reach.expect("it is live");
        KEYS.into_iter().filter(|&p| reach.holds(p)).map(|p| (p, self.primary.get(&p).copied().unwrap_or(0))).collect()
    }

    /// Is a build that began at `begun` stale? P1 and P3 in one: if something changed, and only then.
    pub(crate) fn is_stale(&self, sub: SubId, begun: u64) -> bool {
        let Sub { poisoned, released, collisions, .. } = self.subs[sub];
        poisoned || released || collisions != begun
    }

    pub(crate) fn last_collision(&self, sub: SubId) -> Option<u64> {
        self.subs[sub].last_collision
    }

    /// P1: no page that `sub` holds is older than the last change that concerned it. P2: it holds nothing of an active one.
    pub(crate) fn inspect(&self, sub: SubId, held: &Pages) {
        for (page, generation) in held {
            let floor = self.subs[sub].floor.get(page).unwrap_or(&0);
            assert!(generation >= floor, "P1: {sub} holds page {page:#x} as of {generation}, changed at {floor}");
            let inside = |inv: &Inv| inv.reach.is_some_and(|reach| reach.holds(*page)) && inv.concerned.contains(&sub);
            assert!(!self.active.values().any(inside), "P2: {sub} holds page {page:#x} of an active invalidation");
        }
    }
}
