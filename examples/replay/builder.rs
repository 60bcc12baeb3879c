//! The mirror side: a device faults, and a builder fills its mirror.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::Checker;
use crate::mappings::{Live, Mappings, Mirrored};
use crate::pause::pause;
use crate::rival::Engine;
use crate::tally::Tally;

/// A begin that takes longer has waited, or the processor was taken away from it: to be woken takes longer than this, and
/// to read a few cold cache lines does not.
const WAITED: Duration = Duration::from_micros(10);

/// What the builders share.
pub(crate) struct Builders<'a, E: Engine<Mirrored>> {
    pub(crate) engine: &'a E,
    pub(crate) mappings: &'a Mappings<'a, E>,
    pub(crate) checker: &'a Checker,
    pub(crate) latency: Duration,
    /// Does the engine promise not to retry for nothing?
    pub(crate) precise: bool,
    /// Does it ask for a retry at all? Not to ask is what the checker must see.
    pub(crate) wrong: bool,
    pub(crate) stop: &'a AtomicBool,
}

impl<E: Engine<Mirrored>> Builders<'_, E> {
    /// Faults until it is stopped; the last fault is served to its end.
    pub(crate) fn run(&self, seed: u64) -> Tally {
        let (mut tally, mut random) = (Tally::default(), fastrand::Rng::with_seed(seed));
        // Relaxed: the threads are joined before anybody looks at what they have done.
        while !self.stop.load(Relaxed) {
            match self.mappings.pick(&mut random) {
                Some((live, address)) => self.fault(&live, live.region.cell_at(address), &mut tally),
                None => thread::sleep(Duration::from_micros(50)), // Nothing is mapped there just now.
            }
        }
        tally
    }

    /// Looks at what the mirror holds of a cell, and builds it anew.
    fn fault(&self, live: &Live<E::Sub>, cell: usize, tally: &mut Tally) {
        self.checker.used(&live.region, cell, &live.region.lock());
        let from = Instant::now();
        while !self.build(live, cell, tally) {}
        tally.filled(from.elapsed());
    }

    /// One build, and whether it was installed.
    fn build(&self, live: &Live<E::Sub>, cell: usize, tally: &mut Tally) -> bool {
        let region = &live.region;
        // Counted and looked at before the begin: in doubt the engine is right.
        let (collisions, open) = (region.collisions(), region.is_open());
        let from = Instant::now();
        let seq = self.engine.read_begin(live.sub());
        let waited = from.elapsed();
        let undisturbed = !open && !region.is_open() && region.collisions() == collisions;
        tally.begun(waited, waited > WAITED && undisturbed);

        let read = region.stamp(cell);
        pause(self.latency);

        let mut held = region.lock();
        if self.engine.read_retry(live.sub(), seq, &held) && !self.wrong {
            let collided = region.collisions() != collisions;
            drop(held);
            tally.retried(collided);
            if self.precise && !collided {
                self.checker.false_alarm(region, from);
            }
            return false;
        }
        self.checker.install(region, cell, read, from);
        held.install(cell, read);
        true
    }
}
