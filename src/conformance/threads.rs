//! Plain threads: what the machine happens to do, helped by pauses at the places where it matters.

use super::Subject;
use super::harness::{Limits, Outcome};
use super::history::Record;
use super::program::{Program, Random};
use super::world::World;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// As it is called in messages.
pub(super) const NAME: &str = "on plain threads";
/// Runs of one program in the search: rather another program than the same once more.
pub(super) const RUNS: usize = 2;
/// Runs that a smaller program gets to fail in.
pub(super) const RUNS_TO_SHRINK: usize = 40;

/// Time between two looks at what is waited for.
const LOOK: Duration = Duration::from_micros(100);
/// How long somebody lingers under the mirror lock: long enough for a start that does not wait for it.
const LINGER: Duration = Duration::from_micros(300);
/// The longest pause is long for a callback and short for a test.
const PAUSE_MICROS: u64 = 100;

/// How the threads of a run take their time.
pub(super) struct Pace {
    random: AtomicU64,
    looks: u128,
}

impl Pace {
    fn new(seed: u64, patience: Duration) -> Self {
        Pace { random: AtomicU64::new(seed), looks: patience.as_micros() / LOOK.as_micros() }
    }

    /// Somewhere the order of threads matters.
    pub(super) fn pause(&self) {
        let mut random = Random::new(self.random.fetch_add(1, Relaxed), 0);
        match random.next() % 4 {
            0 => {}
            1 => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(random.next() % PAUSE_MICROS)),
        }
    }

    /// Gives the others time to come as far as they can.
    pub(super) fn linger(&self) {
        thread::sleep(LINGER);
    }

    /// Waits until it is done; false if patience comes to an end. Patience is counted in looks, not in time: while the
    /// whole process is stopped, nobody is late.
    pub(super) fn wait(&self, done: impl Fn() -> bool) -> bool {
        for _ in 0..self.looks {
            if done() {
                return true;
            }
            thread::sleep(LOOK);
        }
        done()
    }
}

/// Runs the program until something is broken, `runs` times at most.
pub(super) fn run<S: Subject>(program: &Program, seed: u64, runs: usize, limits: &Limits) -> Outcome {
    let mut outcome = Outcome::default();
    let mut random = Random::new(seed, 0);
    while outcome.runs < runs && outcome.found.is_none() && Instant::now() < limits.deadline {
        run_once::<S>(program, random.next(), limits, &mut outcome);
    }
    outcome
}

/// There is no schedule to be followed: the bytes choose the pauses.
pub(super) fn run_scheduled<S: Subject>(program: &Program, schedule: Vec<u8>, limits: &Limits) -> Outcome {
    let seed = schedule.into_iter().fold(0, |seed, byte| Random::new(seed, byte.into()).next());
    run::<S>(program, seed, 1, limits)
}

fn run_once<S: Subject>(program: &Program, seed: u64, limits: &Limits, outcome: &mut Outcome) {
    let record = Arc::new(Record::default());
    outcome.runs += 1;
    outcome.found = match finish::<S>(program, seed, limits, &record) {
        Ok(()) => record.found(),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            outcome.is_lost = true;
            Some(record.hung("the threads have not come to their end"))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => unreachable!("a thread of a run does not panic"),
    };
    outcome.mapped |= record.was_mapped();
}

/// Runs it to its end on a thread that is left behind if it hangs.
fn finish<S: Subject>(
    program: &Program,
    seed: u64,
    limits: &Limits,
    record: &Arc<Record>,
) -> Result<(), mpsc::RecvTimeoutError> {
    let (over, is_over) = mpsc::channel();
    let (program, record, patience) = (program.clone(), Arc::clone(record), limits.patience);
    thread::spawn(move || {
        let pace = Arc::new(Pace::new(seed, patience));
        if let Some(world) = World::<S>::new(record, pace) {
            thread::scope(|scope| {
                for (thread, steps) in program.0.iter().enumerate() {
                    let world = &world;
                    scope.spawn(move || world.play(thread, steps));
                }
            });
            world.rest();
        }
        // It is of no use to anybody if the run was given up.
        let _ = over.send(());
    });
    limits.wait(&is_over, || 0)
}
