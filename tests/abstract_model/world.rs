//! What the processes share: slots, subscriptions, the published root; and what the promises say of it.

use arrayvec::ArrayVec;

/// A set of subscriptions, of invalidations or of processes.
pub(crate) type Set = u8;

pub(crate) const MAX: usize = 3;

pub(crate) fn has(set: Set, n: usize) -> bool {
    set & 1 << n != 0
}

/// One invalidation of a slot: which, and the slot's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) slot: usize,
    pub(crate) generation: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    // The state word.
    pub(crate) generation: u8,
    pub(crate) claimed: bool,
    pub(crate) active: bool,
    pub(crate) wait: bool,

    /// The subscriptions that the range overlaps.
    pub(crate) range: Set,
    pub(crate) current: Set,

    // The lock and the condition variable of those who wait.
    pub(crate) locked: bool,
    pub(crate) asleep: Set,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sub {
    pub(crate) seq: u8,
    pub(crate) by: Option<Identity>,
    pub(crate) also: ArrayVec<Identity, MAX>,
    /// `None`: a value that no `seq` has.
    pub(crate) settled: Option<u8>,
    pub(crate) births: ArrayVec<Identity, MAX>,
    pub(crate) removed: bool,

    /// The mirror lock.
    pub(crate) locked: bool,
    /// What the mirror holds: which of the changes that concern it were in what it was built from.
    pub(crate) copy: Option<Set>,

    /// `subscribe` has returned.
    pub(crate) handed_out: bool,
    /// `unsubscribe` has begun; it has returned.
    pub(crate) leaving: bool,
    pub(crate) gone: bool,
    /// How many callbacks run.
    pub(crate) calling: u8,
}

/// A promise that a step, not a state, has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// A reader waited for, or built again for, what does not overlap.
    FalseAlarm,
    /// A start has returned without calling a subscription that was there before.
    NotCalled,
    /// A begin has returned while something that had started before it was called is open.
    NotWaitedFor,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) root: Set,
    pub(crate) next_id: usize,
    pub(crate) slots: ArrayVec<Slot, MAX>,
    pub(crate) subs: ArrayVec<Sub, MAX>,
    /// The changes that have been made: one for each invalidation, while it is open.
    pub(crate) changed: Set,
    /// Invalidations whose start has returned and whose end has not begun.
    pub(crate) open: Set,
    pub(crate) broken: Option<Broken>,
}

impl World {
    pub(crate) fn is_active(&self, identity: Identity) -> bool {
        let slot = &self.slots[identity.slot];
        slot.claimed && slot.generation == identity.generation
    }

    /// Somebody who looks after `sub` has to do with whatever has the slot now.
    pub(crate) fn meet(&mut self, sub: usize, slot: usize) {
        if !has(self.slots[slot].range, sub) {
            self.broken = Some(Broken::FalseAlarm);
        }
    }

    // ---- waiting for a slot, in the steps of its lock and its condition variable

    /// Takes the lock and sets WAIT; then the condition is looked at. `None`: the lock is not free.
    pub(crate) fn lock_and_set_wait(&mut self, slot: usize) -> Option<()> {
        let slot = &mut self.slots[slot];
        if std::mem::replace(&mut slot.locked, true) {
            return None;
        }
        slot.wait = true;
        Some(())
    }

    pub(crate) fn unlock(&mut self, slot: usize) {
        self.slots[slot].locked = false;
    }

    /// Sleeps and gives up the lock, in one step.
    pub(crate) fn sleep(&mut self, slot: usize, process: usize) {
        self.slots[slot].asleep |= 1 << process;
        self.unlock(slot);
    }

    /// Notifies all, under the lock unless `carelessly`. `None`: the lock is not free.
    pub(crate) fn wake(&mut self, slot: usize, carelessly: bool) -> Option<()> {
        let slot = &mut self.slots[slot];
        if slot.locked && !carelessly {
            return None;
        }
        slot.asleep = 0;
        Some(())
    }
}

/// Where a process is that waits for something to happen to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Nap {
    /// It is about to lock and to set WAIT.
    Lock,
    /// It holds the lock and is about to look.
    Look,
    /// It holds the lock, has seen that it must wait, and is about to sleep.
    LieDown,
    Asleep,
}

impl Nap {
    /// One step of process `me`; `Some(None)` when the wait is over, `None` if it cannot move. If it does not `sleep`, the
    /// wait is one step.
    pub(crate) fn step(
        self,
        world: &mut World,
        (slot, me, sleeps): (usize, usize, bool),
        is_over: impl Fn(&World) -> bool,
    ) -> Option<Option<Nap>> {
        match self {
            _ if !sleeps => is_over(world).then_some(None),
            Nap::Asleep if has(world.slots[slot].asleep, me) => None,
            Nap::Lock | Nap::Asleep => world.lock_and_set_wait(slot).map(|()| Some(Nap::Look)),
            Nap::Look if is_over(world) => {
                world.unlock(slot);
                Some(None)
            }
            Nap::Look => Some(Some(Nap::LieDown)),
            Nap::LieDown => {
                world.sleep(slot, me);
                Some(Some(Nap::Asleep))
            }
        }
    }
}
