//! Says where an engine broke its promise.
//!
//! * **P1, no stale commit**: what a builder installs, and what a mirror holds, is what the owner has there now.
//! * **P2, nothing mapped inside**: between start and end the mirror holds nothing of the range, and nothing is installed.
//! * **P3, no false alarm**: a retry means that an overlapping invalidation has called back. Only this crate promises it.
//!
//! All of it is looked at under the mirror lock, where each of these must hold at every moment.

use std::fmt::{self, Display};
use std::ops::{AddAssign, Range};
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

impl AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        let room = SHOWN.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mappings::Mirrored;
    use crate::rival::{Engine, Interval};
    use std::path::Path;
    use std::sync::Arc;

    const RANGE: Range<u64> = 0x1000..0x3000;

    /// A region that is subscribed, and what has been found.
    struct Scene {
        engine: Interval,
        region: Arc<Region>,
        sub: <Interval as Engine<Mirrored>>::Sub,
        checker: Checker,
    }

    impl Scene {
        fn new() -> Self {
            let (engine, region) = (Interval::default(), Arc::new(Region::new(RANGE, |_| Stamp::left_by(1))));
            let sub = engine.subscribe(RANGE, Mirrored(Arc::clone(&region)));
            Scene { engine, region, sub, checker: Checker::new(Instant::now()) }
        }

        /// The owner's side of the call in `line`, with something in the middle of it.
        fn change(&self, line: u64, inside: impl FnOnce()) {
            let _open = Engine::<Mirrored>::start(&self.engine, RANGE);
            self.region.set_stamps(&RANGE, Stamp::changing(line));
            inside();
            self.region.set_stamps(&RANGE, Stamp::left_by(line));
        }

        /// Installs in cell 0, whether the engine would allow it or not.
        fn install(&self, read: Stamp) {
            self.checker.install(&self.region, 0, read, Instant::now());
            self.region.lock().install(0, read);
        }

        /// What was found, if it is just one thing.
        fn found(self) -> Option<What> {
            let Found { count, first } = self.checker.finish();
            assert!(count <= 1, "{first:?}");
            first.first().map(|violation| violation.what)
        }
    }

    #[test]
    fn a_mirror_that_keeps_to_the_protocol_is_not_blamed() {
        let scene = Scene::new();
        let seq = scene.engine.read_begin(&scene.sub);
        let read = scene.region.stamp(0);
        scene.change(2, || ());
        assert!(scene.engine.read_retry(&scene.sub, seq, &scene.region.lock()));
        let (seq, again) = (scene.engine.read_begin(&scene.sub), scene.region.stamp(0));
        assert_ne!(again, read);
        assert!(!scene.engine.read_retry(&scene.sub, seq, &scene.region.lock()));
        scene.install(again);
        scene.checker.used(&scene.region, 0, &scene.region.lock());
        scene.change(3, || scene.checker.started(&scene.region, &RANGE, 3, Instant::now()));
        scene.checker.used(&scene.region, 0, &scene.region.lock());
        assert_eq!(scene.found(), None);
    }

    #[test]
    fn a_commit_of_what_has_changed_is_seen() {
        let scene = Scene::new();
        let read = scene.region.stamp(0);
        scene.change(2, || ());
        scene.install(read); // without a retry
        assert_eq!(scene.found(), Some(What::Stale { read: Stamp::left_by(1), now: Stamp::left_by(2) }));
    }

    #[test]
    fn a_commit_inside_an_invalidation_is_seen() {
        let scene = Scene::new();
        scene.change(2, || scene.install(scene.region.stamp(0))); // begun without waiting
        assert_eq!(scene.found(), Some(What::Inside { by: Stamp::changing(2) }));
    }

    #[test]
    fn what_is_held_after_a_start_is_seen() {
        let scene = Scene::new();
        let read = scene.region.stamp(0);
        scene.change(2, || {
            scene.region.lock().install(0, read); // as if no callback had dropped it
            scene.checker.started(&scene.region, &RANGE, 2, Instant::now());
        });
        assert_eq!(scene.found(), Some(What::Kept { held: read, line: 2 }));
    }

    #[test]
    fn what_is_held_and_wrong_is_seen_when_it_is_used() {
        let scene = Scene::new();
        let read = scene.region.stamp(0);
        scene.change(2, || scene.region.lock().install(0, read));
        scene.checker.used(&scene.region, 0, &scene.region.lock());
        assert_eq!(scene.found(), Some(What::Wrong { held: read, now: Stamp::left_by(2) }));
    }

    #[test]
    fn the_first_few_are_told_and_all_are_counted() {
        let scene = Scene::new();
        (0..9).for_each(|_| scene.checker.false_alarm(&scene.region, Instant::now()));
        let mut found = scene.checker.finish();
        found += Found { count: 1, first: found.first.clone() };
        assert_eq!((found.count, found.first.len()), (10, SHOWN));
    }

    #[test]
    fn a_history_names_the_calls() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/replay/traces/rustc_release.csv.gz");
        let trace = crate::trace::read(&path, None).unwrap();
        let (from, seen) = (Duration::from_micros(1), Duration::from_micros(1500));
        let what = What::Stale { read: Stamp::left_by(4), now: Stamp::changing(6) };
        let told = History(&Violation { addresses: 0x1000..0x2000, from, seen, what }, &trace).to_string();
        assert_eq!(
            told,
            "P1 broken at 1000..2000, seen 1.500 ms into the replay\n  \
             a build, begun at 0.001 ms, read the cell as it was left by \
             line 4, mmap from 4118.9 to 4122.4 us on thread 0\n  \
             it was let install that, but the cell is now being changed by \
             line 6, munmap from 4139.0 to 4142.6 us on thread 0"
        );
    }
}
