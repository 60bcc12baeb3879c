//! The crate against the kernel's state machine ([`coarse`](crate::coarse)), over operation lists on one thread.
//!
//! - Wherever the kernel calls back, we call back.
//! - Wherever the kernel's reader must build again because of an invalidation that overlaps, ours does.
//! - Wherever ours waits, the kernel's sleeps.
//!
//! We are meant to differ, in the rows of [`Row`] and nowhere else. Each difference is traced to one of them, and each
//! row is met. What needs a second thread, or a misuse that would hang the kernel, is in the other tests.

mod rows;
mod toy;

use super::op::KEYS;
use crate::coarse::{Answer, Coarse, Heard, InsertError, Sleep};
use crate::sync::lock;
use crate::{
    AddressSpace, BeginError, EventKind, Invalidation, OwnedInvalidation, ReadSeq, RegisterErrorKind, Registration,
    SubscribeErrorKind, Subscription, WouldBlock,
};
#[cfg(test)]
pub(crate) use rows::ROWS;
use rows::Row;
use std::collections::{BTreeMap, BTreeSet};
use toy::{Habit, Log, Toy};

/// `first..=last`, of which `last` may be below `first`.
type Keys = (u64, u64);

/// What is remembered of a subscription, to trace differences.
struct Known {
    first: u64,
    habit: Habit,
    /// Why the kernel's reader would sleep if ours does not.
    sleeps: Row,
    /// The last time that only the kernel called it, or only we did, and why.
    differs: Option<(u64, Row)>,
}

struct Build {
    sub: u32,
    kernel: u64,
    ours: ReadSeq,
    step: u64,
}

struct World {
    kernel: Coarse,
    space: AddressSpace,
    log: Log,
    known: BTreeMap<u32, Known>,
    subs: Vec<Subscription<Toy>>,
    notifiers: Vec<(u32, Registration<Toy>)>,
    habits: BTreeMap<u32, Habit>,
    /// With whether its range is empty.
    open: Vec<(OwnedInvalidation, bool)>,
    builds: Vec<Build>,
    released: bool,
    step: u64,
    next_id: u32,
    met: BTreeMap<Row, u64>,
    agreed: BTreeMap<&'static str, u64>,
}

impl World {
    fn new() -> Self {
        World {
            kernel: Coarse::default(),
            space: AddressSpace::new(),
            log: Log::default(),
            known: BTreeMap::new(),
            subs: Vec::new(),
            notifiers: Vec::new(),
            habits: BTreeMap::new(),
            open: Vec::new(),
            builds: Vec::new(),
            released: false,
            step: 0,
            next_id: 0,
            met: BTreeMap::new(),
            agreed: BTreeMap::new(),
        }
    }

    fn meet(&mut self, row: Row) {
        *self.met.entry(row).or_default() += 1;
    }

    fn agree(&mut self, on: &'static str) {
        *self.agreed.entry(on).or_default() += 1;
    }

    /// The kernel sleeps, or has deferred something, and we do not: because of `row`, or of nothing but the counter
    /// that a refusal left raised.
    fn meet_epoch(&mut self, row: Row) {
        assert!(self.kernel.is_invalidating());
        let leaked = self.open.is_empty();
        assert!(!leaked || self.met.contains_key(&Row::RefusedByNotifier), "who keeps the epoch open?");
        self.meet(if leaked { Row::RefusedByNotifier } else { row });
    }

    fn is_alive(&self, id: u32) -> bool {
        self.subs.iter().any(|sub| sub.ops().id == id)
    }

    /// Says something to the kernel; what its callbacks have heard.
    fn tell_kernel<R>(
        &mut self,
        blockable: bool,
        say: impl FnOnce(&mut Coarse, &mut dyn FnMut(Heard) -> Answer) -> R,
    ) -> (R, Vec<Heard>) {
        let mut heard = Vec::new();
        let (known, habits) = (&self.known, &self.habits);
        let answer = &mut |call| {
            heard.push(call);
            match call {
                Heard::Invalidate(id) => known[&id].habit.answer(blockable),
                Heard::Start(id) => habits[&id].answer(blockable),
                Heard::Finish(_) | Heard::End(_) | Heard::Release(_) => Answer::Ignore,
            }
        };
        (say(&mut self.kernel, answer), heard)
    }

    fn take_log(&self) -> Vec<Heard> {
        std::mem::take(&mut *lock(&self.log))
    }
}

