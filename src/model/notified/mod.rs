//! Whole-space notifiers through the public interface, on one thread, against an oracle of their own: registered, shared by
//! their type and as secondary TLBs, with callbacks that refuse, panic, and do in their turn whatever the program says.
//!
//! What [`run`](super::run) asserts of subscriptions is asserted of them: nobody is missed, told twice or told after it
//! was taken out; starts go from the newest to the oldest and ends back; a refused start is undone; what would wait
//! for itself is an error, and a panic is the end of one notifier only. Those that were taken out are dropped at once
//! where that can be waited for, and otherwise by the next call that may wait.

mod op;
mod oracle;
mod toy;

use super::op::Range;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::{
    AddressSpace, BeginError, Event, EventKind, Invalidation, OwnedInvalidation, RegisterErrorKind, Registration,
    SharedNotifier, Span, Subscription, WouldBlock,
};
use op::{Habits, Op, Question};
use oracle::{CauseId, Id, Oracle, Outcome};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use toy::{Mirrored, One, Toy};

/// Steps in one run, those in callbacks included: scripts multiply.
const FUEL: u32 = 200;
/// Causes within causes.
const DEEPEST: usize = 4;
/// Of each kind of handle that are kept at a time.
const MANY: usize = 12;

/// What a toy panics with.
struct Planted;

/// What ends here by a planted panic. Any other panic is a failure of the run.
fn caught<R>(call: impl FnOnce() -> R) -> Result<R, Planted> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| *panic.downcast().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// A handle of the one of its type.
enum Shared {
    First(SharedNotifier<One<0>>),
    Second(SharedNotifier<One<1>>),
}

impl Shared {
    fn id(&self) -> Id {
        match self {
            Shared::First(handle) => handle.with(|one| one.0.id),
            Shared::Second(handle) => handle.with(|one| one.0.id),
        }
    }

    fn get(&self) -> Result<Shared, RegisterErrorKind> {
        Ok(match self {
            Shared::First(handle) => Shared::First(handle.get()?),
            Shared::Second(handle) => Shared::Second(handle.get()?),
        })
    }
}

/// The crate on one side and the oracle on the other. No lock here is held while the crate is called.
struct World {
    space: AddressSpace,
    fuel: AtomicU32,
    oracle: Mutex<Oracle>,
    /// A handle is taken out while it is used, so callbacks use the others and drop the rest.
    registered: Mutex<Vec<(Id, Registration<Toy>)>>,
    shared: Mutex<Vec<Shared>>,
    open: Mutex<Vec<(CauseId, OwnedInvalidation)>>,
    subs: Mutex<Vec<Subscription<Mirrored>>>,
}

/// The element that `pick` names, taken out.
fn take<T>(list: &Mutex<Vec<T>>, pick: u8) -> Option<T> {
    super::world::take(list, pick)
}

fn is_full<T>(list: &Mutex<Vec<T>>) -> bool {
    lock(list).len() >= MANY
}

/// The program of notifiers that `bytes` stands for, to be printed.
pub fn notified_from_bytes(bytes: &[u8]) -> impl std::fmt::Debug {
    op::ops(bytes)
}

/// Runs the program that `bytes` stands for, and panics where the crate and the oracle disagree. It tells how often each
/// outcome was reached.
pub fn run_notified(bytes: &[u8]) -> BTreeMap<String, u64> {
    let world = Arc::new(World {
        space: AddressSpace::new(),
        fuel: AtomicU32::new(FUEL),
        oracle: Mutex::default(),
        registered: Mutex::default(),
        shared: Mutex::default(),
        open: Mutex::default(),
        subs: Mutex::default(),
    });
    for op in op::ops(bytes) {
        let _ = world.step(&op); // A panicking toy is a part of the run.
        world.oracle().rest();
    }
    world.tear_down();
    std::mem::take(&mut world.oracle().reached)
}

