//! The owner: a thread of the traced program makes its calls again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::Checker;
use crate::mappings::{Mappings, Mirrored, Shared};
use crate::order::{Order, Turn};
use crate::rival::Engine;
use crate::trace::Call;

/// By how much a sleep may come late.
const LATE: Duration = Duration::from_micros(100);

/// When the steps of a replay are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace<'a> {
    /// When the first owner began.
    pub(crate) start: &'a OnceLock<Instant>,
    /// `None`: as soon as the order allows.
    pub(crate) speed: Option<f64>,
}

impl Pace<'_> {
    fn elapsed(&self) -> Duration {
        self.start.get_or_init(Instant::now).elapsed()
    }

    /// Sleeps for as long as a sleep is good for, and spins for the rest: a call works while it lasts.
    fn wait_until(&self, time: Duration) {
        let Some(speed) = self.speed else { return };
        let due = at_speed(time, speed);
        loop {
            match due.saturating_sub(self.elapsed()) {
                Duration::ZERO => return,
                left if left > LATE => thread::sleep(left - LATE),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

/// When what was at `time` in the trace is due.
fn at_speed(time: Duration, speed: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() / speed).unwrap_or(Duration::MAX)
}

/// What the owners share.
pub(crate) struct Owners<'a, E: Engine<Mirrored>> {
    pub(crate) engine: &'a E,
    pub(crate) mappings: &'a Mappings<'a, E>,
    pub(crate) checker: &'a Checker,
    pub(crate) order: &'a Order,
    pub(crate) pace: Pace<'a>,
    pub(crate) done: &'a AtomicU64,
}

impl<E: Engine<Mirrored>> Owners<'_, E> {
    /// One thread's calls, in order. Gives how long after the begin of all it was done.
    pub(crate) fn replay<'c>(&self, thread: usize, calls: impl Iterator<Item = (&'c Call, &'c Turn)>) -> Duration {
        self.pace.elapsed();
        for (call, turn) in calls {
            self.call(thread, call, turn);
            // Relaxed: for the progress bar.
            self.done.fetch_add(1, Relaxed);
        }
        self.pace.elapsed()
    }

    fn call(&self, thread: usize, call: &Call, turn: &Turn) {
        self.pace.wait_until(call.begin);
        self.order.wait_to_begin(turn, thread);
        let started = (!call.effect.change.is_empty()).then(|| self.start(call));
        self.order.has_begun(turn);

        self.pace.wait_until(call.end);
        self.order.wait_to_return(turn, thread);
        let gone = self.mappings.apply(call);
        if let Some((open, _hit)) = started {
            drop(open);
            self.mappings.close(call);
        }
        drop(gone);
        self.order.has_returned(turn);
    }

    /// The first half of the bracket: when it returns, no mirror may hold anything of the range. Gives the regions hit.
    fn start(&self, call: &Call) -> (E::Open<'_>, Vec<Shared<E::Sub>>) {
        let (range, from) = (&call.effect.change, Instant::now());
        self.mappings.open(call);
        let open = self.engine.start(range.clone());
        let hit = self.mappings.change(call);
        hit.iter().for_each(|live| self.checker.started(&live.region, range, call.line, from));
        (open, hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_after_the_last_time_there_is_is_due_then() {
        assert_eq!(at_speed(Duration::from_millis(3), 2.0), Duration::from_micros(1500));
        assert_eq!(at_speed(Duration::MAX, 0.001), Duration::MAX);
    }
}
