//! Scenarios: two to four threads and one promise each, written once and run by three runners.
//!
//! | runner | command | it sees |
//! |---|---|---|
//! | plain threads | `cargo test` | what the machine happens to do |
//! | Shuttle | `RUSTFLAGS='--cfg shuttle' cargo test --release --lib` | interleavings, as if every access were SeqCst |
//! | loom | `RUSTFLAGS='--cfg loom' cargo test --release --lib` | orderings, within a bound on preemptions |
//!
//! loom knows two epochs (see `sync.rs`). With `--cfg loom` alone the epoch has no fence that could stand in for one of
//! ours, so the orderings of the protocol are seen and nothing is freed early enough to be used late. With
//! `--cfg loom --cfg crossbeam_loom` it is the real one, slowly: the scenarios about memory, and what else stays fast.
//!
//! # How a scenario is written
//!
//! - What the owner changes is a [`Word`](toy::Word), read Relaxed: only the protocol can make a change visible.
//! - Every scenario names the outcomes it wants to reach. A checker that missed one has shown nothing and fails. Plain
//!   threads may miss the rare ones, so there only the promise itself is asserted.
//! - A thread that loads an atomic and later stores to the same one is not fully explored by loom (its issues 166 and
//!   392). So the roles are given out with care: the invalidation runs in the main thread where its orderings
//!   matter, whoever only helps is spawned first, and whoever profits is spawned last.
//! - A wake-up that is lost shows as a deadlock (Shuttle, loom) or as a hang (plain threads).
//!
//! Which weakening of the protocol is seen by which runner is kept in `weakenings.md` beside this file.

mod begin;
mod letting_go;
mod memory;
mod mirrors;
mod notifiers;
mod refusal;
mod release;
mod release_order;
mod removal;
mod sharing;
mod toy;
mod tree_changes;
mod waiting;

// Too slow with the real epoch, and no memory is at stake in them.
#[cfg(not(crossbeam_loom))]
mod batches;
#[cfg(not(crossbeam_loom))]
mod birth;
#[cfg(not(crossbeam_loom))]
mod nested;
#[cfg(not(crossbeam_loom))]
mod reuse;
#[cfg(not(crossbeam_loom))]
mod two_pass;

// More threads than loom can explore.
#[cfg(not(loom))]
mod histories;

// There is nothing to explore in them.
#[cfg(not(any(loom, shuttle)))]
mod alone;
#[cfg(not(any(loom, shuttle)))]
mod burials;
#[cfg(not(any(loom, shuttle)))]
mod coarse;
#[cfg(not(any(loom, shuttle)))]
mod differential;
#[cfg(not(any(loom, shuttle)))]
mod late;
#[cfg(not(any(loom, shuttle)))]
mod sequential;
#[cfg(not(any(loom, shuttle)))]
mod update;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::thread;

/// Spawns a thread with clones of the named variables.
macro_rules! spawn {
    ([$($name:ident),*] $body:expr) => {{
        $(let $name = $name.clone();)*
        $crate::tests::thread::spawn(move || $body)
    }};
}
use spawn;