impl World {
    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    /// A step inside a callback. If that panics, the callback does.
    fn step_inside(self: &Arc<Self>, op: &Op) {
        if self.oracle().depth() <= DEEPEST && self.step(op).is_err() {
            resume_unwind(Box::new(Planted));
        }
    }

    fn step(self: &Arc<Self>, op: &Op) -> Result<(), Planted> {
        if self.fuel.load(Relaxed) == 0 {
            return Ok(());
        }
        self.fuel.fetch_sub(1, Relaxed);
        match op {
            Op::Register { tlb, habits } => self.register(*tlb, habits),
            Op::Unregister(pick) => return take(&self.registered, *pick).map_or(Ok(()), |one| self.unregister(one)),
            Op::DropRegistration(pick) => return take(&self.registered, *pick).map_or(Ok(()), |one| self.discard(one)),
            Op::Get { of, habits, making } => return self.get(*of, habits, making.as_deref()),
            Op::Clone(pick) => self.clone_handle(*pick),
            Op::Put(pick) => self.put(*pick),
            Op::Synchronize => self.synchronize(),
            Op::Start { range, blocking } => return self.start(range, *blocking),
            Op::End(pick) => return self.end(*pick),
            Op::Within { range, blocking, inner } => return self.within(range, *blocking, inner),
            Op::Ask(question, range) => return self.ask(*question, range),
            Op::Subscribe { range, refuses } => self.subscribe(range, *refuses),
            Op::Unsubscribe(pick) => drop(take(&self.subs, *pick)),
            Op::Release => return self.release(),
        }
        Ok(())
    }

    /// Ends and drops whatever is left; everything that there was has been dropped once.
    fn tear_down(self: &Arc<Self>) {
        self.fuel.store(0, Relaxed);
        self.end_all();
        while let Some(one) = take(&self.registered, 0) {
            let _ = self.discard(one);
        }
        while !lock(&self.shared).is_empty() {
            self.put(0);
        }
        lock(&self.subs).clear();
        self.synchronize();
        self.oracle().rest();
    }

    /// What `call`, of which the oracle knows, returned, or that it panicked as the oracle expects.
    fn told<R>(&self, call: impl FnOnce() -> R) -> Result<R, Planted> {
        let done = caught(call);
        self.oracle().told(if done.is_ok() { Outcome::Done } else { Outcome::Panicked });
        done
    }

    /// What fails inside a callback fails the run, even if the crate lets its panic get lost beside an earlier one.
    fn checked(&self, check: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
            if !panic.is::<Planted>() {
                let text = panic.downcast_ref::<String>().map_or("a panic that was not planted", String::as_str);
                self.oracle().fail(text.to_owned());
            }
            resume_unwind(panic);
        }
    }

    fn toy(self: &Arc<Self>, id: Id, habits: &Habits) -> Toy {
        Toy { id, habits: habits.clone(), world: self.clone() }
    }
}

/// Those that are registered.
impl World {
    fn register(self: &Arc<Self>, tlb: bool, habits: &Habits) {
        if is_full(&self.registered) || self.oracle().would_hang() {
            return;
        }
        let id = self.oracle().offer(tlb, None);
        let (toy, expected) = (self.toy(id, habits), self.oracle().may_register());
        let answer = if tlb { self.space.register_tlb(toy) } else { self.space.register(toy) };
        self.oracle().note(format!("register {expected:?}"));
        match answer {
            Ok(registration) => {
                assert_eq!(Ok(()), expected);
                self.oracle().list(id);
                self.oracle().swept();
                lock(&self.registered).push((id, registration));
            }
            Err(error) => assert_eq!((Err(error.kind), error.notifier.id), (expected, id)),
        }
    }

