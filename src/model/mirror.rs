//! The mirror side of a run: subscriptions, builds, and the locks of the mirrors.

use super::op::{Habits, How, Op, Range};
use super::oracle::{Reach, SubId};
use super::toy::{Handle, State, Toy, Value};
use super::world::{Build, World};
use crate::sync::{Arc, Mutex, lock};
use crate::{BeginError, Retry, SubscribeError, UpdateError};
use std::cell::Cell;

/// Subscriptions at a time: enough for more than one batch of callbacks.
const CROWD: usize = 48;
/// What `update` is given.
const ATTEMPTS: u32 = 2;

/// Subscriptions.
impl World {
    pub(crate) fn subscribe(self: &Arc<Self>, range: &Range, habits: &Habits) {
        if lock(&self.handles).len() >= CROWD {
            return;
        }
        let id = self.oracle().offer(range);
        let value = Value { id, habits: habits.clone(), world: self.clone() };
        let (expected, pages) = (self.oracle().subscribed(id), Default::default());
        let answer = if habits.high {
            let refused = |error: SubscribeError<State>| (error.kind, error.ops.value);
            self.space.mirror(*range, State { value, pages }).map(Handle::High).map_err(refused)
        } else {
            let refused = |error: SubscribeError<Toy>| (error.kind, error.ops.value);
            self.space.subscribe(*range, Toy { value, pages: Mutex::new(pages) }).map(Handle::Low).map_err(refused)
        };
        self.oracle().note(format!("subscribe {expected:?}"));
        match answer {
            Ok(handle) => {
                assert_eq!(Ok(()), expected);
                assert_eq!(Reach::of(range).expect("it is subscribed"), Reach::of_span(handle.range()));
                lock(&self.handles).push((id, handle));
            }
            Err((kind, value)) => assert_eq!((Err(kind), id), (expected, value.id)),
        }
        if Reach::of(range).is_some() {
            self.oracle().swept();
        }
    }

    /// P4 and P7: the value comes back at once, or where that would wait for its own caller, the subscription does.
    pub(crate) fn unsubscribe(&self, sub: SubId, handle: Handle) -> Option<Handle> {
        if !self.oracle().may_unsubscribe() {
            let back = handle.unsubscribe().err();
            self.oracle().note("unsubscribe would wait for itself");
            return Some(back.expect("it would wait for itself"));
        }
        self.oracle().removed(sub);
        let value = handle.unsubscribe().ok().expect("nobody is waited for");
        assert_eq!((value.id, self.oracle().drops(sub)), (sub, 0));
        drop(value);
        self.oracle().swept();
        None
    }

    /// P4: the value is dropped at once, or where that could not wait, later.
    pub(crate) fn discard(&self, sub: SubId, handle: Handle) -> Option<Handle> {
        self.oracle().removed(sub);
        drop(handle);
        let at_once = self.oracle().may_unsubscribe();
        self.oracle().note(if at_once { "drop at once" } else { "drop later" });
        assert_eq!(self.oracle().drops(sub), u32::from(at_once), "P4: drop of {sub}");
        self.oracle().swept();
        None
    }

    /// What a toy holds, after any step.
    pub(crate) fn inspect(&self, sub: SubId, handle: &Handle) {
        let (pages, poisoned) = (handle.pages(), self.oracle().is_poisoned(sub));
        match pages {
            Some(pages) if !poisoned => self.oracle().inspect(sub, &pages),
            Some(_) => assert!(matches!(handle, Handle::Low(_)), "P7: {sub} is poisoned and shows its pages"),
            None => assert!(poisoned, "P7: {sub} is not poisoned"),
        }
        if !poisoned {
            assert_eq!(handle.last_collision(), self.oracle().last_collision(sub), "what {sub} has collided with");
        }
    }
}

/// Builds.
impl World {
    pub(crate) fn begin(&self, sub: SubId, handle: &Handle, how: How) {
        let expected = self.oracle().begin(sub, !matches!(how, How::Try));
        self.oracle().note(format!("begin {:?}", expected.map(|_| ())));
        let how = match (how, expected) {
            // It would wait for an end that only this thread can bring.
            (How::Wait, Err(allowed)) if allowed.contains(&BeginError::Active) => How::Timeout,
            _ => how,
        };
        match (handle.begin(how), expected) {
            (Ok(seq), Ok(begun)) => {
                let build = Build { sub, seq, begun, pages: self.oracle().read(sub) };
                lock(&self.builds).push(build);
            }
            (Err(error), Err(allowed)) => {
                assert!(allowed.contains(&error), "begin of {sub}: {error:?}, not {allowed:?}")
            }
            (got, expected) => panic!("begin of {sub}: {got:?}, not {expected:?}"),
        }
    }