/// Runs `scenario` under the runner this build is for, and fails if a checker never reached one of `outcomes`.
fn explore(outcomes: &[&'static str], scenario: impl Fn(&Seen) + Send + Sync + 'static) {
    let seen = Seen::new(outcomes);
    let inside = seen.clone();
    let explored = runner::run(move || {
        inside.runs.fetch_add(1, Ordering::Relaxed);
        scenario(&inside);
    });
    seen.report(explored);
}

/// How often each outcome of a scenario was reached, over all its runs.
///
/// The counters are the standard library's in every runner: they lie outside what is explored.
#[derive(Clone)]
struct Seen {
    runs: Arc<AtomicU64>,
    outcomes: Arc<[(&'static str, AtomicU64)]>,
}

impl Seen {
    fn new(outcomes: &[&'static str]) -> Self {
        Seen { runs: Arc::default(), outcomes: outcomes.iter().map(|name| (*name, AtomicU64::new(0))).collect() }
    }

    /// This run reached `outcome`.
    fn note(&self, outcome: &str) {
        let found = self.outcomes.iter().find(|(name, _)| *name == outcome);
        let (_, count) = found.unwrap_or_else(|| panic!("unexpected outcome: {outcome}"));
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Shown by `--nocapture`. A schedule that is replayed reaches one outcome only.
    fn report(&self, explored: bool) {
        let counts = || self.outcomes.iter().map(|(name, count)| (*name, count.load(Ordering::Relaxed)));
        let list: Vec<_> = counts().map(|(name, count)| format!("{name} {count}")).collect();
        eprintln!("{} runs: {}", self.runs.load(Ordering::Relaxed), list.join(", "));
        if crate::sync::CHECKED && explored {
            let missed: Vec<_> = counts().filter(|&(_, count)| count == 0).map(|(name, _)| name).collect();
            assert!(missed.is_empty(), "never reached: {}", missed.join(", "));
        }
    }
}

#[cfg(not(any(loom, shuttle)))]
mod runner {
    /// Enough to meet the common interleavings, few enough for every `cargo test`.
    const RUNS: usize = 300;

    pub(super) fn run(scenario: impl Fn() + Send + Sync + 'static) -> bool {
        (0..RUNS).for_each(|_| scenario());
        true
    }
}

#[cfg(shuttle)]
mod runner {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler, UrwRandomScheduler};
    use shuttle::{Config, MaxSteps, Runner};
    use std::sync::Arc;

    /// Iterations of each of the three schedulers.
    const ITERATIONS: usize = 1_000;
    /// How many steps one run may take: far more than any scenario needs, so that a livelock is reported.
    const MAX_STEPS: usize = 20_000;
    /// How many preemptions PCT places.
    const DEPTH: usize = 3;

    /// False if it was only replayed.
    pub(super) fn run(scenario: impl Fn() + Send + Sync + 'static) -> bool {
        let scenario = Arc::new(scenario);
        if let Ok(schedule) = std::env::var("INTERVAL_SHUTTLE_REPLAY") {
            let mut replay = ReplayScheduler::new_from_encoded(&schedule);
            replay.set_allow_incomplete(); // What failed then goes on now, if it is mended.
            run_with(replay, &scenario);
            return false;
        }
        let n = std::env::var("INTERVAL_SHUTTLE_ITERATIONS").map_or(ITERATIONS, |n| n.parse().expect("a number"));
        let _hint = ReplayHint;
        run_with(RandomScheduler::new(n), &scenario);
        run_with(PctScheduler::new(DEPTH, n), &scenario);
        run_with(UrwRandomScheduler::new(n), &scenario);
        true
    }

    fn run_with(scheduler: impl Scheduler + 'static, scenario: &Arc<impl Fn() + Send + Sync + 'static>) {
        let mut config = Config::new();
        config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
        config.silence_warnings = true;
        let scenario = scenario.clone();
        Runner::new(scheduler, config).run(move || scenario());
    }

    /// Says how to replay, below the schedule that Shuttle prints.
    struct ReplayHint;
    impl Drop for ReplayHint {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("to replay it, run this one test with INTERVAL_SHUTTLE_REPLAY set to the failing schedule");
                eprintln!("(if it is random program 5, say, with INTERVAL_PROGRAMS=5..6 too)");
            }
        }
    }
}

#[cfg(loom)]
mod runner {
    /// Preemptions explored unless `LOOM_MAX_PREEMPTIONS` says otherwise.
    const PREEMPTIONS: usize = 2;
    /// How many branches one run may take: far more than any scenario needs, so that a livelock is reported.
    const MAX_BRANCHES: usize = 20_000;

    pub(super) fn run(scenario: impl Fn() + Send + Sync + 'static) -> bool {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = model.preemption_bound.or(Some(PREEMPTIONS));
        model.max_branches = MAX_BRANCHES;
        model.check(scenario);
        true
    }
}
