//! Callbacks that write down what they hear, as the kernel's do in the reference.

use crate::coarse::{Answer, Heard};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, Call, Change, Invalidate, Notifier, WouldBlock};

/// What the callbacks of ours have heard.
pub(super) type Log = Arc<Mutex<Vec<Heard>>>;

/// How a callback answers.
#[derive(Clone, Copy)]
pub(super) struct Habit {
    pub(super) answer: Answer,
    pub(super) refuses: bool,
}

impl Habit {
    pub(super) fn answer(self, blockable: bool) -> Answer {
        if self.refuses && !blockable { Answer::Refuse } else { self.answer }
    }
}

/// A subscription's value, or a notifier.
pub(super) struct Toy {
    pub(super) id: u32,
    pub(super) habit: Habit,
    pub(super) log: Log,
}

impl Invalidate for Toy {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        let (id, log) = (self.id, self.log.clone());
        lock(&log).push(Heard::Invalidate(id));
        Ok(match self.habit.answer(call.is_blockable()) {
            Answer::SetSeq => call.set_seq(&mut ()),
            Answer::SetSeqAndFinish => {
                call.set_seq(&mut ()).with_finish(Box::new(move || lock(&log).push(Heard::Finish(id))))
            }
            Answer::Ignore => call.unaffected(),
            Answer::Refuse => return Err(call.would_block()),
        })
    }
}

impl Notifier for Toy {
    fn start(&self, change: &Change) -> Result<(), WouldBlock> {
        lock(&self.log).push(Heard::Start(self.id));
        match self.habit.answer(change.is_blockable()) {
            Answer::Refuse => Err(change.would_block()),
            _ => Ok(()),
        }
    }
    fn end(&self, _: &Change) {
        lock(&self.log).push(Heard::End(self.id));
    }
    fn release(&self) {
        lock(&self.log).push(Heard::Release(self.id));
    }
}