    pub(crate) fn check(&self, build: Build, handle: &Handle) -> Option<Build> {
        let stale = handle.check_retry(&build.seq);
        // One thread: its own callbacks are ordered before it, so that here even `false` is reliable.
        assert_eq!(stale, self.oracle().is_stale(build.sub, build.begun), "check_retry of {}", build.sub);
        Some(build)
    }

    /// P1 and P3: the build is accepted if nothing collided with it, and only then.
    pub(crate) fn commit(&self, build: Build, handle: &Handle) -> Option<Build> {
        let Build { sub, seq, begun, pages } = build;
        if !self.oracle().is_locked(sub) {
            let accepted = handle.commit(seq, pages);
            assert_eq!(accepted, !self.oracle().is_stale(sub, begun), "commit of {sub}");
            self.oracle().note(if accepted { "commit accepted" } else { "commit stale" });
        }
        None
    }

    /// One `Mirror::update`, disturbed during its first `times` builds. The oracle is asked at every turn.
    pub(crate) fn update(
        self: &Arc<Self>,
        sub: SubId,
        handle: &Handle,
        (disturb, times): (&Range, u32),
        build_fails: bool,
    ) {
        let Handle::High(mirror) = handle else { return };
        if self.oracle().is_locked(sub) {
            let refused = mirror.update(Retry::forever(), |_| Ok::<_, ()>(()), |_, ()| ());
            assert!(matches!(refused, Err(UpdateError::Begin(BeginError::InsideCallback))), "P7: {sub}: {refused:?}");
            return;
        }
        let would_wait = self.oracle().begin(sub, true).is_err_and(|allowed| allowed.contains(&BeginError::Active));
        if would_wait {
            return; // For an end that only this thread can bring.
        }
        let (begun, mut attempts) = (Cell::new(0), 0);
        let is_stale = || self.oracle().is_stale(sub, begun.get());
        let done = mirror.update(
            Retry::times(ATTEMPTS),
            |attempt| {
                begun.set(self.oracle().begin(sub, true).expect("update has begun"));
                attempts += 1;
                assert_eq!((attempt.number(), attempt.is_stale()), (attempts, false));
                let overtaken = if attempts == 1 { None } else { self.oracle().last_collision(sub) };
                assert_eq!(attempt.collided_with(), overtaken);
                let pages = self.oracle().read(sub);
                if attempts <= times {
                    self.disturb(disturb);
                }
                assert_eq!(attempt.is_stale(), is_stale());
                if build_fails { Err(attempts) } else { Ok(pages) }
            },
            |state, pages| {
                assert!(!is_stale(), "P1: update of {sub}");
                state.pages.extend(pages);
            },
        );
        self.oracle().note(format!("update {done:?} at attempt {attempts}"));
        match done {
            Ok(()) => assert!(!build_fails),
            Err(UpdateError::Build(number)) => assert!(build_fails && number == attempts && !is_stale()),
            Err(UpdateError::Begin(error)) => assert_eq!(Err(&[error][..]), self.oracle().begin(sub, true)),
            Err(UpdateError::Exhausted { attempts: made }) => {
                assert!(made == attempts && attempts == ATTEMPTS && is_stale(), "P3: update of {sub}");
            }
        }
    }
}

/// The lock of a `Mirror`.
impl World {
    pub(crate) fn evict(&self, sub: SubId, handle: &Handle, range: &Range) {
        let Handle::High(mirror) = handle else { return };
        if self.oracle().is_locked(sub) {
            return;
        }
        let evicted = mirror.evict(|state| {
            state.pages.retain(|&page, _| !Reach::of(range).is_some_and(|reach| reach.holds(page)));
        });
        assert_eq!(evicted.is_err(), self.oracle().is_poisoned(sub));
    }

    /// A step under the guard of a mirror. It may drop others, but not wait for them.
    pub(crate) fn locked(self: &Arc<Self>, sub: SubId, handle: &Handle, inner: &Op) {
        let Handle::High(mirror) = handle else { return };
        if self.oracle().is_locked(sub) {
            return;
        }
        let guard = mirror.lock();
        assert_eq!(guard.is_err(), self.oracle().is_poisoned(sub));
        if let Ok(guard) = guard {
            self.oracle().lock(sub);
            let _ = self.step(inner);
            self.oracle().unlock(sub);
            drop(guard);
        }
    }
}
