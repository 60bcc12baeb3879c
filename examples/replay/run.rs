//! One replay with one engine: the owners, the builders, and the janitor that ends subscriptions.

use std::ops::AddAssign;
use std::panic::resume_unwind;
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, Scope, ScopedJoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::builder::Builders;
use crate::check::{Checker, Found};
use crate::mappings::{Counts, Mappings, Mirrored};
use crate::options::{Kind, Options};
use crate::order::{Order, Turn, by_thread, turns};
use crate::owner::{Owners, Pace};
use crate::report::tell;
use crate::rival::{Engine, GlobalSeq, Interval, Kernel, RwLockIset};
use crate::tally::{Tally, Times};
use crate::trace::{Call, Trace};

/// What a replay has shown.
#[derive(Default)]
pub(crate) struct Outcome {
    /// From the first call to the last return.
    pub(crate) took: Duration,
    pub(crate) subscriptions: Counts,
    pub(crate) hits: u64,
    pub(crate) tally: Tally,
    pub(crate) unsubscribe: Times,
    pub(crate) found: Found,
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.took += other.took;
        self.subscriptions += other.subscriptions;
        self.hits += other.hits;
        self.tally += other.tally;
        self.unsubscribe += other.unsubscribe;
        self.found += other.found;
    }
}

/// Replays with the engine of that name, as often as the options say. `tick` is told again and again how many calls
/// are done.
pub(crate) fn replay(kind: Kind, trace: &Trace, options: &Options, tick: impl Fn(u64)) -> Outcome {
    let pass = match kind {
        Kind::Interval => Pass::with::<Interval>,
        Kind::Kernel => Pass::with::<Kernel<Mirrored>>,
        Kind::RwlockIset => Pass::with::<RwLockIset<Mirrored>>,
        Kind::GlobalSeq => Pass::with::<GlobalSeq<Mirrored>>,
    };
    let (turns, queues) = (turns(trace), by_thread(trace));
    let mut outcome = Outcome::default();
    for number in 0..options.passes() {
        let before = number * trace.calls.len() as u64;
        let precise = kind == Kind::Interval;
        outcome += pass(&Pass { trace, options, turns: &turns, queues: &queues, number, precise }, &|done| {
            tick(before + done)
        });
    }
    outcome
}

/// The program runs once, in an address space of its own.
struct Pass<'a> {
    trace: &'a Trace,
    options: &'a Options,
    turns: &'a [Turn],
    queues: &'a [Vec<usize>],
    number: u64,
    /// Does the engine promise not to retry for nothing?
    precise: bool,
}

impl Pass<'_> {
    fn with<E: Engine<Mirrored>>(&self, tick: &dyn Fn(u64)) -> Outcome {
        let (engine, checker) = (E::default(), Checker::new(Instant::now()));
        let (janitor, subscriptions) = channel();
        let outcome = thread::scope(|scope| {
            let retired = spawn(scope, || retire(&engine, subscriptions));
            // The last sender is gone with the mappings.
            let mappings = Mappings::new(&engine, self.options.window, janitor);
            let (took, tally) = self.work(&engine, &mappings, &checker, tick);
            let subscriptions = mappings.counts();
            drop(mappings);
            let (hits, unsubscribe) = join(retired);
            Outcome { took, subscriptions, hits, tally, unsubscribe, found: Found::default() }
        });
        Outcome { found: checker.finish(), ..outcome }
    }

    /// Runs owners and builders. How long the owners took, and what the builders did meanwhile.
    fn work<E: Engine<Mirrored>>(
        &self,
        engine: &E,
        mappings: &Mappings<'_, E>,
        checker: &Checker,
        tick: &dyn Fn(u64),
    ) -> (Duration, Tally) {
        let (order, start) = (Order::new(self.turns.len(), self.queues.len()), OnceLock::new());
        let stage = &Stage::new(self.queues.len());
        let pace = Pace { start: &start, speed: self.options.speed };
        let owners = &Owners { engine, mappings, checker, order: &order, pace, done: &stage.done };
        let (latency, wrong, precise) = (self.options.build_latency(), self.options.wrong, self.precise);
        let builders = &Builders { engine, mappings, checker, latency, precise, wrong, stop: &stage.over };
        let seed = |builder| self.number * self.options.builders + builder;
        thread::scope(|scope| {
            let building = |builder| spawn(scope, move || builders.run(seed(builder)));
            let builders: Vec<_> = (0..self.options.builders).map(building).collect();
            let replaying =
                |thread| spawn(scope, move || stage.perform(|| owners.replay(thread, self.calls_of(thread))));
            let owners: Vec<_> = (0..self.queues.len()).map(replaying).collect();
            stage.watch(tick);
            let took = owners.into_iter().map(join).max().unwrap_or_default();
            let mut tally = Tally::default();
            builders.into_iter().for_each(|builder| tally += join(builder));
            (took, tally)
        })
    }

    fn calls_of(&self, thread: usize) -> impl Iterator<Item = (&Call, &Turn)> {
        self.queues[thread].iter().map(|&call| (&self.trace.calls[call], &self.turns[call]))
    }
}