/// The mirror side.
impl World {
    fn subscribe(&mut self, (first, last): Keys, habit: Habit) {
        let id = self.next_id;
        self.next_id += 1;
        let (was_open, active) = (self.kernel.is_invalidating(), self.kernel.active());
        let length = last.wrapping_sub(first).wrapping_add(1);
        // An inverted range has no length to pass.
        let kernel =
            if first <= last { self.kernel.insert(id, first, length) } else { self.kernel.insert(id, first, 0) };
        let ours = self.space.subscribe(first..=last, Toy { id, habit, log: self.log.clone() });
        match (kernel, ours) {
            (Ok(()), Ok(sub)) => {
                let sleeps = if was_open || active == 0 { Row::InsertDuring } else { Row::StartThatHitsNobody };
                self.known.insert(id, Known { first, habit, sleeps, differs: None });
                self.subs.push(sub);
            }
            (Err(InsertError::Overflow), Err(error)) => {
                assert!(error.kind == SubscribeErrorKind::Empty && first > last);
            }
            (Err(InsertError::Overflow), Ok(_)) => {
                assert_eq!((first, last), (0, u64::MAX), "a length of 2^64 is all that does not fit");
                self.meet(Row::LastAddress);
            }
            (Err(InsertError::Invalid), Err(error)) => assert!(self.released, "{error}"),
            (kernel, ours) => panic!("subscribe {first}..={last}: {kernel:?}, {ours:?}"),
        }
    }

    fn unsubscribe(&mut self, at: usize) {
        let sub = self.subs.swap_remove(at);
        let id = sub.ops().id;
        self.builds.retain(|build| build.sub != id);
        assert_eq!(sub.unsubscribe().expect("no callback runs").id, id);
        if self.kernel.remove(id) == Sleep::UntilEpochEnds {
            self.meet_epoch(Row::RemoveDuring);
        }
    }

    fn begin(&mut self, at: usize) {
        let sub = &self.subs[at];
        let (id, ours) = (sub.ops().id, sub.try_read_begin());
        let (kernel, sleep) = self.kernel.read_begin(id);
        match (sleep, ours) {
            (Sleep::No, Ok(ours)) => self.builds.push(Build { sub: id, kernel, ours, step: self.step }),
            (Sleep::UntilEpochEnds, Ok(_)) => self.meet_epoch(self.known[&id].sleeps),
            (_, Err(BeginError::Released)) => {
                assert!(self.released);
                self.meet(Row::Release);
            }
            (Sleep::UntilEpochEnds, Err(BeginError::Active)) => self.agree("wait"),
            (Sleep::No, Err(error)) => panic!("the kernel's reader goes on and ours does not: {error}"),
            (Sleep::UntilEpochEnds, Err(error)) => panic!("{error}"),
        }
    }

    fn retry(&mut self, at: usize) {
        let Build { sub: id, kernel, ours, step } = self.builds.swap_remove(at);
        let sub = self.subs.iter().find(|sub| sub.ops().id == id).expect("builds go with their subscription");
        let (kernel, ours) = (self.kernel.read_retry(id, kernel), sub.read_retry(ours, &()));
        if kernel == ours {
            return self.agree(if ours { "build again" } else { "commit" });
        }
        let called = self.known[&id].differs.filter(|&(when, _)| when > step).map(|(_, row)| row);
        let row = called.or((ours && self.released).then_some(Row::Release));
        self.meet(row.unwrap_or_else(|| panic!("retry of {id}: {kernel} in the kernel, {ours} here")));
    }

    fn register(&mut self, habit: Habit) {
        // While anything is open, either side would wait for it.
        if !self.open.is_empty() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.habits.insert(id, habit);
        match (self.kernel.register(id), self.space.register(Toy { id, habit, log: self.log.clone() })) {
            (true, Ok(registration)) => self.notifiers.push((id, registration)),
            (false, Err(error)) => assert_eq!(error.kind, RegisterErrorKind::Released),
            (kernel, ours) => panic!("register: {kernel} in the kernel, {ours:?}"),
        }
    }

    fn unregister(&mut self, at: usize) {
        let (id, registration) = self.notifiers.swap_remove(at);
        let ((), kernel) = self.tell_kernel(true, |kernel, hear| kernel.unregister(id, hear));
        registration.unregister().expect("no callback runs");
        assert_eq!(self.take_log(), kernel);
    }
}

/// The primary side.
impl World {
    fn start(&mut self, (first, last): Keys, blockable: bool) {
        let end = last.wrapping_add(1);
        let (kernel, told) = self.tell_kernel(blockable, |kernel, hear| kernel.start((first, end), blockable, hear));
        let ours = match blockable {
            true => Ok(self.space.invalidate(first..=last, EventKind::Clear)),
            false => self.space.try_invalidate(first..=last, EventKind::Clear),
        };
        let ours = ours.map(Invalidation::into_owned);
        let log = self.take_log();
        let explains = (first > last).then_some(Row::EmptyRange);
        self.compare_intervals(&told, &log, blockable, explains);
        let asked = |log: &[Heard]| log.iter().copied().filter(is_of_notifier).collect::<Vec<_>>();
        match (kernel, ours) {
            (Ok(()), Ok(guard)) => {
                assert!(explains.is_some() || asked(&told) == asked(&log));
                self.open.push((guard, explains.is_some()));
            }
            (Err(_), Err(WouldBlock)) => {
                self.agree("refuse");
                self.compare_refusals(&asked(&told), &asked(&log));
            }
            // Somebody refused who was called on one side only: that was explained. It does not happen on either.
            (Ok(()), Err(WouldBlock)) => self.tell_kernel(true, |kernel, hear| kernel.end(hear)).0,
            (Err(_), Ok(guard)) => {
                drop(guard);
                self.compare_refusals(&asked(&told), &[]);
            }
        }
        let _ = self.take_log();
    }

