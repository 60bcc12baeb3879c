//! Whom what must be told, in which order, and when it must be gone: said with lists.

use super::op::{Question, Told};
use crate::model::op::Range;
use crate::model::oracle::{Reach, Reached};
use crate::{BeginError, Change, RegisterErrorKind};
use std::collections::BTreeMap;
use std::ops::Bound::Unbounded;

/// A notifier; counts up in the order in which they were offered, which is that of the list.
pub(super) type Id = usize;
/// A cause of callbacks: a start and its end, a question, a release.
pub(super) type CauseId = usize;

/// How a callback was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Answered { young: bool },
    Refused,
    Panicked,
}

/// How a cause came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Refused,
    Panicked,
}

#[derive(Debug)]
struct Member {
    tlb: bool,
    /// Of which type it is the one, and how many handles it has.
    users: Option<(u8, u32)>,
    listed: bool,
    /// Whoever has registered it takes it out just now.
    leaving: bool,
    /// Its `release` has been called, or would have been if it were not poisoned.
    released: bool,
    /// It has panicked, or its `release` has returned: it is not called any more.
    silent: bool,
    drops: u32,
}

#[derive(Clone, Debug)]
struct Cause {
    id: CauseId,
    telling: Told,
    reach: Option<Reach>,
    blocking: bool,
    /// Those still to be told, the next one last.
    due: Vec<Id>,
    /// Those who have accepted the start, the newest first.
    accepted: Vec<Id>,
    /// A notifier was called.
    told: bool,
    ticket: Option<u64>,
    young: bool,
    outcome: Outcome,
}

/// The oracle.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    members: Vec<Member>,
    causes: CauseId,
    /// Causes that are being told, the innermost last.
    telling: Vec<Cause>,
    /// Invalidations that have started, until they end.
    open: BTreeMap<CauseId, Cause>,
    /// Callbacks that have not returned, and whatever else may not wait.
    inside: u32,
    /// Guards of this thread that cover something.
    bound: u32,
    released: bool,
    newest_ticket: u64,
    /// What was found wrong first.
    broken: Option<String>,
    pub(super) reached: Reached,
}

/// Lives.
impl Oracle {
    pub(super) fn note(&mut self, outcome: impl Into<String>) {
        *self.reached.entry(outcome.into()).or_default() += 1;
    }

    /// A notifier that is about to be registered, or would be.
    pub(super) fn offer(&mut self, tlb: bool, of: Option<u8>) -> Id {
        let users = of.map(|of| (of, 1));
        self.members.push(Member {
            tlb,
            users,
            listed: false,
            leaving: false,
            released: false,
            silent: false,
            drops: 0,
        });
        self.members.len() - 1
    }

    pub(super) fn list(&mut self, id: Id) {
        self.members[id].listed = true;
    }

    pub(super) fn unlist(&mut self, id: Id) {
        assert!(std::mem::take(&mut self.members[id].listed), "{id} was not listed");
    }

    /// May a notifier be registered, or got? P7: not where that would wait for its own caller.
    pub(super) fn may_register(&self) -> Result<(), RegisterErrorKind> {
        match () {
            () if self.inside > 0 => Err(RegisterErrorKind::InsideCallback),
            () if self.bound > 0 => Err(RegisterErrorKind::InsideInvalidation),
            () if self.released => Err(RegisterErrorKind::Released),
            () => Ok(()),
        }
    }

    /// Would it wait for something that only this thread can end, and of which the crate cannot know that?
    pub(super) fn would_hang(&self) -> bool {
        self.may_register().is_ok() && self.open.values().any(|cause| cause.reach.is_some())
    }

    /// P7: may anything be waited for here?
    pub(super) fn may_wait(&self) -> bool {
        self.inside == 0
    }

    /// From here to [`come_out`](Self::come_out) nothing may be waited for.
    pub(super) fn go_in(&mut self) {
        self.inside += 1;
    }

    pub(super) fn come_out(&mut self) {
        self.inside -= 1;
    }

    /// This thread holds the guard of an open invalidation. One that covers nothing is not in anybody's way.
    pub(super) fn bind(&mut self, id: CauseId) {
        self.bound += u32::from(self.open[&id].reach.is_some());
    }

