//! The owner: a thread of the traced program makes its calls again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::Checker;
use crate::mappings::{Live, Mappings, Mirrored};
use crate::order::{Order, Turn};
use crate::rival::Engine;
use crate::trace::Call;

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

    fn wait_until(&self, time: Duration) {
        if let Some(speed) = self.speed {
            let due = time.div_f64(speed);
            thread::sleep(due.saturating_sub(self.elapsed()));
        }
    }
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
        let Started { open, concerned } = self.start(call);
        self.order.has_begun(turn);

        self.pace.wait_until(call.end);
        self.order.wait_to_return(turn, thread);
        let gone = self.mappings.apply(call);
        drop(open);
        concerned.iter().for_each(|live| live.region.closed());
        drop(gone);
        self.order.has_returned(turn);
    }

    /// The first half of the bracket: when it returns, no mirror may hold anything of the range.
    fn start(&self, call: &Call) -> Started<'_, E> {
        let range = &call.effect.change;
        if range.is_empty() {
            return Started { open: None, concerned: Vec::new() };
        }
        let from = Instant::now();
        let concerned = self.mappings.overlapping(range);
        concerned.iter().for_each(|live| live.region.opened());
        let open = self.engine.start(range.clone());
        for live in self.mappings.change(call) {
            self.checker.started(&live.region, range, call.line, from);
        }
        Started { open: Some(open), concerned }
    }
}

struct Started<'a, E: Engine<Mirrored>> {
    open: Option<E::Open<'a>>,
    /// The regions of which it is known that it is open.
    concerned: Vec<Arc<Live<E::Sub>>>,
}