    /// What the notifiers heard of a start that did not happen: nothing, or it is a row of its own.
    fn compare_refusals(&mut self, kernel: &[Heard], ours: &[Heard]) {
        if !kernel.is_empty() {
            self.meet(Row::RefusedByNotifier);
        }
        let started = ours.iter().take_while(|heard| matches!(heard, Heard::Start(_))).count();
        let ended: Vec<_> = ours[..started].iter().rev().skip(1).map(|heard| as_end(*heard)).collect();
        assert_eq!(ours[started..], ended, "all but the one that refused are told of the end, in reverse");
    }

    /// Compares which intervals were called, and in which order; traces every difference to a row.
    fn compare_intervals(&mut self, kernel: &[Heard], ours: &[Heard], blockable: bool, explains: Option<Row>) {
        let (theirs, ours) = (self.called(kernel, blockable), self.called(ours, blockable));
        let [kernel_set, our_set] = [&theirs, &ours].map(|list| list.iter().copied().collect::<BTreeSet<_>>());
        for &id in kernel_set.symmetric_difference(&our_set) {
            let row = explains.unwrap_or_else(|| self.why_one_only(id, blockable, &theirs, &ours));
            self.meet(row);
            let step = self.step;
            let known = self.known.get_mut(&id).expect("it was inserted");
            known.differs = Some((step, row));
            if kernel_set.contains(&id) {
                known.sleeps = row;
            }
        }
        let both =
            |list: &[u32]| list.iter().copied().filter(|id| kernel_set.contains(id) && our_set.contains(id)).collect();
        let (theirs, ours): (Vec<u32>, Vec<u32>) = (both(&theirs), both(&ours));
        for id in &ours {
            self.agree("call back");
            self.known.get_mut(id).expect("it was inserted").sleeps = Row::OwnHasEnded;
        }
        if theirs != ours {
            let firsts = |ids: &[u32]| ids.iter().map(|id| self.known[id].first).collect::<Vec<_>>();
            assert_eq!(firsts(&theirs), firsts(&ours), "only ties may be called in another order");
            self.meet(Row::Ties);
        }
    }