    /// P4: it is told, and given back; or where that would wait for its own caller, the registration is.
    fn unregister(&self, (id, registration): (Id, Registration<Toy>)) -> Result<(), Planted> {
        if !self.oracle().may_wait() {
            let back = registration.unregister().err().expect("it would wait for itself");
            self.oracle().note("unregister would wait for itself");
            lock(&self.registered).push((id, back.0));
            return Ok(());
        }
        self.oracle().take_out(id);
        let back = self.told(|| registration.unregister().expect("nobody is waited for"));
        self.oracle().unlist(id);
        // If its `release` panics, the notifier is dropped on the way.
        assert_eq!(self.oracle().drops(id), u32::from(back.is_err()));
        assert_eq!(back?.id, id);
        self.oracle().swept();
        Ok(())
    }

    /// It is told, and dropped at once, or where nobody may wait, later.
    fn discard(&self, (id, registration): (Id, Registration<Toy>)) -> Result<(), Planted> {
        self.oracle().take_out(id);
        let done = self.told(|| drop(registration));
        self.oracle().unlist(id);
        self.gone(id);
        done
    }

    /// P4: it has left the list, and is dropped by now, or where nobody may wait, later.
    fn gone(&self, id: Id) {
        let at_once = self.oracle().may_wait();
        self.oracle().note(if at_once { "drop at once" } else { "drop later" });
        assert_eq!(self.oracle().drops(id), u32::from(at_once), "P4: drop of {id}");
        self.oracle().swept();
    }

    /// A barrier: whatever was taken out is gone.
    fn synchronize(&self) {
        let done = self.space.synchronize().is_ok();
        assert_eq!(done, self.oracle().may_wait());
        self.oracle().swept();
    }
}

/// Those that are shared by their type.
impl World {
    fn get(self: &Arc<Self>, of: u8, habits: &Habits, making: Option<&Op>) -> Result<(), Planted> {
        let there = self.oracle().one_of(of);
        if is_full(&self.shared) || (there.is_none() && self.oracle().would_hang()) {
            return Ok(());
        }
        let (expected, made) = (self.oracle().may_register(), Cell::new(None));
        let make = || {
            let id = self.make(of, making);
            made.set(Some(id));
            self.toy(id, habits)
        };
        let got = caught(|| match of {
            0 => self.space.get_or_register(|| One::<0>(make())).map(Shared::First),
            _ => self.space.get_or_register(|| One::<1>(make())).map(Shared::Second),
        })?;
        // While it was made, the space may have been released.
        let expected = if made.get().is_some() { self.oracle().may_register() } else { expected };
        self.oracle().note(format!("get {}, {expected:?}", if there.is_some() { "again" } else { "first" }));
        let handle = match got {
            Ok(handle) => handle,
            Err(kind) => {
                assert_eq!(Err(kind), expected);
                return Ok(());
            }
        };
        assert_eq!((Ok(()), there.xor(made.get())), (expected, Some(handle.id())), "there is one of a type");
        match there {
            Some(id) => self.oracle().get(id),
            None => self.oracle().list(handle.id()),
        }
        lock(&self.shared).push(handle);
        Ok(())
    }

    /// What is done while a notifier is made. Nothing may be waited for there, nor be left open: the maker waits for it.
    fn make(self: &Arc<Self>, of: u8, making: Option<&Op>) -> Id {
        self.oracle().go_in();
        let done = making.map_or(Ok(()), |op| caught(|| self.step_inside(op)));
        self.end_all();
        self.oracle().come_out();
        if done.is_err() {
            self.oracle().note("make panics");
            resume_unwind(Box::new(Planted));
        }
        self.oracle().offer(false, Some(of))
    }

    fn clone_handle(&self, pick: u8) {
        if is_full(&self.shared) {
            return;
        }
        if let Some(handle) = take(&self.shared, pick) {
            let further = handle.get().expect("there are a few");
            self.oracle().get(handle.id());
            lock(&self.shared).extend([handle, further]);
        }
    }

    fn put(&self, pick: u8) {
        if let Some(handle) = take(&self.shared, pick) {
            let id = handle.id();
            let last = self.oracle().put(id);
            drop(handle);
            if last {
                self.gone(id);
            } else {
                assert_eq!(self.oracle().drops(id), 0, "{id} has handles");
            }
        }
    }
}