/// When the owners begin, and when the last one is done.
struct Stage {
    ready: Barrier,
    left: AtomicUsize,
    over: AtomicBool,
    /// How many calls are done.
    done: AtomicU64,
    main: Thread,
}

impl Stage {
    fn new(owners: usize) -> Self {
        let (ready, left) = (Barrier::new(owners), AtomicUsize::new(owners));
        Stage { ready, left, over: AtomicBool::new(false), done: AtomicU64::new(0), main: thread::current() }
    }

    /// What an owner does, once all are there.
    fn perform<R>(&self, part: impl FnOnce() -> R) -> R {
        self.ready.wait();
        let result = part();
        // Relaxed: all threads are joined before anybody looks at what they did.
        if self.left.fetch_sub(1, Relaxed) == 1 {
            self.over.store(true, Relaxed);
            self.main.unpark();
        }
        result
    }

    /// Shows the progress until all owners are done.
    fn watch(&self, tick: &dyn Fn(u64)) {
        while !self.over.load(Relaxed) {
            tick(self.done.load(Relaxed));
            thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// Ends subscriptions until there is nobody left who could send one. How often they were hit, and how long ending took.
fn retire<E: Engine<Mirrored>>(engine: &E, subscriptions: Receiver<E::Sub>) -> (u64, Times) {
    let (mut hits, mut unsubscribe) = (0, Times::default());
    for subscription in subscriptions {
        let from = Instant::now();
        let Mirrored(region) = engine.unsubscribe(subscription);
        unsubscribe.add(from.elapsed());
        hits += region.hits();
    }
    (hits, unsubscribe)
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
        tell(format_args!("a thread could not be started: {error}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::of;
    use clap::{Parser, ValueEnum};
    use std::fmt::Write;
    use std::path::Path;

    /// A run over a kept trace, and what was found.
    fn outcome(trace: &str, kind: Kind, line: &str) -> Outcome {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/replay/traces/{trace}.csv.gz"));
        replayed(&crate::trace::read(&path, None).unwrap(), kind, line)
    }

    /// A run over a trace with the options of a command line.
    fn replayed(trace: &Trace, kind: Kind, line: &str) -> Outcome {
        let words = ["replay", "-"].into_iter().chain(line.split_whitespace());
        replay(kind, trace, &Options::try_parse_from(words).unwrap(), |_| ())
    }

    /// Calls of four threads that are mostly at the same few pages at the same time, as no kept trace has them.
    fn crowded(seed: u64) -> String {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut lines = "0,0,mmap,1000,262144,,1,0\n".to_owned();
        for thread in 0..4 {
            let mut time = 2;
            for _ in 0..100 {
                let (start, bytes) = (random.u64(1..64) * 4096, random.u64(1..16) * 4096);
                let (new, grown) = (random.u64(1..64) * 4096, random.u64(1..16) * 4096);
                let op = random.choice(["mmap", "mmap_fixed", "munmap", "mprotect", "madvise", "mremap"]).unwrap();
                let took = random.u64(1..200);
                let flags = format!("adv=4|new={new:x}|newlen={grown:x}");
                writeln!(lines, "{time},{thread},{op},{start:x},{bytes},{flags},{took},0").unwrap();
                time += took + random.u64(0..20);
            }
        }
        lines
    }

    #[test]
    fn no_engine_breaks_its_promise() {
        for &kind in Kind::value_variants() {
            for (trace, line) in [
                ("alloc_glibc_6threads", "--passes 1 --build-latency-us 30"),
                ("alloc_glibc_6threads", "--passes 1 --window 2M --builders 1"),
                ("jvm_g1_mixed", "--passes 1"),
                ("python_ast_4threads", "--passes 1 --build-latency-us 0"),
                ("rustc_release", "--passes 1 --builders 3"),
            ] {
                let outcome = outcome(trace, kind, line);
                assert_eq!(outcome.found.count, 0, "{kind:?} {trace} {line}: {:?}", outcome.found.first);
                assert!(outcome.hits > 1000 && outcome.subscriptions.made > 100, "{kind:?} {trace} {line}");
                assert_eq!(outcome.tally.commits, outcome.tally.build.count(), "{kind:?} {trace} {line}");
            }
        }
    }

    #[test]
    fn what_is_born_inside_a_call_and_replaced_before_it_returns_blames_nobody() {
        let lines = "0,9,mmap,1000000,65536,,1,0\n\
                     10,1,mprotect,1000,65536,,4000,0\n\
                     20,2,mmap,1000,65536,,1,0\n\
                     2500,3,munmap,1000,4096,,1,0\n\
                     5000,9,munmap,1000000,65536,,1,0\n";
        for &kind in Kind::value_variants() {
            let outcome = replayed(&of(lines), kind, "--speed 1 --passes 20 --builders 4 --build-latency-us 10");
            assert_eq!(outcome.found.count, 0, "{kind:?}: {:?}", outcome.found.first);
        }
    }

    #[test]
    fn calls_that_overlap_blame_nobody() {
        let (mut hits, mut commits) = (0, 0);
        for (seed, &kind) in (1..=6).flat_map(|seed| Kind::value_variants().iter().map(move |kind| (seed, kind))) {
            for pace in ["--passes 3", "--speed 1 --passes 3", "--speed 1 --passes 3 --window 8K"] {
                let line = format!("{pace} --builders 4 --build-latency-us 10");
                let outcome = replayed(&of(&crowded(seed)), kind, &line);
                assert_eq!(outcome.found.count, 0, "{kind:?}, seed {seed}, {line}: {:?}", outcome.found.first);
                (hits, commits) = (hits + outcome.hits, commits + outcome.tally.commits);
            }
        }
        // Not each time: where a pass is over at once, a builder may come too late.
        assert!(hits > 1000 && commits > 1000, "{hits} hits, {commits} commits");
    }

    #[test]
    fn a_mirror_that_does_not_ask_for_a_retry_is_caught() {
        for &kind in Kind::value_variants() {
            // It takes a collision, which no single pass owes us.
            let caught = (0..50)
                .map(|_| outcome("jvm_g1_mixed", kind, "--passes 1 --wrong"))
                .find(|outcome| outcome.found.count > 0);
            let found = caught.expect("fifty passes without a collision").found;
            assert!(found.first.iter().any(|violation| violation.what.promise() == "P1"), "{:?}", found.first);
        }
    }

    #[test]
    fn times_are_kept_if_asked_for() {
        let outcome = outcome("alloc_glibc_6threads", Kind::Interval, "--speed 50 --builders 0");
        assert!(outcome.took >= Duration::from_millis(6_300 / 50), "{:?}", outcome.took);
    }
}
