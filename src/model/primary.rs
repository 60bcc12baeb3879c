//! The primary side of a run: starts, ends and the release.

use super::op::{Form, MaybeOwner, Op, Range};
use super::oracle::{InvId, Left, Reach};
use super::world::{Planted, World, take};
use crate::sync::{Arc, lock};
use crate::{Event, EventKind, Invalidation, WouldBlock};
use std::ops::Bound::Unbounded;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What `start` returned, or the panic that left it. Any other panic than a toy's is a failure of the run.
fn caught<R>(start: impl FnOnce() -> R) -> Result<R, Planted> {
    catch_unwind(AssertUnwindSafe(start))
        .map_err(|panic| *panic.downcast().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Open invalidations at a time: more than a subscription has room for before it must grow.
const OPEN: usize = 24;

impl World {
    fn event(&self, owner: MaybeOwner) -> Event {
        match owner {
            Some(owner) => Event::new(EventKind::Migrate).with_owner(self.owner(owner)),
            None => Event::new(EventKind::Unmap),
        }
    }

    /// A start that keeps its guard, made to travel.
    pub(crate) fn start(&self, range: &Range, owner: MaybeOwner, blocking: bool) -> Result<(), Planted> {
        if lock(&self.open).len() >= OPEN {
            return Ok(());
        }
        if let Some((id, guard)) = self.guard(range, owner, blocking)? {
            self.oracle().unbind(id);
            lock(&self.open).push((id, guard.into_owned()));
        }
        Ok(())
    }

    /// A start, `None` if it was refused, or if this thread could not wait for the mirrors it hits.
    fn guard(
        &self,
        range: &Range,
        owner: MaybeOwner,
        blocking: bool,
    ) -> Result<Option<(InvId, Invalidation<'_>)>, Planted> {
        if blocking && !self.oracle().may_lock() {
            return Ok(None);
        }
        let event = self.event(owner);
        let id = self.oracle().start(range, event, blocking);
        let started = caught(|| match blocking {
            true => Ok(self.space.invalidate(*range, event)),
            false => self.space.try_invalidate(*range, event),
        });
        self.oracle().started(match started {
            Ok(Ok(_)) => Left::Answered,
            Ok(Err(WouldBlock)) => Left::Refused,
            Err(Planted) => Left::Panicked,
        });
        let guard = started?.ok();
        if let (Some(guard), Some(reach)) = (&guard, Reach::of(range)) {
            assert_eq!(Reach::of_span(guard.range()), reach);
            if blocking {
                self.oracle().swept();
            }
        }
        Ok(guard.map(|guard| (id, guard)))
    }

    pub(crate) fn end(&self, pick: u8) {
        if let Some((id, guard)) = take(&self.open, pick) {
            self.oracle().end(id);
            guard.end();
        }
    }

    /// An invalidation around another step. Only its start may panic through it.
    pub(crate) fn within(
        self: &Arc<Self>,
        range: &Range,
        owner: MaybeOwner,
        form: Form,
        inner: &Op,
    ) -> Result<(), Planted> {
        if let Form::Closure = form {
            return self.within_closure(range, owner, inner);
        }
        if let Some((id, guard)) = self.guard(range, owner, matches!(form, Form::Guard))? {
            let _ = self.step(inner);
            self.oracle().end(id);
            drop(guard);
        }
        Ok(())
    }

    fn within_closure(self: &Arc<Self>, range: &Range, owner: MaybeOwner, inner: &Op) -> Result<(), Planted> {
        if !self.oracle().may_lock() {
            return Ok(());
        }
        let event = self.event(owner);
        let id = self.oracle().start(range, event, true);
        let change = || {
            self.oracle().started(Left::Answered);
            let _ = self.step(inner);
            self.oracle().end(id);
        };
        let done = caught(|| self.space.invalidate_while(*range, event, change));
        done.inspect_err(|Planted| self.oracle().started(Left::Panicked))
    }

    /// A whole invalidation, whose callbacks may do what they like; what they leave open over it is ended.
    pub(crate) fn disturb(self: &Arc<Self>, range: &Range) {
        let _ = self.guard(range, None, true).map(|started| {
            if let Some((id, guard)) = started {
                self.oracle().end(id);
                guard.end();
            }
        });
        while !lock(&self.open).is_empty() {
            self.end(0);
        }
    }

    /// The release: an invalidation of everything, once.
    pub(crate) fn release(&self) -> Result<(), Planted> {
        if !self.oracle().may_lock() {
            return Ok(());
        }
        if !self.oracle().release() {
            self.space.release(); // The oracle expects no callback.
            return Ok(());
        }
        let id = self.oracle().start(&(Unbounded, Unbounded), Event::new(EventKind::Release), true);
        let released = caught(|| self.space.release());
        self.oracle().started(if released.is_ok() { Left::Answered } else { Left::Panicked });
        released.inspect(|()| self.oracle().end(id))
    }
}