    pub(super) fn unbind(&mut self, id: CauseId) {
        self.bound -= u32::from(self.open[&id].reach.is_some());
    }

    /// The one of a type.
    pub(super) fn one_of(&self, of: u8) -> Option<Id> {
        let is_it = |member: &Member| member.listed && member.users.is_some_and(|(its, _)| its == of);
        self.members.iter().position(is_it)
    }

    /// One handle more.
    pub(super) fn get(&mut self, id: Id) {
        self.members[id].users.as_mut().expect("it is shared").1 += 1;
    }

    /// One handle less. Was it the last?
    pub(super) fn put(&mut self, id: Id) -> bool {
        let users = &mut self.members[id].users.as_mut().expect("it is shared").1;
        *users -= 1;
        let last = *users == 0;
        if last {
            self.unlist(id);
        }
        last
    }

    /// P4: a value is dropped once, and not while anybody may find it. A panic on its way is not to become two.
    pub(super) fn dropped(&mut self, id: Id) {
        let member = &mut self.members[id];
        member.drops += 1;
        let (early, twice) = (member.listed && !member.leaving, member.drops > 1);
        if early || twice {
            self.fail(format!("{id} was dropped {}", if early { "while it was registered" } else { "twice" }));
        }
    }

    /// Found where a panic may get lost: the crate keeps the first panic of a cause only.
    pub(super) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(super) fn drops(&self, id: Id) -> u32 {
        self.members[id].drops
    }

    /// Something has just ended that drops whatever has left the list, if that can be done here.
    pub(super) fn swept(&self) {
        let left = |member: &Member| !member.listed && member.drops == 0;
        let left: Vec<_> = (0..self.members.len()).filter(|&id| left(&self.members[id])).collect();
        assert!(left.is_empty() || !self.may_wait(), "taken out and not dropped: {left:?}");
    }

    /// Nothing is under way.
    pub(super) fn rest(&self) {
        assert_eq!(self.broken, None);
        assert!(self.telling.is_empty() && self.inside == 0 && self.bound == 0, "{self:?}");
    }

    pub(super) fn depth(&self) -> usize {
        self.telling.len()
    }
}

/// Causes.
impl Oracle {
    fn push(&mut self, telling: Told, reach: Option<Reach>, blocking: bool, due: Vec<Id>) -> CauseId {
        self.causes += 1;
        self.telling.push(Cause {
            id: self.causes,
            telling,
            reach,
            blocking,
            due,
            accepted: Vec::new(),
            told: false,
            ticket: None,
            young: false,
            outcome: Outcome::Done,
        });
        self.causes
    }

    fn listed(&self, mut is_it: impl FnMut(&Member) -> bool) -> Vec<Id> {
        (0..self.members.len()).filter(|&id| self.members[id].listed && is_it(&self.members[id])).collect()
    }

    /// An invalidation is about to start: due at all that are there, newest first.
    pub(super) fn start(&mut self, range: &Range, blocking: bool) -> CauseId {
        let reach = Reach::of(range);
        let due = self.listed(|member| reach.is_some() && !member.tlb);
        self.push(Told::Start, reach, blocking, due)
    }

    /// An open invalidation is about to end: due at those who have accepted it, oldest first.
    pub(super) fn end(&mut self, id: CauseId) {
        let mut cause = self.open.remove(&id).expect("it is open");
        cause.turn_to_end();
        self.telling.push(cause);
    }

    pub(super) fn ask(&mut self, question: Question, range: &Range) {
        let reach = Reach::of(range);
        let tlb = question == Question::InvalidateTlbs;
        let due = self.listed(|member| reach.is_some() && member.tlb == tlb);
        self.push(Told::Asked(question), reach, true, due);
    }

