//! Shuttle: the schedule is chosen, at random, by priorities (PCT), or by a fuzzer's bytes; and it can tell who waits.

use super::Subject;
use super::harness::{Limits, Outcome};
use super::history::{Found, Record};
use super::program::{Program, Random};
use super::sync::thread;
use super::world::World;
use shuttle::scheduler::{PctScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;

/// As it is called in messages.
pub(super) const NAME: &str = "under Shuttle";
/// Schedules of one program in the search, half of them random and half of them PCT's.
pub(super) const RUNS: usize = 20;
/// Schedules that a smaller program gets to fail in.
pub(super) const RUNS_TO_SHRINK: usize = 400;

/// Far more steps than a run takes, so that one that never ends is told.
const MAX_STEPS: usize = 50_000;
/// How many preemptions PCT places.
const DEPTH: usize = 3;
/// Turns that somebody under the mirror lock leaves to the others.
const LINGER: usize = 40;

/// What the scheduler and the threads tell each other. The standard library's: it lies outside of what is explored.
#[derive(Default)]
pub(super) struct Pace {
    /// How many could have been chosen last.
    runnable: AtomicUsize,
    /// How many of those do nothing but wait.
    waiting: AtomicUsize,
}

impl Pace {
    /// Every access to a page and to a lock is a place where another thread may go on.
    pub(super) fn pause(&self) {}

    /// Gives the others time to come as far as they can.
    pub(super) fn linger(&self) {
        (0..LINGER).for_each(|_| thread::yield_now());
    }

    /// Waits until it is done; false if nobody is left who could do it.
    pub(super) fn wait(&self, done: impl Fn() -> bool) -> bool {
        self.waiting.fetch_add(1, SeqCst);
        let stuck = || self.runnable.load(SeqCst) <= self.waiting.load(SeqCst);
        let is_done = loop {
            if done() {
                break true;
            }
            thread::yield_now();
            if stuck() && !done() {
                break false;
            }
        };
        self.waiting.fetch_sub(1, SeqCst);
        is_done
    }
}

/// What is known of a row of runs, outside of them.
struct Row {
    pace: Arc<Pace>,
    /// That of the run which is under way.
    record: Mutex<Arc<Record>>,
    outcome: Mutex<Outcome>,
    is_over: AtomicBool,
    deadline: Instant,
}

impl Row {
    fn new(deadline: Instant) -> Arc<Self> {
        Arc::new(Row {
            pace: Arc::default(),
            record: Mutex::default(),
            outcome: Mutex::default(),
            is_over: AtomicBool::new(false),
            deadline,
        })
    }

    /// One run, begun by the runner.
    fn run<S: Subject>(&self, program: &Program) {
        let record = Arc::new(Record::default());
        *lock(&self.record) = Arc::clone(&record);
        self.pace.waiting.store(0, SeqCst);
        if let Some(world) = World::<S>::new(Arc::clone(&record), Arc::clone(&self.pace)) {
            let world = Arc::new(world);
            let play = |(number, steps): (usize, Vec<_>)| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.play(number, &steps))
            };
            let threads: Vec<_> = program.0.iter().cloned().enumerate().map(play).collect();
            threads.into_iter().for_each(|thread| thread.join().expect("a thread of a run does not panic"));
            Arc::into_inner(world).expect("the threads are gone").rest();
        }
        self.ended(record.found());
    }

    /// The run which is under way has ended so.
    fn ended(&self, found: Option<Found>) {
        let mut outcome = lock(&self.outcome);
        outcome.runs += 1;
        outcome.mapped |= lock(&self.record).was_mapped();
        self.is_over.fetch_or(found.is_some(), SeqCst);
        outcome.found = found;
    }

    fn hung(&self, why: &str) {
        let found = lock(&self.record).hung(why);
        self.ended(Some(found));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the row when something is broken or time is up, and tells the pace how many can go on.
struct Watched<T> {
    scheduler: T,
    row: Arc<Row>,
}

impl<T: Scheduler> Scheduler for Watched<T> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let is_over = self.row.is_over.load(SeqCst) || Instant::now() >= self.row.deadline;
        if is_over { None } else { self.scheduler.new_execution() }
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        self.row.pace.runnable.store(runnable.len(), SeqCst);
        self.scheduler.next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.scheduler.next_u64()
    }
}

