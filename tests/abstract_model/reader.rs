//! The mirror side: begin, build, lock, retry, install; again until it is installed.

use super::protocol::Protocol;
use super::twin::Twin;
use super::world::{Broken, Identity, Nap, Set, Sub, World};

/// A thread that builds the copy of one subscription, once it has the handle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reader {
    sub: usize,
    at: At,
    /// What begin returns.
    seq: u8,
    /// What had started before begin was called and was still open.
    owed: Set,
}

/// A word that names an invalidation to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    By,
    Also(usize),
    Birth(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    LoadSeq,
    LoadSettled,
    /// `seq` is loaded again after `by`, in the twin that does so.
    LoadSeqLate(Option<Identity>),
    Load(Word),
    IsActive(Word, Identity),
    Wait(Word, Identity, Nap),
    Settle,
    /// With what was built.
    Commit(Set),
    /// It has been checked already, in the twin that does so.
    Install(Set),
    Done,
}

impl Reader {
    pub(crate) fn new(sub: usize) -> Self {
        Reader { sub, at: At::LoadSeq, seq: 0, owed: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Makes one step; `None` if it cannot.
    pub(crate) fn step(&mut self, world: &mut World, protocol: &Protocol, me: usize) -> Option<()> {
        let concerns = protocol.cast.over(self.sub);
        let twin = |twin| protocol.twin == Some(twin);
        let Sub { seq, by, settled, handed_out, .. } = world.subs[self.sub];
        self.at = match self.at {
            At::LoadSeq if !handed_out => return None,
            At::LoadSeq => {
                self.seq = seq;
                self.owed = world.open & concerns;
                At::LoadSettled
            }
            At::LoadSettled if settled == Some(self.seq) => self.begun(world, concerns),
            At::LoadSettled if twin(Twin::ByIsLoadedBeforeSeq) => At::LoadSeqLate(by),
            At::LoadSettled => self.word(world, protocol, Word::By),
            At::LoadSeqLate(by) => {
                self.seq = seq;
                self.look(world, protocol, Word::By, by)
            }
            At::Load(word) => self.load(world, protocol, word),
            At::IsActive(word, identity) if world.is_active(identity) => {
                world.meet(self.sub, identity.slot);
                At::Wait(word, identity, Nap::Lock)
            }
            At::IsActive(word, _) => self.after(world, protocol, word),
            At::Wait(word, identity, nap) => {
                match nap.step(world, (identity.slot, me, protocol.cast.sleeps), |world| !world.is_active(identity))? {
                    None => self.after(world, protocol, word),
                    Some(nap) => {
                        // It goes on waiting: is it still for something that overlaps?
                        if nap == Nap::LieDown {
                            world.meet(self.sub, identity.slot);
                        }
                        At::Wait(word, identity, nap)
                    }
                }
            }
            At::Settle => {
                world.subs[self.sub].settled = Some(if twin(Twin::SettlesThePresentSeq) { seq } else { self.seq });
                self.begun(world, concerns)
            }
            At::Commit(built) | At::Install(built) => self.commit(&mut world.subs[self.sub], protocol, built)?,
            At::Done => return None,
        };
        if self.at == At::LoadSeq || self.at == At::Done {
            (self.seq, self.owed) = (0, 0);
        }
        Some(())
    }

    /// Lock, retry, install and unlock are one step: what they use is changed under the lock alone.
    fn commit(&self, sub: &mut Sub, protocol: &Protocol, built: Set) -> Option<At> {
        let is_checked = matches!(self.at, At::Install(_));
        if protocol.twin == Some(Twin::RetryOutsideTheLock) && !is_checked {
            return Some(if sub.seq == self.seq { At::Install(built) } else { At::LoadSeq });
        }
        if sub.locked {
            return None;
        }
        if sub.seq != self.seq && !is_checked {
            return Some(At::LoadSeq);
        }
        sub.copy = Some(built);
        Some(At::Done)
    }

    /// Goes to `word`, unless nobody waits for it.
    fn word(&self, world: &World, protocol: &Protocol, word: Word) -> At {
        match (protocol.twin, word) {
            (Some(Twin::NoWaitForBy), Word::By) => self.word(world, protocol, Word::Also(0)),
            (Some(Twin::NoWaitForAlso), Word::Also(_)) => self.word(world, protocol, Word::Birth(0)),
            (Some(Twin::NoWaitForBirths), Word::Birth(_)) => At::Settle,
            // Nobody changes what it was born into: to look at it is no step.
            (_, Word::Birth(n)) => match world.subs[self.sub].births.get(n) {
                None => At::Settle,
                Some(&identity) => At::IsActive(word, identity),
            },
            _ => At::Load(word),
        }
    }

    fn load(&self, world: &World, protocol: &Protocol, word: Word) -> At {
        let sub = &world.subs[self.sub];
        match word {
            Word::Also(n) if n == sub.also.len() => self.word(world, protocol, Word::Birth(0)),
            Word::Also(n) => self.look(world, protocol, word, Some(sub.also[n])),
            _ => self.look(world, protocol, word, sub.by),
        }
    }

    /// Has what the word names ended?
    fn look(&self, world: &World, protocol: &Protocol, word: Word, identity: Option<Identity>) -> At {
        match identity {
            Some(identity) => At::IsActive(word, identity),
            None => self.after(world, protocol, word),
        }
    }

    fn after(&self, world: &World, protocol: &Protocol, word: Word) -> At {
        let next = match word {
            Word::By => Word::Also(0),
            Word::Also(n) => Word::Also(n + 1),
            Word::Birth(n) => Word::Birth(n + 1),
        };
        self.word(world, protocol, next)
    }

    /// Begin returns. The build reads everything at once: the sooner it reads, the older is what it reads.
    fn begun(&mut self, world: &mut World, concerns: Set) -> At {
        if self.owed & world.open != 0 {
            world.broken = Some(Broken::NotWaitedFor);
        }
        self.owed = 0;
        At::Commit(world.changed & concerns)
    }
}