    /// Whom one side called back, ascending; each side by itself finishes what it starts.
    fn called(&self, log: &[Heard], blockable: bool) -> Vec<u32> {
        let of = |log: &[Heard]| {
            log.iter()
                .filter_map(|heard| match heard {
                    Heard::Invalidate(id) | Heard::Finish(id) => Some(*id),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        let starts = log.iter().take_while(|heard| matches!(heard, Heard::Invalidate(_))).count();
        let finishes = log[starts..].iter().take_while(|heard| matches!(heard, Heard::Finish(_))).count();
        assert!(log[starts + finishes..].iter().all(is_of_notifier), "intervals, finishes, notifiers: {log:?}");
        let called = of(&log[..starts]);
        assert!(called.windows(2).all(|pair| self.known[&pair[0]].first <= self.known[&pair[1]].first), "ascending");
        let finishing = |id: &u32| self.known[id].habit.answer(blockable) == Answer::SetSeqAndFinish;
        let expected: Vec<u32> = called.iter().copied().filter(finishing).collect();
        assert_eq!(of(&log[starts..starts + finishes]), expected, "finishes, in the order of the starts");
        called
    }

    /// Why was `id` called on one side only?
    fn why_one_only(&self, id: u32, blockable: bool, theirs: &[u32], ours: &[u32]) -> Row {
        let refuses = |id: &u32| self.known[id].habit.answer(blockable) == Answer::Refuse;
        let refuser = |list: &[u32]| list.last().copied().filter(refuses);
        let ties = |other: Option<u32>| other.is_some_and(|other| self.known[&other].first == self.known[&id].first);
        let (refused, here) = (refuser(theirs), refuser(ours));
        match theirs.contains(&id) {
            true if !self.is_alive(id) => Row::RemoveDuring,
            true if here.is_some_and(|by| self.kernel.is_deferred(by)) => Row::InsertDuring,
            true if ties(here) => Row::Ties,
            false if self.kernel.is_deferred(id) => Row::InsertDuring,
            false if refused.is_some_and(|by| !self.is_alive(by)) => Row::RemoveDuring,
            false if ties(refused) => Row::Ties,
            _ => panic!("{id} was called by one side only: {theirs:?} in the kernel, {ours:?} here"),
        }
    }

    fn end(&mut self, at: usize) {
        let (guard, is_empty) = self.open.swap_remove(at);
        let ((), kernel) = self.tell_kernel(true, |kernel, hear| kernel.end(hear));
        guard.end();
        let mut ours = self.take_log();
        if is_empty {
            assert_eq!(ours, []);
            return;
        }
        if kernel.len() > 1 {
            self.meet(Row::EndOrder);
        }
        ours.reverse();
        assert_eq!(ours, kernel);
    }

    fn release(&mut self) {
        let ((), kernel) = self.tell_kernel(true, Coarse::release);
        self.space.release();
        let ours = self.take_log();
        if std::mem::replace(&mut self.released, true) {
            assert_eq!(ours, [], "it is heard once");
            self.compare_intervals(&kernel, &ours, true, Some(Row::Release));
            return;
        }
        let of_notifiers = |log: &[Heard]| log.iter().copied().filter(is_of_notifier).collect::<Vec<_>>();
        assert_eq!(of_notifiers(&kernel), of_notifiers(&ours));
        let (at_the_end, ours): (Vec<_>, Vec<_>) = ours.into_iter().partition(|heard| self.is_at_the_end(*heard));
        at_the_end.iter().for_each(|_| self.meet(Row::LastAddress));
        self.compare_intervals(&kernel, &ours, true, None);
    }

    /// Is it of a subscription that has the last address and no other?
    fn is_at_the_end(&self, heard: Heard) -> bool {
        matches!(heard, Heard::Invalidate(id) | Heard::Finish(id) if self.known[&id].first == u64::MAX)
    }
}

fn is_of_notifier(heard: &Heard) -> bool {
    matches!(heard, Heard::Start(_) | Heard::End(_) | Heard::Release(_))
}

fn as_end(heard: Heard) -> Heard {
    match heard {
        Heard::Start(id) => Heard::End(id),
        other => other,
    }
}

/// Draws a number below the one it is given; `None` ends the program.
type Draw<'d> = dyn FnMut(u64) -> Option<u64> + 'd;

fn keys(draw: &mut Draw<'_>) -> Option<Keys> {
    let (a, b) = (KEYS[draw(KEYS.len() as u64)? as usize], KEYS[draw(KEYS.len() as u64)? as usize]);
    Some(match draw(8)? {
        0 => (a.max(1), a.max(1) - 1), // Empty.
        1 => (a, b),
        _ => (a.min(b), a.max(b)),
    })
}

fn habit(draw: &mut Draw<'_>) -> Option<Habit> {
    let answer = [Answer::SetSeq, Answer::SetSeq, Answer::SetSeqAndFinish, Answer::Ignore][draw(4)? as usize];
    Some(Habit { answer, refuses: draw(6)? == 0 })
}

impl World {
    /// One step, with something of which there are some.
    fn with_one(&mut self, draw: &mut Draw<'_>, len: usize, act: impl FnOnce(&mut Self, usize)) -> Option<()> {
        if len > 0 {
            act(self, draw(len as u64)? as usize);
        }
        Some(())
    }

    /// One step.
    fn play(&mut self, draw: &mut Draw<'_>) -> Option<()> {
        self.step += 1;
        match draw(32)? {
            0..=5 => self.subscribe(keys(draw)?, habit(draw)?),
            6..=11 => self.start(keys(draw)?, draw(3)? != 0),
            12..=17 => self.with_one(draw, self.open.len(), Self::end)?,
            18..=22 => self.with_one(draw, self.subs.len(), Self::begin)?,
            23..=27 => self.with_one(draw, self.builds.len(), Self::retry)?,
            28 | 29 => self.with_one(draw, self.subs.len(), Self::unsubscribe)?,
            30 => match draw(4)? {
                0 => self.with_one(draw, self.notifiers.len(), Self::unregister)?,
                _ => self.register(habit(draw)?),
            },
            _ if draw(4)? == 0 => self.release(),
            _ => {}
        }
        Some(())
    }
}

/// Plays what is drawn, until nothing is, and panics where the two differ for no reason that is a row. The rows that were
/// met, and on what both agreed.
pub(crate) fn run(draw: &mut Draw<'_>) -> (BTreeMap<Row, u64>, BTreeMap<&'static str, u64>) {
    let mut world = World::new();
    while world.play(draw).is_some() {}
    (0..world.open.len()).for_each(|_| world.end(0));
    (world.met, world.agreed)
}

/// The program that the bytes stand for: each draws one number.
pub fn run_beside_the_kernel(bytes: &[u8]) {
    let mut bytes = bytes.iter();
    run(&mut |below| bytes.next().map(|&byte| u64::from(byte) % below));
}
