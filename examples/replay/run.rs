//! One replay with one engine: the owners, the builders, and the janitor that ends subscriptions.

use std::panic::resume_unwind;
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::builder::Builders;
use crate::check::{Checker, Found};
use crate::mappings::{Counts, Mappings, Mirrored};
use crate::options::{Kind, Options};
use crate::order::{Order, by_thread, turns};
use crate::owner::{Owners, Pace};
use crate::rival::{Engine, GlobalSeq, Interval, Kernel, RwLockIset};
use crate::tally::{Tally, Times};
use crate::trace::Trace;

/// What a replay has shown.
pub(crate) struct Outcome {
    pub(crate) work: Work,
    pub(crate) retired: Retired,
    pub(crate) found: Found,
}

/// What owners and builders did.
pub(crate) struct Work {
    /// From the first call to the last return.
    pub(crate) took: Duration,
    pub(crate) subscriptions: Counts,
    pub(crate) tally: Tally,
}

/// What the janitor learnt of the subscriptions that it ended, which in the end is all of them.
pub(crate) struct Retired {
    pub(crate) callbacks: u64,
    pub(crate) unsubscribe: Times,
}

/// Replays with the engine of that name. `tick` is told again and again how many calls are done.
pub(crate) fn replay(kind: Kind, trace: &Trace, options: &Options, tick: impl Fn(u64)) -> Outcome {
    match kind {
        Kind::Interval => Run { trace, options, precise: true }.with::<Interval>(tick),
        Kind::Kernel => Run { trace, options, precise: false }.with::<Kernel<Mirrored>>(tick),
        Kind::RwlockIset => Run { trace, options, precise: false }.with::<RwLockIset<Mirrored>>(tick),
        Kind::GlobalSeq => Run { trace, options, precise: false }.with::<GlobalSeq<Mirrored>>(tick),
    }
}

struct Run<'a> {
    trace: &'a Trace,
    options: &'a Options,
    /// Does the engine promise not to retry for nothing?
    precise: bool,
}

impl Run<'_> {
    fn with<E: Engine<Mirrored>>(&self, tick: impl Fn(u64)) -> Outcome {
        let (engine, checker) = (E::default(), Checker::new(Instant::now()));
        let (janitor, subscriptions) = channel();
        let (work, retired) = thread::scope(|scope| {
            let retired = spawn(scope, || retire(&engine, subscriptions));
            let work = self.work(&engine, &checker, janitor, tick);
            (work, join(retired))
        });
        Outcome { work, retired, found: checker.finish() }
    }

    /// Starts all threads and waits for the owners first: builders have nothing to do without them.
    fn work<E: Engine<Mirrored>>(
        &self,
        engine: &E,
        checker: &Checker,
        janitor: Sender<E::Sub>,
        tick: impl Fn(u64),
    ) -> Work {
        let mappings = &Mappings::new(engine, self.options.window, janitor);
        let (stop, done, start) = (AtomicBool::new(false), AtomicU64::new(0), OnceLock::new());
        let (turns, queues) = (turns(self.trace), by_thread(self.trace));
        let order = Order::new(turns.len(), queues.len());
        let ready = Barrier::new(queues.len());
        let pace = Pace { start: &start, speed: self.options.speed };
        let owners = &Owners { engine, mappings, checker, order: &order, pace, done: &done };
        let builders = &self.builders(engine, mappings, checker, &stop);
        let tally = thread::scope(|scope| {
            let builders = (0..self.options.builders).map(|seed| spawn(scope, move || builders.run(seed)));
            let builders: Vec<_> = builders.collect();
            let owner = |(thread, queue): (usize, Vec<usize>)| {
                let (turns, ready, calls) = (&turns, &ready, &self.trace.calls);
                spawn(scope, move || {
                    ready.wait();
                    owners.replay(thread, queue.iter().map(|&call| (&calls[call], &turns[call])))
                })
            };
            let owners: Vec<_> = queues.into_iter().enumerate().map(owner).collect();
            while !owners.iter().all(|owner| owner.is_finished()) {
                // Relaxed: for the progress bar.
                tick(done.load(Relaxed));
                thread::sleep(Duration::from_millis(20));
            }
            // Relaxed: builders are joined before anybody looks at what they did.
            stop.store(true, Relaxed);
            let took = owners.into_iter().map(join).max().unwrap_or_default();
            let mut tally = Tally::new();
            builders.into_iter().for_each(|builder| tally += join(builder));
            (took, tally)
        });
        Work { took: tally.0, subscriptions: mappings.counts(), tally: tally.1 }
    }

    fn builders<'b, E: Engine<Mirrored>>(
        &self,
        engine: &'b E,
        mappings: &'b Mappings<'b, E>,
        checker: &'b Checker,
        stop: &'b AtomicBool,
    ) -> Builders<'b, E> {
        let (latency, wrong) = (self.options.build_latency(), self.options.wrong);
        Builders { engine, mappings, checker, latency, precise: self.precise, wrong, stop }
    }
}

/// Ends subscriptions until there is nobody left who could send one.
fn retire<E: Engine<Mirrored>>(engine: &E, subscriptions: Receiver<E::Sub>) -> Retired {
    let mut retired = Retired { callbacks: 0, unsubscribe: Times::new() };
    for subscription in subscriptions {
        let from = Instant::now();
        let Mirrored(region) = engine.unsubscribe(subscription);
        retired.unsubscribe.add(from.elapsed());
        retired.callbacks += region.collisions();
    }
    retired
}

/// Starts a thread. Where one fails the others would wait for its turn for ever, so then the process ends.
fn spawn<'scope, R: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> R + Send + 'scope,
) -> ScopedJoinHandle<'scope, R> {
    let work = || {
        let _end = EndOnPanic;
        work()
    };
    thread::Builder::new().spawn_scoped(scope, work).unwrap_or_else(|error| {
        eprintln!("replay: a thread could not be started: {error}");
        exit(1)
    })
}

fn join<R>(thread: ScopedJoinHandle<'_, R>) -> R {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            exit(101); // As after a panic in main; what it was has been told.
        }
    }
}
