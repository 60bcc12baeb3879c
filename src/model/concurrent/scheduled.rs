//! The fuzzer chooses the program and the interleaving: bytes beyond the program are a schedule for Shuttle.
//!
//! Coverage then guides the search for races as it guides any other. An input is a whole run, so what is kept of it
//! is replayed by `cargo test` as it is.

use super::program::{self, Program};
use crate::sync::Arc;
use arbitrary::Unstructured;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, MaxSteps, Runner};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Far more than any program needs, so that a livelock is reported.
const MAX_STEPS: usize = 20_000;

/// A program of two to four threads, and what is left of the bytes for its schedule.
#[derive(Clone, Debug)]
struct Input {
    program: Program,
    schedule: Vec<u8>,
}

impl Input {
    /// Every byte string is an input.
    fn new(bytes: &[u8]) -> Self {
        let mut bytes = Unstructured::new(bytes);
        let program = bytes
            .int_in_range(2..=4)
            .and_then(|threads| program::threads(&mut bytes, threads, super::STEPS))
            .expect("what the bytes do not tell is the first of its kind");
        Input { program, schedule: bytes.take_rest().to_vec() }
    }
}

/// Runs the program of `bytes` under their schedule, and panics if a promise is broken.
///
/// One runner serves all inputs of a process: it keeps the stacks of its tasks, and a runner an input would take a
/// fresh half megabyte each under AddressSanitizer.
pub fn run_scheduled(bytes: &[u8]) {
    static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();
    let driver = DRIVER.get_or_init(|| Mutex::new(Driver::new()));
    driver.lock().unwrap_or_else(PoisonError::into_inner).run(Input::new(bytes));
}

/// The thread with the runner, seen from outside.
struct Driver {
    inputs: Sender<Input>,
    done: Receiver<()>,
}

impl Driver {
    fn new() -> Self {
        let (inputs, next) = channel();
        let (finished, done) = channel();
        std::thread::spawn(move || {
            let program = Arc::new(Mutex::new(Program::new()));
            let scheduler = Bytes {
                inputs: next,
                finished,
                program: program.clone(),
                schedule: Vec::new().into_iter(),
                runs: false,
            };
            let mut config = Config::new();
            config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
            config.silence_warnings = true;
            Runner::new(scheduler, config).run(move || {
                let program = program.lock().unwrap_or_else(PoisonError::into_inner).clone();
                super::run(program, |_| ());
            });
        });
        Driver { inputs, done }
    }

    fn run(&mut self, input: Input) {
        let shown = input.clone();
        let sent = self.inputs.send(input).is_ok();
        if !sent || self.done.recv().is_err() {
            *self = Driver::new();
            panic!("a promise is broken (see above) by {shown:#?}");
        }
    }
}

/// Chooses tasks as the bytes of an input say.
struct Bytes {
    inputs: Receiver<Input>,
    finished: Sender<()>,
    program: Arc<Mutex<Program>>,
    schedule: std::vec::IntoIter<u8>,
    /// Has the present input been begun?
    runs: bool,
}

impl Scheduler for Bytes {
    fn new_execution(&mut self) -> Option<Schedule> {
        if std::mem::replace(&mut self.runs, true) {
            self.finished.send(()).ok()?;
        }
        let Input { program, schedule } = self.inputs.recv().ok()?;
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = program;
        self.schedule = schedule.into_iter();
        Some(Schedule::new(0))
    }

    /// Half of the byte values let the present task run on, as do missing bytes, so that short inputs are orderly ones.
    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let present = current.and_then(|current| runnable.iter().position(|task| task.id() == current));
        let chosen = match (runnable.len(), present) {
            (1, _) => 0,
            (count, present) => match (self.schedule.next(), present) {
                (Some(byte), Some(present)) if byte < 128 && !is_yielding => present,
                (Some(byte), _) => usize::from(byte) % count,
                (None, Some(present)) if !is_yielding => present,
                (None, Some(present)) => (present + 1) % count,
                (None, None) => 0,
            },
        };
        Some(runnable[chosen].id())
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