/// The primary side.
impl World {
    /// A start, `None` if it was refused.
    fn guard(&self, range: &Range, blocking: bool) -> Result<Option<(CauseId, Invalidation<'_>)>, Planted> {
        let (id, event) = (self.oracle().start(range, blocking), Event::new(EventKind::Unmap));
        let started = caught(|| match blocking {
            true => Ok(self.space.invalidate(*range, event)),
            false => self.space.try_invalidate(*range, event),
        });
        self.oracle().told(match started {
            Ok(Ok(_)) => Outcome::Done,
            Ok(Err(WouldBlock)) => Outcome::Refused,
            Err(Planted) => Outcome::Panicked,
        });
        let guard = started?.ok();
        if blocking && Span::new(*range).is_some() {
            self.oracle().swept();
        }
        Ok(guard.map(|guard| (id, guard)))
    }

    fn start(&self, range: &Range, blocking: bool) -> Result<(), Planted> {
        if is_full(&self.open) {
            return Ok(());
        }
        let started = self.guard(range, blocking)?;
        lock(&self.open).extend(started.map(|(id, guard)| (id, guard.into_owned())));
        Ok(())
    }

    fn end(&self, pick: u8) -> Result<(), Planted> {
        let Some((id, guard)) = take(&self.open, pick) else { return Ok(()) };
        self.oracle().end(id);
        self.told(|| guard.end())
    }

    fn end_all(&self) {
        while !lock(&self.open).is_empty() {
            let _ = self.end(0);
        }
    }

    /// An invalidation of this thread around another step.
    fn within(self: &Arc<Self>, range: &Range, blocking: bool, inner: &Op) -> Result<(), Planted> {
        let Some((id, guard)) = self.guard(range, blocking)? else { return Ok(()) };
        self.oracle().bind(id);
        let _ = self.step(inner);
        self.oracle().unbind(id);
        self.oracle().end(id);
        self.told(|| drop(guard))
    }

    fn ask(&self, question: Question, range: &Range) -> Result<(), Planted> {
        let address = match range.0 {
            Included(first) | Excluded(first) => first,
            Unbounded => 0,
        };
        let about = if question == Question::TestYoung { (Included(address), Included(address)) } else { *range };
        self.oracle().ask(question, &about);
        let answer = caught(|| match question {
            Question::ClearFlushYoung => self.space.clear_flush_young(about),
            Question::ClearYoung => self.space.clear_young(about),
            Question::TestYoung => self.space.test_young(address),
            Question::InvalidateTlbs => {
                self.space.invalidate_tlbs(about);
                false
            }
        });
        let young = self.oracle().told(if answer.is_ok() { Outcome::Done } else { Outcome::Panicked });
        assert_eq!(answer?, young && question != Question::InvalidateTlbs, "is anything young?");
        Ok(())
    }

    fn release(&self) -> Result<(), Planted> {
        if !self.oracle().release() {
            self.space.release(); // The oracle expects no callback.
            return Ok(());
        }
        let done = self.told(|| self.space.release());
        self.oracle().swept();
        done
    }
}

/// Subscriptions.
impl World {
    fn subscribe(self: &Arc<Self>, range: &Range, refuses: bool) {
        if !is_full(&self.subs) {
            let subscribed = self.space.subscribe(*range, Mirrored { refuses, world: self.clone() });
            lock(&self.subs).extend(subscribed.ok());
        }
    }

    /// What the subscriptions of the range say to a build that would begin now.
    fn begins(&self, range: Span) -> Vec<Result<(), BeginError>> {
        let subs = lock(&self.subs);
        let hit = subs.iter().filter(|sub| sub.range().overlap(&range).is_some());
        hit.map(|sub| sub.try_read_begin().map(drop)).collect()
    }
}