/// Runs the program until something is broken, `runs` times at most. For one thread there is one schedule.
pub(super) fn run<S: Subject>(program: &Program, seed: u64, runs: usize, limits: &Limits) -> Outcome {
    let runs = if program.0.len() == 1 { runs.min(1) } else { runs };
    let by_priority = runs / 2;
    let chance = move || Chance { random: Random::new(seed, 0), left: runs - by_priority };
    let mut outcome = run_with::<S, _>(program, chance, limits);
    if outcome.found.is_none() && by_priority > 0 {
        outcome += run_with::<S, _>(program, move || PctScheduler::new_from_seed(seed, DEPTH, by_priority), limits);
    }
    outcome
}

/// Runs it once, as the bytes say.
pub(super) fn run_scheduled<S: Subject>(program: &Program, schedule: Vec<u8>, limits: &Limits) -> Outcome {
    run_with::<S, _>(program, move || Bytes { schedule: schedule.into_iter(), is_new: true }, limits)
}

/// A row of runs on a thread of its own, which is left behind if it hangs.
fn run_with<S: Subject, T: Scheduler + 'static>(
    program: &Program,
    scheduler: impl FnOnce() -> T + Send + 'static,
    limits: &Limits,
) -> Outcome {
    let row = Row::new(limits.deadline);
    let (over, is_over) = mpsc::channel();
    let (program, inside) = (program.clone(), Arc::clone(&row));
    std::thread::spawn(move || {
        let scheduler = Watched { scheduler: scheduler(), row: Arc::clone(&inside) };
        let runner = shuttle::Runner::new(scheduler, config());
        let runs = Arc::clone(&inside);
        // Deadlocks are panics of the runner's.
        if catch_unwind(AssertUnwindSafe(|| runner.run(move || runs.run::<S>(&program)))).is_err() {
            inside.hung("Shuttle has found a deadlock or a livelock");
        }
        let _ = over.send(());
    });
    let is_lost = limits.wait(&is_over, || lock(&row.outcome).runs) == Err(mpsc::RecvTimeoutError::Timeout);
    if is_lost {
        let why =
            "a thread waits for something that Shuttle does not know of: is the mirror built on conformance::sync?";
        row.hung(why);
    }
    Outcome { is_lost, ..std::mem::take(&mut *lock(&row.outcome)) }
}

fn config() -> Config {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.silence_warnings = true;
    // What is printed instead is shorter.
    config.failure_persistence = FailurePersistence::None;
    config
}

/// Chooses any task. (Shuttle's own scheduler of this kind reports a failure whenever it is not used up.)
struct Chance {
    random: Random,
    left: usize,
}

impl Scheduler for Chance {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.left = self.left.checked_sub(1)?;
        Some(Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], _: Option<TaskId>, _: bool) -> Option<TaskId> {
        Some(runnable[self.random.next() as usize % runnable.len()].id())
    }

    fn next_u64(&mut self) -> u64 {
        self.random.next()
    }
}

/// Chooses tasks as bytes say.
struct Bytes {
    schedule: std::vec::IntoIter<u8>,
    is_new: bool,
}

impl Scheduler for Bytes {
    fn new_execution(&mut self) -> Option<Schedule> {
        std::mem::take(&mut self.is_new).then(|| Schedule::new(0))
    }

    /// Half of the byte values let the present task run on, as do missing bytes, so that short inputs are orderly ones.
    /// Whoever yields comes last.
    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let present = current.and_then(|current| runnable.iter().position(|task| task.id() == current));
        let chosen = match (runnable.len(), present) {
            (1, _) => 0,
            (count, None) => usize::from(self.schedule.next().unwrap_or(0)) % count,
            (count, Some(present)) if is_yielding => {
                (present + 1 + usize::from(self.schedule.next().unwrap_or(0)) % (count - 1)) % count
            }
            (count, Some(present)) => match self.schedule.next() {
                Some(byte) if byte >= 128 => usize::from(byte) % count,
                _ => present,
            },
        };
        Some(runnable[chosen].id())
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
