//! Says where an engine broke its promise.
//!
//! * **P1, no stale commit**: what a builder installs, and what a mirror holds, is what the owner has there now.
//! * **P2, nothing mapped inside**: between start and end the mirror holds nothing of the range, and nothing is installed.
//! * **P3, no false alarm**: a retry means that an overlapping invalidation has called back. Only this crate promises it.
//!
//! All of it is looked at under the mirror lock, where each of these must hold at every moment.

use std::fmt::{self, Display};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::region::{Held, Region, Stamp};
use crate::trace::Trace;

/// How many violations are told in full.
const SHOWN: usize = 5;

/// One violation, with what is known of its history.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    /// The addresses of the cell, or of the region.
    pub(crate) addresses: Range<u64>,
    /// Since the begin of the replay: when the build or the invalidation began, and when the violation was seen.
    pub(crate) from: Duration,
    pub(crate) seen: Duration,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A builder was let install what it had read, and that is not what is there.
    Stale { read: Stamp, now: Stamp },
    /// A builder was let install while this call is at the cell.
    Inside { by: Stamp },
    /// The start of the call in this line has returned, and the mirror still holds the cell.
    Kept { held: Stamp, line: u64 },
    /// The mirror holds what is not there any more.
    Wrong { held: Stamp, now: Stamp },
    /// A builder was told to build again, and nothing had happened to its region.
    FalseAlarm,
}

impl What {
    pub(crate) fn promise(self) -> &'static str {
        match self {
            What::Stale { .. } => "P1",
            What::Inside { .. } | What::Kept { .. } | What::Wrong { .. } => "P2",
            What::FalseAlarm => "P3",
        }
    }
}

/// Collects violations.
#[derive(Debug)]
pub(crate) struct Checker {
    start: Instant,
    found: Mutex<Found>,
}

/// What was collected.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) count: u64,
    /// The first few.
    pub(crate) first: Vec<Violation>,
}

impl Checker {
    pub(crate) fn new(start: Instant) -> Self {
        Checker { start, found: Mutex::default() }
    }

    /// A builder is about to install in `cell` what it has read there in a build that began at `from`.
    pub(crate) fn install(&self, region: &Region, cell: usize, read: Stamp, from: Instant) {
        let now = region.stamp(cell);
        if now != read {
            self.report(region.cell(cell), from, What::Stale { read, now });
        } else if now.is_changing() {
            self.report(region.cell(cell), from, What::Inside { by: now });
        }
    }

    /// A device uses what is held of `cell`.
    pub(crate) fn used(&self, region: &Region, cell: usize, held: &Held) {
        let Some(held) = held.get(cell) else { return };
        let now = region.stamp(cell);
        if held != now {
            self.report(region.cell(cell), Instant::now(), What::Wrong { held, now });
        }
    }

    /// The start of the call in `line`, which began at `from`, has returned.
    pub(crate) fn started(&self, region: &Region, range: &Range<u64>, line: u64, from: Instant) {
        if let Some((cell, held)) = region.lock().any(region.cells(range)) {
            self.report(region.cell(cell), from, What::Kept { held, line });
        }
    }

    /// A builder that began at `from` builds again for nothing.
    pub(crate) fn false_alarm(&self, region: &Region, from: Instant) {
        self.report(region.range().clone(), from, What::FalseAlarm);
    }

    fn report(&self, addresses: Range<u64>, from: Instant, what: What) {
        let (from, seen) = (from.saturating_duration_since(self.start), self.start.elapsed());
        let mut found = self.found();
        found.count += 1;
        if found.first.len() < SHOWN {
            found.first.push(Violation { addresses, from, seen, what });
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finish(self) -> Found {
        self.found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A violation together with the trace that its lines are of.
pub(crate) struct History<'a>(pub(crate) &'a Violation, pub(crate) &'a Trace);

impl Display for History<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let History(Violation { addresses, from, seen, what }, _) = self;
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let (promise, Range { start, end }) = (what.promise(), addresses);
        writeln!(f, "{promise} broken at {start:x}..{end:x}, seen {:.3} ms into the replay", ms(seen))?;
        let from = format_args!("begun at {:.3} ms", ms(from));
        match *what {
            What::Stale { read, now } => {
                writeln!(f, "  a build, {from}, read the cell as it was {}", self.told(read))?;
                write!(f, "  it was let install that, but the cell is now {}", self.told(now))
            }
            What::Inside { by } => write!(f, "  a build, {from}, was let install while the cell is {}", self.told(by)),
            What::Kept { held, line } => {
                writeln!(f, "  the mirror holds the cell as it was {}", self.told(held))?;
                write!(f, "  though the start of {} has returned", self.call(line))
            }
            What::Wrong { held, now } => {
                writeln!(f, "  the mirror holds the cell as it was {}", self.told(held))?;
                write!(f, "  but the cell is {}", self.told(now))
            }
            What::FalseAlarm => {
                write!(f, "  a build, {from}, was told to retry, and nothing had happened to its range")
            }
        }
    }
}

impl History<'_> {
    fn told(&self, stamp: Stamp) -> String {
        let verb = if stamp.is_changing() { "being changed by" } else { "left by" };
        format!("{verb} {}", self.call(stamp.line()))
    }

    fn call(&self, line: u64) -> String {
        self.1
            .call_at(line)
            .map_or_else(|| format!("line {line}"), |call| format!("{call} on thread {}", self.1.threads[call.thread]))
    }
}
