//! The primary side: start, the callbacks, the change, end.

use super::protocol::Protocol;
use super::twin::Twin;
use super::world::{Broken, Identity, Set, Slot, World, has};

/// A thread that makes its invalidations one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    /// The number of the present invalidation, and of those that follow.
    pub(crate) invalidation: usize,
    pub(crate) last: usize,
    at: At,
    slot: usize,
    /// How far the search has come, and what was published at the first look.
    from: usize,
    limit: Option<usize>,
    exhausted: bool,
    found: Set,
    /// Those that had been subscribed before it started, and those that it has called.
    owed: Set,
    called: Set,
    /// What its end has read (in the twin that does not swap).
    seen_wait: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    /// It claims a slot and makes it ACTIVE: nobody looks at one that is only CLAIMED.
    Claim,
    Activate,
    Search,
    WriteCurrent,
    DropRemoved,
    // The callback, for the first of `found`.
    LockMirror,
    Remember,
    StoreBy,
    StoreSeq,
    // The end of the batch.
    ClearCurrent,
    LetGo,
    WakeRemovers,
    // The start has returned.
    /// The change and the end are one step: the sooner a build reads, the older is what it reads, and it does so at once.
    End,
    StoreEnd,
    WakeReaders,
    Done,
}

impl Owner {
    pub(crate) fn new(invalidations: std::ops::Range<usize>) -> Self {
        Owner {
            invalidation: invalidations.start,
            last: invalidations.end - 1,
            at: At::Claim,
            slot: 0,
            from: 0,
            limit: None,
            exhausted: false,
            found: 0,
            owed: 0,
            called: 0,
            seen_wait: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    fn identity(&self, world: &World) -> Identity {
        Identity { slot: self.slot, generation: world.slots[self.slot].generation }
    }

    /// The number that `seq` gets; 0 is the birth.
    fn ticket(&self) -> u8 {
        self.invalidation as u8 + 1
    }

    /// Makes one step; `None` if it cannot.
    pub(crate) fn step(&mut self, world: &mut World, protocol: &Protocol) -> Option<()> {
        let twin = |twin| protocol.twin == Some(twin);
        self.at = match self.at {
            At::Claim => self.claim(world, protocol)?,
            At::Activate => {
                world.slots[self.slot].active = true;
                self.after_search(world, protocol)
            }
            At::Search => {
                let first = self.limit.is_none();
                self.search(world, protocol.cast.batch);
                self.exhausted |= twin(Twin::OneBatchOnly);
                if first && twin(Twin::SearchesBeforeActive) {
                    At::Activate
                } else {
                    self.after_search(world, protocol)
                }
            }
            At::WriteCurrent => {
                world.slots[self.slot].current = self.found;
                if twin(Twin::RemovedIsReadBeforeCurrent) { self.next_call(world, protocol) } else { At::DropRemoved }
            }
            At::DropRemoved => {
                if !twin(Twin::RemovedIsIgnored) {
                    self.found &= !set_of(world, |sub| sub.removed);
                }
                let early = twin(Twin::RemovedIsReadBeforeCurrent) && self.found != 0;
                if early { At::WriteCurrent } else { self.next_call(world, protocol) }
            }
            At::LockMirror | At::Remember | At::StoreBy | At::StoreSeq => self.call_back(world, protocol)?,
            At::ClearCurrent => {
                world.slots[self.slot].current = 0;
                let wakes = protocol.cast.sleeps && !twin(Twin::NoWakeUpAfterABatch);
                if wakes { At::LetGo } else { self.after_batch(world) }
            }
            At::LetGo => {
                let waited = std::mem::take(&mut world.slots[self.slot].wait);
                if waited { At::WakeRemovers } else { self.after_batch(world) }
            }
            At::WakeRemovers => {
                world.wake(self.slot, twin(Twin::WakesWithoutTheLock))?;
                self.after_batch(world)
            }
            At::End if protocol.cast.open_until_gone && world.subs.iter().all(|sub| !sub.gone) => return None,
            At::End => {
                world.changed |= 1 << self.invalidation;
                world.open &= !(1 << self.invalidation);
                self.seen_wait = world.slots[self.slot].wait;
                if twin(Twin::EndIsNoReadModifyWrite) { At::StoreEnd } else { self.free(world) }
            }
            At::StoreEnd => self.free(world),
            At::WakeReaders => {
                world.wake(self.slot, twin(Twin::WakesWithoutTheLock))?;
                self.next()
            }
            At::Done => return None,
        };
        Some(())
    }

    fn claim(&mut self, world: &mut World, protocol: &Protocol) -> Option<At> {
        let twin = |twin| protocol.twin == Some(twin);
        self.slot = world.slots.iter().position(|slot| !slot.claimed)?;
        self.owed = set_of(world, |sub| sub.handed_out && !sub.leaving);
        let slot = &mut world.slots[self.slot];
        let generation = slot.generation + u8::from(!twin(Twin::GenerationIsKept));
        let active = !twin(Twin::SearchesBeforeActive);
        let range = protocol.cast.ranges[self.invalidation];
        *slot = Slot { generation, claimed: true, active, wait: false, range, ..slot.clone() };
        if protocol.cast.changes() {
            return Some(At::Search);
        }
        self.search(world, protocol.cast.batch);
        Some(self.after_search(world, protocol))
    }

    /// Finds the next batch in the present snapshot, of those that were in the first one too.
    fn search(&mut self, world: &World, batch: usize) {
        let limit = *self.limit.get_or_insert(world.next_id);
        let overlapping = world.root & world.slots[self.slot].range;
        let mut hits = (self.from..limit).filter(|&sub| has(overlapping, sub));
        self.found = 0;
        for sub in hits.by_ref().take(batch) {
            self.found |= 1 << sub;
            self.from = sub + 1;
        }
        self.exhausted = (self.found.count_ones() as usize) < batch;
    }

    fn after_search(&mut self, world: &mut World, protocol: &Protocol) -> At {
        if self.found == 0 {
            self.started(world)
        } else if protocol.cast.unsubscribed.is_none() {
            self.next_call(world, protocol) // Nobody looks at `current`.
        } else if protocol.twin == Some(Twin::RemovedIsReadBeforeCurrent) {
            At::DropRemoved
        } else {
            At::WriteCurrent
        }
    }

    fn after_batch(&mut self, world: &mut World) -> At {
        if self.exhausted { self.started(world) } else { At::Search }
    }

    /// The callback of the next one of the batch begins.
    fn next_call(&mut self, world: &mut World, protocol: &Protocol) -> At {
        if self.found != 0 {
            world.subs[self.sub()].calling += 1;
            At::LockMirror
        } else if protocol.cast.unsubscribed.is_none() {
            self.after_batch(world)
        } else {
            At::ClearCurrent
        }
    }

    /// The one that is called back.
    fn sub(&self) -> usize {
        self.found.trailing_zeros() as usize
    }

    fn call_back(&mut self, world: &mut World, protocol: &Protocol) -> Option<At> {
        let twin = |twin| protocol.twin == Some(twin);
        let (me, ticket, n) = (self.identity(world), self.ticket(), self.sub());
        let sub = &mut world.subs[n];
        Some(match self.at {
            // The lock and the load of `settled`: `seq` does not change under the lock.
            At::LockMirror => {
                if std::mem::replace(&mut sub.locked, true) {
                    return None;
                }
                let settled = sub.settled == Some(sub.seq);
                if settled || twin(Twin::NothingPushed) { At::StoreBy } else { At::Remember }
            }
            At::Remember => {
                remember(world, n, twin(Twin::CellReusedTooEarly));
                At::StoreBy
            }
            At::StoreBy => {
                match protocol.twin {
                    Some(Twin::NoSetSeq) => {}
                    Some(Twin::ByIsStoredAfterSeq) => sub.seq = ticket,
                    _ => sub.by = Some(me),
                }
                At::StoreSeq
            }
            // The copy is used under the lock alone, so the rest of the callback is one step with the store.
            _ => {
                match protocol.twin {
                    Some(Twin::NoSetSeq) => {}
                    Some(Twin::ByIsStoredAfterSeq) => sub.by = Some(me),
                    _ => sub.seq = ticket,
                }
                sub.copy = None;
                sub.locked = false;
                sub.calling -= 1;
                self.called |= 1 << n;
                self.found &= !(1 << n);
                world.meet(n, self.slot);
                self.next_call(world, protocol)
            }
        })
    }

    /// The start returns.
    fn started(&mut self, world: &mut World) -> At {
        let still_there = set_of(world, |sub| !sub.leaving);
        if self.owed & world.slots[self.slot].range & still_there & !self.called != 0 {
            world.broken = Some(Broken::NotCalled);
        }
        world.open |= 1 << self.invalidation;
        // What is not needed any more is not to tell states apart.
        *self = Owner { slot: self.slot, ..Owner::new(self.invalidation..self.last + 1) };
        At::End
    }

    /// The end: one swap, and WAIT as it was.
    fn free(&mut self, world: &mut World) -> At {
        let slot = &mut world.slots[self.slot];
        (slot.claimed, slot.active, slot.wait) = (false, false, false);
        if self.seen_wait { At::WakeReaders } else { self.next() }
    }

    fn next(&mut self) -> At {
        let is_last = self.invalidation == self.last;
        *self = if is_last {
            Owner { at: At::Done, ..Owner::new(self.last..self.last + 1) }
        } else {
            Owner::new(self.invalidation + 1..self.last + 1)
        };
        self.at
    }
}

/// Puts what `by` names into `also`, if it is active: into a cell whose invalidation has ended, or a new one.
fn remember(world: &mut World, n: usize, carelessly: bool) {
    let sub = &world.subs[n];
    let Some(previous) = sub.by.filter(|&by| world.is_active(by)) else { return };
    let free = sub.also.iter().position(|&cell| carelessly || !world.is_active(cell));
    let also = &mut world.subs[n].also;
    match free {
        Some(cell) => also[cell] = previous,
        None => also.push(previous),
    }
}

fn set_of(world: &World, is_in: impl Fn(&super::world::Sub) -> bool) -> Set {
    world.subs.iter().enumerate().filter(|(_, sub)| is_in(sub)).fold(0, |set, (n, _)| set | 1 << n)
}