    /// The space is about to be released; `false` if it has been. Due at those who have not been told.
    pub(super) fn release(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.released, true);
        if first {
            let due = self.listed(|_| true);
            self.push(Told::Release, Reach::of(&(Unbounded, Unbounded)), true, due);
        }
        first
    }

    /// One is about to be told that it is taken out.
    pub(super) fn take_out(&mut self, id: Id) {
        self.members[id].leaving = true;
        self.push(Told::Release, None, true, vec![id]);
    }

    fn innermost(&mut self) -> &mut Cause {
        self.telling.last_mut().expect("nothing is being told")
    }

    /// Whom the innermost cause is told to next. P4 passes over those that are gone, P7 over those that have panicked.
    fn next_due(&mut self) -> Option<Id> {
        let (cause, members) = (self.telling.last_mut()?, &self.members);
        let release = cause.telling == Told::Release;
        let hears = |member: &Member| !member.silent && member.drops == 0 && !(release && member.released);
        while let Some(&next) = cause.due.last() {
            if hears(&members[next]) {
                return Some(next);
            }
            cause.due.pop();
        }
        None
    }

    /// A callback was entered: of the next one due (P3, P5).
    pub(super) fn enter(&mut self, id: Id, what: Told) {
        assert_eq!((self.next_due(), self.innermost().telling), (Some(id), what), "who is told next, and what");
        self.innermost().due.pop();
        self.innermost().told = true;
        self.members[id].released |= what == Told::Release;
        let depth = self.inside;
        self.note(format!("{what:?} inside {depth} others"));
        self.inside += 1;
    }

    /// What somebody is told of the innermost cause. One ticket an invalidation, and never used before.
    pub(super) fn heard(&mut self, range: Reach, blocking: bool, ticket: u64) {
        let newest = self.newest_ticket;
        let cause = self.innermost();
        assert_eq!((Some(range), blocking), (cause.reach, cause.blocking));
        match cause.ticket.replace(ticket) {
            Some(known) => assert_eq!(ticket, known, "all who are told of an invalidation are told one ticket"),
            None => assert!(ticket & 1 == 1 && newest < ticket, "ticket {ticket} after {newest}"),
        }
        self.newest_ticket = newest.max(ticket);
    }

    /// The range that the innermost cause is about.
    pub(super) fn reach(&mut self) -> Option<Reach> {
        self.innermost().reach
    }

    /// The innermost callback is over.
    pub(super) fn leave(&mut self, id: Id, left: Left) {
        self.inside -= 1;
        let panicked = left == Left::Panicked;
        let cause = self.telling.last_mut().expect("it is being told");
        self.members[id].silent |= panicked || cause.telling == Told::Release;
        if panicked {
            cause.outcome = Outcome::Panicked;
        }
        match (cause.telling, left) {
            (Told::Start, Left::Answered { .. }) => cause.accepted.push(id),
            (Told::Start, _) => cause.refused(left),
            (Told::Asked(question), Left::Answered { young: true }) => {
                cause.young = true;
                if question == Question::TestYoung {
                    cause.due.clear(); // One yes is enough.
                }
            }
            _ => {}
        }
    }

    /// A subscription was called: before all notifiers, of the same. If it refuses, none is told.
    pub(super) fn subscription(&mut self, change: &Change, refuses: bool) {
        self.heard(Reach::of_span(change.range()), change.is_blockable(), change.ticket());
        let cause = self.innermost();
        assert!(matches!(cause.telling, Told::Start | Told::Release), "a subscription is told of a start: {cause:?}");
        assert!(!cause.told, "a notifier was told before a subscription: {cause:?}");
        if refuses {
            cause.refused(Left::Refused);
        }
    }

    /// The innermost cause has come to its end so, and everybody due has been told. Was anything young?
    pub(super) fn told(&mut self, outcome: Outcome) -> bool {
        let next = self.next_due();
        let cause = self.telling.pop().expect("it was told");
        assert_eq!((cause.outcome, next), (outcome, None), "how {cause:?} ended, and whom it has missed");
        self.note(format!("{:?} {outcome:?}", cause.telling));
        let young = cause.young;
        if cause.telling == Told::Start {
            self.open.insert(cause.id, cause);
        }
        young
    }
}

impl Cause {
    fn turn_to_end(&mut self) {
        self.telling = Told::End;
        self.due = std::mem::take(&mut self.accepted);
    }

    /// P6: the start is undone. Those who had accepted it are told of its end.
    fn refused(&mut self, left: Left) {
        if left == Left::Refused {
            self.outcome = Outcome::Refused;
        }
        self.turn_to_end();
    }
}

/// Where a begin may not go on: inside an invalidation that hits it.
pub(super) fn is_shut(begin: Result<(), BeginError>) -> bool {
    matches!(begin, Err(BeginError::Active | BeginError::Released))
}
