//! Toy mirrors: what they do in their callbacks, and the handles by which a run uses them.
//!
//! A toy holds pages, each with the generation of the primary that it saw. The low-level toy has a lock of its own,
//! the high-level one lives in a [`Mirror`]; both obey the same [`Habits`].

use super::op::{Habits, How};
use super::oracle::{Left, Pages, SubId};
use super::world::{Planted, World};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, BeginError, Call, Change, Invalidate, Mirror, MirrorState, ReadSeq, Span, Subscription, WouldBlock};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// The part of a toy that the oracle knows by number. It tells when it is dropped.
pub(crate) struct Value {
    pub(crate) id: SubId,
    pub(crate) habits: Habits,
    pub(crate) world: Arc<World>,
}

impl Value {
    /// Does the change concern it, or was it made on its own behalf?
    fn concerned(&self, change: &Change) -> bool {
        self.habits.owner.is_none_or(|own| change.event().owner() != Some(self.world.owner(own)))
    }

    /// What a callback does around its answer: tell the oracle, play the script, panic if that is the habit.
    fn called<R>(&self, change: &Change, answer: impl FnOnce() -> R) -> Result<R, WouldBlock> {
        assert_unpinned();
        self.world.oracle().enter(self.id, change);
        if self.habits.refuses && !change.is_blockable() {
            self.world.oracle().leave(self.id, Left::Refused);
            return Err(change.would_block());
        }
        let answered = catch_unwind(AssertUnwindSafe(|| {
            self.play(true);
            let answer = answer();
            self.play(false);
            if self.habits.panics {
                resume_unwind(Box::new(Planted)); // Unlike `panic!`, it does not call the panic hook.
            }
            answer
        }));
        self.world.oracle().leave(self.id, if answered.is_ok() { Left::Answered } else { Left::Panicked });
        answered.map_err(|panic| resume_unwind(panic))
    }

    /// Plays the script if it is its turn: before the answer, or after it.
    fn play(&self, before: bool) {
        match &self.habits.script {
            Some((first, op)) if *first == before => self.world.step_inside(op),
            _ => {}
        }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // A run that has failed already leaves anything behind. (No toy's panic drops a value on its way.)
        if !std::thread::panicking() {
            assert_unpinned();
            self.world.oracle().dropped(self.id);
        }
    }
}

/// No code of a user may run under a pin: it would keep the whole process from reclaiming memory.
fn assert_unpinned() {
    #[cfg(not(any(loom, shuttle)))] // There, pins belong to a collector of their own.
    assert!(!crossbeam_epoch::is_pinned(), "user code runs under an epoch pin");
}

fn evict(pages: &mut Pages, gone: Span) {
    pages.retain(|page, _| !(gone.first()..=gone.last()).contains(page));
}

/// A toy that has a lock of its own.
pub(crate) struct Toy {
    pub(crate) value: Value,
    pub(crate) pages: Mutex<Pages>,
}

impl Invalidate for Toy {
    type Locked = Pages;
    fn invalidate(&self, call: &Call<'_, Pages>) -> Result<Ack, WouldBlock> {
        self.value.called(call, || {
            if !self.value.concerned(call) {
                return call.unaffected();
            }
            let mut pages = lock(&self.pages);
            let mut ack = call.set_seq(&mut pages);
            if self.value.habits.twice {
                ack = call.set_seq(&mut pages);
            }
            evict(&mut pages, call.overlap());
            self.value.world.oracle().collide(self.value.id);
            ack
        })
    }
}

/// A toy whose lock is the library's.
pub(crate) struct State {
    pub(crate) value: Value,
    pub(crate) pages: Pages,
}

impl State {
    fn called(&mut self, change: &Change) -> Result<(), WouldBlock> {
        let (world, id) = (self.value.world.clone(), self.value.id);
        assert!(self.value.concerned(change), "{id} has said that it is not concerned");
        world.oracle().lock(id);
        let answered = catch_unwind(AssertUnwindSafe(|| {
            self.value.called(change, || evict(&mut self.pages, change.overlap()))?;
            world.oracle().collide(id); // The library does it when we return, before it unlocks.
            Ok(())
        }));
        world.oracle().unlock(id);
        answered.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl MirrorState for State {
    fn invalidate(&mut self, change: &Change) {
        self.called(change).expect("it refuses only where it may");
    }

    fn try_invalidate(&mut self, change: &Change) -> Result<(), WouldBlock> {
        self.called(change)
    }

    fn concerns(&self, change: &Change) -> bool {
        let concerned = self.value.concerned(change);
        if !concerned {
            self.value.world.oracle().enter(self.value.id, change);
            self.value.world.oracle().leave(self.value.id, Left::Answered);
        }
        concerned
    }
}

/// What the crate gave for a toy.
pub(crate) enum Handle {
    Low(Subscription<Toy>),
    High(Mirror<State>),
}

/// Says the same to either kind.
macro_rules! either {
    ($handle:expr, $it:ident => $say:expr) => {
        match $handle {
            Handle::Low($it) => $say,
            Handle::High($it) => $say,
        }
    };
}

impl Handle {
    pub(crate) fn begin(&self, how: How) -> Result<ReadSeq, BeginError> {
        match how {
            How::Try => either!(self, it => it.try_read_begin()),
            How::Timeout => either!(self, it => it.read_begin_timeout(Duration::ZERO)),
            How::Wait => either!(self, it => it.read_begin()),
        }
    }

    pub(crate) fn check_retry(&self, seq: &ReadSeq) -> bool {
        either!(self, it => it.check_retry(seq))
    }

    pub(crate) fn last_collision(&self) -> Option<u64> {
        either!(self, it => it.last_collision())
    }

    pub(crate) fn range(&self) -> Span {
        either!(self, it => it.range())
    }

    /// Lock, retry, install: `true` if the toy took the pages.
    pub(crate) fn commit(&self, seq: ReadSeq, built: Pages) -> bool {
        match self {
            Handle::Low(sub) => {
                let mut pages = lock(&sub.ops().pages);
                let stale = sub.read_retry(seq, &pages);
                if !stale {
                    pages.extend(built);
                }
                !stale
            }
            Handle::High(mirror) => {
                let size = built.len();
                match mirror.commit(seq, built, |state, built| state.pages.extend(built)) {
                    Ok(()) => true,
                    Err(collision) => {
                        assert_eq!(collision.0.len(), size, "a collision gives the build back");
                        false
                    }
                }
            }
        }
    }

    /// The value, or the handle itself where a removal would wait for its own caller.
    pub(crate) fn unsubscribe(self) -> Result<Value, Handle> {
        match self {
            Handle::Low(sub) => sub.unsubscribe().map(|toy| toy.value).map_err(|error| Handle::Low(error.0)),
            Handle::High(mirror) => {
                mirror.unsubscribe().map(|state| state.value).map_err(|error| Handle::High(error.0))
            }
        }
    }

    /// What the toy holds; `None` if its mirror is poisoned.
    pub(crate) fn pages(&self) -> Option<Pages> {
        match self {
            Handle::Low(sub) => Some(lock(&sub.ops().pages).clone()),
            Handle::High(mirror) => mirror.with(|state| state.pages.clone()).ok(),
        }
    }
}
