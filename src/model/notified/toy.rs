//! Notifiers that tell the oracle what they hear, and do in their callbacks as their habits say.

use super::op::{Habits, Question, Told};
use super::oracle::{Id, Left, is_shut};
use super::{Planted, World};
use crate::model::oracle::Reach;
use crate::sync::Arc;
use crate::{Ack, Call, Change, Invalidate, Notifier, SecondaryTlb, Span, WouldBlock};
use std::ops::Bound::Included;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A notifier of either kind.
pub(super) struct Toy {
    pub(super) id: Id,
    pub(super) habits: Habits,
    pub(super) world: Arc<World>,
}

impl Toy {
    /// What every callback does: tells the oracle, plays the script, panics, answers.
    fn called(&self, what: Told, refuses: bool, more: impl FnOnce()) -> Result<bool, WouldBlock> {
        self.world.checked(|| self.world.oracle().enter(self.id, what));
        let callback = || {
            more();
            self.play(what);
        };
        let called = catch_unwind(AssertUnwindSafe(|| self.world.checked(callback)));
        let left = match called {
            Err(_) => Left::Panicked,
            Ok(()) if refuses => Left::Refused,
            Ok(()) => Left::Answered { young: self.habits.young },
        };
        self.world.oracle().leave(self.id, left);
        match called {
            Err(panic) => resume_unwind(panic),
            Ok(()) if refuses => Err(WouldBlock),
            Ok(()) => Ok(self.habits.young),
        }
    }

    fn play(&self, what: Told) {
        match &self.habits.script {
            // Not while a start is undone because somebody has panicked: what panics then does not go on.
            Some((when, op)) if *when == what && !std::thread::panicking() => self.world.step_inside(op),
            _ => {}
        }
        if self.habits.panics == Some(what) {
            resume_unwind(Box::new(Planted)); // Unlike `panic!`, it does not call the panic hook.
        }
    }

    fn hear(&self, change: &Change) {
        assert_eq!(change.range(), change.overlap());
        let reach = Reach::of_span(change.range());
        self.world.oracle().heard(reach, change.is_blockable(), change.ticket());
    }

    fn asked(&self, question: Question, range: Span) -> bool {
        let about = || assert_eq!(self.world.oracle().reach(), Some(Reach::of_span(range)));
        self.called(Told::Asked(question), false, about).expect("it does not refuse")
    }

    fn released(&self) {
        self.called(Told::Release, false, || ()).expect("it does not refuse");
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.world.oracle().dropped(self.id);
    }
}

impl Notifier for Toy {
    fn start(&self, change: &Change) -> Result<(), WouldBlock> {
        let refuses = self.habits.refuses && !change.is_blockable();
        self.called(Told::Start, refuses, || self.hear(change)).map(drop)
    }

    fn end(&self, change: &Change) {
        let heard = self.called(Told::End, false, || {
            self.hear(change);
            // The end is told before readers go on.
            for begin in self.world.begins(change.range()) {
                assert!(is_shut(begin), "a reader goes on before the end has been told: {begin:?}");
            }
        });
        heard.expect("an end is not refused");
    }

    fn clear_flush_young(&self, range: Span) -> bool {
        self.asked(Question::ClearFlushYoung, range)
    }

    fn clear_young(&self, range: Span) -> bool {
        self.asked(Question::ClearYoung, range)
    }

    fn test_young(&self, address: u64) -> bool {
        self.asked(Question::TestYoung, Span::new((Included(address), Included(address))).expect("it is one address"))
    }

    fn release(&self) {
        self.released();
    }
}

impl SecondaryTlb for Toy {
    fn invalidate(&self, range: Span) {
        self.asked(Question::InvalidateTlbs, range);
    }

    fn release(&self) {
        self.released();
    }
}

/// The one of its type in a space.
pub(super) struct One<const OF: u8>(pub(super) Toy);

impl<const OF: u8> Notifier for One<OF> {
    fn start(&self, change: &Change) -> Result<(), WouldBlock> {
        Notifier::start(&self.0, change)
    }
    fn end(&self, change: &Change) {
        self.0.end(change);
    }
    fn clear_flush_young(&self, range: Span) -> bool {
        self.0.clear_flush_young(range)
    }
    fn clear_young(&self, range: Span) -> bool {
        self.0.clear_young(range)
    }
    fn test_young(&self, address: u64) -> bool {
        self.0.test_young(address)
    }
    fn release(&self) {
        self.0.released();
    }
}

/// A subscription among the notifiers.
pub(super) struct Mirrored {
    pub(super) refuses: bool,
    pub(super) world: Arc<World>,
}

impl Invalidate for Mirrored {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        let refuses = self.refuses && !call.is_blockable();
        self.world.checked(|| self.world.oracle().subscription(call, refuses));
        if refuses { Err(call.would_block()) } else { Ok(call.set_seq(&mut ())) }
    }
}
