//! Subscribe and unsubscribe.

use super::protocol::Protocol;
use super::twin::Twin;
use super::world::{Identity, Nap, World, has};

/// A thread that subscribes `sub`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Subscriber {
    sub: usize,
    at: Subscribing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Subscribing {
    Publish,
    LoadState(usize),
    LoadRange(Identity),
    Settle,
    Done,
}

impl Subscriber {
    pub(crate) fn new(sub: usize, protocol: &Protocol) -> Self {
        let scans_first = protocol.twin == Some(Twin::ScansBeforePublishing);
        Subscriber { sub, at: if scans_first { Subscribing::LoadState(0) } else { Subscribing::Publish } }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == Subscribing::Done
    }

    /// Makes one step; `None` if it cannot.
    pub(crate) fn step(&mut self, world: &mut World, protocol: &Protocol) -> Option<()> {
        use Subscribing::*;
        let twin = |twin| protocol.twin == Some(twin);
        let scans_first = twin(Twin::ScansBeforePublishing);
        self.at = match self.at {
            Publish => {
                world.root |= 1 << self.sub;
                world.next_id = self.sub + 1;
                if scans_first { Settle } else { LoadState(0) }
            }
            LoadState(slot) if world.slots[slot].active => {
                let identity = Identity { slot, generation: world.slots[slot].generation };
                let again = protocol.cast.uses_slots_again();
                if again { LoadRange(identity) } else { self.load_range(world, protocol, identity) }
            }
            LoadState(slot) => self.after(slot, world, scans_first),
            LoadRange(identity) => self.load_range(world, protocol, identity),
            Settle => {
                let sub = &mut world.subs[self.sub];
                if twin(Twin::BirthSettlesThePresentSeq) && sub.births.is_empty() {
                    sub.settled = Some(sub.seq);
                } else if twin(Twin::BirthIsAlwaysSettled) || sub.births.is_empty() {
                    sub.settled = Some(0);
                }
                sub.handed_out = true;
                Done
            }
            Done => return None,
        };
        Some(())
    }

    fn load_range(&self, world: &mut World, protocol: &Protocol, identity: Identity) -> Subscribing {
        let all = protocol.twin == Some(Twin::BirthsThatDoNotOverlap);
        if all || has(world.slots[identity.slot].range, self.sub) {
            world.subs[self.sub].births.push(identity);
        }
        self.after(identity.slot, world, protocol.twin == Some(Twin::ScansBeforePublishing))
    }

    fn after(&self, slot: usize, world: &World, scans_first: bool) -> Subscribing {
        match slot + 1 == world.slots.len() {
            false => Subscribing::LoadState(slot + 1),
            true if scans_first => Subscribing::Publish,
            true => Subscribing::Settle,
        }
    }
}

/// A thread that unsubscribes `sub`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Remover {
    sub: usize,
    at: Removing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Removing {
    Publish,
    Mark,
    /// Is it in `current` of this slot?
    Look(usize),
    Wait(usize, Nap),
    /// The mark, after all, in the twin that does so.
    MarkLate,
    Done,
}

impl Remover {
    pub(crate) fn new(sub: usize) -> Self {
        Remover { sub, at: Removing::Publish }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == Removing::Done
    }

    /// Makes one step; `None` if it cannot.
    pub(crate) fn step(&mut self, world: &mut World, protocol: &Protocol, me: usize) -> Option<()> {
        use Removing::*;
        let twin = |twin| protocol.twin == Some(twin);
        let sub = self.sub;
        let is_called =
            move |world: &World, slot: usize| world.slots[slot].claimed && has(world.slots[slot].current, sub);
        let mark_late = twin(Twin::MarksAfterWaiting);
        self.at = match self.at {
            Publish => {
                world.root &= !(1 << sub);
                world.subs[sub].leaving = true;
                if mark_late { Look(0) } else { Mark }
            }
            Mark => {
                world.subs[sub].removed = true;
                if twin(Twin::NoWaitInUnsubscribe) { self.gone(world) } else { Look(0) }
            }
            Look(slot) if is_called(world, slot) => Wait(slot, Nap::Lock),
            Look(slot) => self.after(slot, world, mark_late),
            Wait(slot, nap) => {
                match nap.step(world, (slot, me, protocol.cast.sleeps), |world| !is_called(world, slot))? {
                    None => self.after(slot, world, mark_late),
                    Some(nap) => Wait(slot, nap),
                }
            }
            MarkLate => {
                world.subs[sub].removed = true;
                self.gone(world)
            }
            Done => return None,
        };
        Some(())
    }

    fn after(&self, slot: usize, world: &mut World, mark_late: bool) -> Removing {
        match slot + 1 == world.slots.len() {
            false => Removing::Look(slot + 1),
            true if mark_late => Removing::MarkLate,
            true => self.gone(world),
        }
    }

    /// Unsubscribe returns.
    fn gone(&self, world: &mut World) -> Removing {
        world.subs[self.sub].gone = true;
        Removing::Done
    }
}
