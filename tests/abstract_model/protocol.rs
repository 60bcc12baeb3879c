//! The model as stateright sees it.

use super::membership::{Remover, Subscriber};
use super::owner::Owner;
use super::reader::Reader;
use super::twin::Twin;
use super::world::{Broken, Set, Slot, Sub, World, has};
use stateright::{Model, Property};

/// Who takes part in a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    pub(crate) name: &'static str,
    pub(crate) slots: usize,
    /// How many are called back between two searches.
    pub(crate) batch: usize,
    /// Which subscriptions each invalidation overlaps.
    pub(crate) ranges: &'static [Set],
    /// How many invalidations each owner makes, one after the other.
    pub(crate) owners: &'static [usize],
    /// How many subscriptions there are. The one that is subscribed meanwhile is the last.
    pub(crate) subs: usize,
    /// The subscription of each reader.
    pub(crate) readers: &'static [usize],
    pub(crate) subscribed: Option<usize>,
    pub(crate) unsubscribed: Option<usize>,
    /// Do those who wait do so step by step? If not, they can go on when there is nothing to wait for.
    pub(crate) sleeps: bool,
    /// Does every invalidation stay open until the one that is unsubscribed is gone?
    pub(crate) open_until_gone: bool,
}

impl Cast {
    /// Do subscriptions come or go? Otherwise there is one search, and nobody can tell when.
    pub(crate) fn changes(&self) -> bool {
        self.subscribed.is_some() || self.unsubscribed.is_some()
    }

    /// Readers of the same subscription can change places, unless somebody keeps in mind which of them sleeps.
    pub(crate) fn readers_are_alike(&self) -> bool {
        !self.sleeps && self.readers.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Are there more invalidations than slots? Otherwise the range of a slot is written once.
    pub(crate) fn uses_slots_again(&self) -> bool {
        self.slots < self.ranges.len()
    }

    /// The invalidations that overlap `sub`.
    pub(crate) fn over(&self, sub: usize) -> Set {
        (0..self.ranges.len()).filter(|&n| has(self.ranges[n], sub)).fold(0, |set, n| set | 1 << n)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) cast: Cast,
    /// What it does wrong.
    pub(crate) twin: Option<Twin>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Process {
    Owner(Owner),
    Reader(Reader),
    Subscriber(Subscriber),
    Remover(Remover),
}

impl Process {
    fn is_done(&self) -> bool {
        match self {
            Process::Owner(owner) => owner.is_done(),
            Process::Reader(reader) => reader.is_done(),
            Process::Subscriber(subscriber) => subscriber.is_done(),
            Process::Remover(remover) => remover.is_done(),
        }
    }

    fn step(&mut self, world: &mut World, protocol: &Protocol, me: usize) -> Option<()> {
        match self {
            Process::Owner(owner) => owner.step(world, protocol),
            Process::Reader(reader) => reader.step(world, protocol, me),
            Process::Subscriber(subscriber) => subscriber.step(world, protocol),
            Process::Remover(remover) => remover.step(world, protocol, me),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    world: World,
    processes: Vec<Process>,
}

impl State {
    fn new(protocol: &Protocol) -> Self {
        let cast = &protocol.cast;
        let early = cast.subs - usize::from(cast.subscribed.is_some());
        let sub =
            |n| if n < early { Sub { settled: Some(0), handed_out: true, ..Sub::default() } } else { Sub::default() };
        let slots = (0..cast.slots).map(|_| Slot::default()).collect();
        let world = World {
            root: (1 << early) - 1,
            next_id: early,
            slots,
            subs: (0..cast.subs).map(sub).collect(),
            ..World::default()
        };
        let mut numbers = 0;
        let owners = cast.owners.iter().map(|many| {
            numbers += many;
            Process::Owner(Owner::new(numbers - many..numbers))
        });
        let readers = cast.readers.iter().map(|&sub| Process::Reader(Reader::new(sub)));
        let subscriber = cast.subscribed.map(|sub| Process::Subscriber(Subscriber::new(sub, protocol)));
        let remover = cast.unsubscribed.map(|sub| Process::Remover(Remover::new(sub)));
        State { world, processes: owners.chain(readers).chain(subscriber).chain(remover).collect() }
    }

    /// What every copy was built from is what there is now.
    fn copies_are_fresh(&self, cast: &Cast) -> bool {
        let fresh = |(n, sub): (usize, &Sub)| sub.copy.is_none_or(|built| built == self.world.changed & cast.over(n));
        self.world.subs.iter().enumerate().all(fresh)
    }

    /// While an invalidation is open, nothing that it overlaps holds anything.
    fn nothing_is_mapped_inside(&self, cast: &Cast) -> bool {
        let empty = |(n, sub): (usize, &Sub)| sub.copy.is_none() || self.world.open & cast.over(n) == 0;
        self.world.subs.iter().enumerate().all(empty)
    }
}

pub(crate) const P1: &str = "P1 no stale commit";
pub(crate) const P2: &str = "P2 nothing mapped inside";
pub(crate) const P3: &str = "P3 no false alarm";
pub(crate) const P4: &str = "P4 removal is final";
pub(crate) const P5: &str = "P5 insertion is total";
pub(crate) const BEGIN: &str = "P1 and P5 begin waits for what is open";
pub(crate) const END: &str = "everyone finishes";

impl Model for Protocol {
    type State = State;
    /// The number of the process that makes a step.
    type Action = usize;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<usize>) {
        actions.extend((0..state.processes.len()).filter(|&n| !state.processes[n].is_done()));
    }

    fn next_state(&self, state: &State, process: usize) -> Option<State> {
        let mut next = state.clone();
        let State { world, processes } = &mut next;
        processes[process].step(world, self, process)?;
        if self.cast.readers_are_alike() {
            let first = self.cast.owners.len();
            processes[first..first + self.cast.readers.len()].sort_unstable();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(P1, |model: &Self, state: &State| state.copies_are_fresh(&model.cast)),
            Property::always(P2, |model: &Self, state: &State| state.nothing_is_mapped_inside(&model.cast)),
            Property::always(P3, |_, state: &State| state.world.broken != Some(Broken::FalseAlarm)),
            Property::always(P4, |_, state: &State| state.world.subs.iter().all(|sub| !sub.gone || sub.calling == 0)),
            Property::always(P5, |_, state: &State| state.world.broken != Some(Broken::NotCalled)),
            Property::always(BEGIN, |_, state: &State| state.world.broken != Some(Broken::NotWaitedFor)),
            Property::eventually(END, |_, state: &State| state.processes.iter().all(Process::is_done)),
        ]
    }
}
