//! The search for a run that breaks a rule, and for the shortest one that does.

use super::history::{Broken, Event, Found};
use super::program::{Program, Random};
use super::{Subject, driver};
use std::error::Error;
use std::fmt;
use std::ops::AddAssign;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Sets the seed instead of the program.
const SEED: &str = "INTERVAL_CONFORMANCE_SEED";
/// Runs to shorten a failure, at most.
const RUNS_TO_SHORTEN: usize = 20_000;
/// A run takes some milliseconds. If there is no progress in this many times the patience with one callback, it hangs.
const PATIENCES: usize = 20;
/// Histories of the smallest program that are compared. Each may cost the patience with one callback.
const HISTORIES: usize = 10;

/// Drives mirrors, within a budget.
///
/// ```
/// use interval_notifier::conformance::Harness;
/// use std::time::Duration;
/// let harness = Harness::new().runs(10_000).within(Duration::from_secs(5)).seed(7); // whichever comes first
/// # let _ = harness;
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `check` is called"]
pub struct Harness {
    seed: u64,
    runs: usize,
    within: Duration,
    patience: Duration,
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness {
    /// 2,000 runs within ten seconds, with seed 0 and a patience of 250 ms.
    pub fn new() -> Self {
        Harness { seed: 0, runs: 2_000, within: Duration::from_secs(10), patience: Duration::from_millis(250) }
    }

    /// Chooses the programs, the pauses and Shuttle's schedules; `INTERVAL_CONFORMANCE_SEED` in the environment has
    /// precedence. Under Shuttle the same seed finds the same, unless time is up before.
    pub fn seed(self, seed: u64) -> Self {
        Harness { seed, ..self }
    }

    /// At most so many runs, without those that shorten what was found (20,000 at most).
    pub fn runs(self, runs: usize) -> Self {
        Harness { runs, ..self }
    }

    /// No run begins after so long. To shorten what was found, as long again.
    pub fn within(self, within: Duration) -> Self {
        Harness { within, ..self }
    }

    /// How long a callback that may not block gets on plain threads before it counts as waiting, and a twentieth of
    /// the time after which a run counts as hanging. Only a mirror that is wrong makes the harness wait so long.
    pub fn patience(self, patience: Duration) -> Self {
        Harness { patience, ..self }
    }

    /// Drives mirrors of one kind by programs of its own until one breaks a rule, or the budget is spent.
    ///
    /// # Errors
    ///
    /// The shortest [`Failure`] found.
    ///
    /// # Panics
    ///
    /// If the environment sets a seed that is not a number.
    pub fn check<S: Subject>(&self) -> Result<Report, Failure> {
        let mut search = Search::new(self);
        let mut programs = 0;
        while search.has_budget() {
            let mut random = Random::new(search.seed, programs);
            let seed = random.next();
            let program = Program::new(&mut random.bytes());
            programs += 1;
            if let Some(found) = search.run::<S>(&program, seed, driver::RUNS) {
                let seed = Some(search.seed);
                return Err(Failure { seed, ..search.shortest::<S>(program, found) });
            }
        }
        if search.spent.mapped { Ok(search.report(programs)) } else { Err(search.never_mapped()) }
    }

    /// Drives one mirror by bytes: they choose the program, and under Shuttle the schedule too.
    ///
    /// For a libFuzzer target, which then searches where coverage leads it (see the [module](super)). Every byte string
    /// will do.
    ///
    /// # Errors
    ///
    /// The shortest [`Failure`] found.
    pub fn check_bytes<S: Subject>(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut search = Search::new(self);
        let mut rest = bytes.iter().copied();
        let program = Program::new(&mut rest);
        let outcome = driver::run_scheduled::<S>(&program, rest.collect(), &search.limits);
        search.spent += outcome;
        match search.spent.found.take() {
            None => Ok(()),
            Some(found) => Err(search.shortest::<S>(program, found)),
        }
    }

    fn seed_in_force(&self) -> u64 {
        match std::env::var(SEED) {
            Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{SEED} must be a number, and is {seed:?}")),
            Err(_) => self.seed,
        }
    }
}

/// Bounds of a run, whatever runs it.
pub(super) struct Limits {
    pub(super) deadline: Instant,
    pub(super) patience: Duration,
}

impl Limits {
    /// Waits until runs are over: as long as it takes if there is progress, else so many times the patience with one
    /// callback. That is counted in waits, not in time: while the whole process is stopped, nobody is late.
    pub(super) fn wait(
        &self,
        over: &Receiver<()>,
        mut progress: impl FnMut() -> usize,
    ) -> Result<(), RecvTimeoutError> {
        let (mut known, mut waits) = (0, 0);
        loop {
            let ended = over.recv_timeout(self.patience);
            let now = progress();
            waits = if now == known { waits + 1 } else { 0 };
            known = now;
            if ended != Err(RecvTimeoutError::Timeout) || waits == PATIENCES {
                return ended;
            }
        }
    }
}

/// What came of some runs.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) runs: usize,
    pub(super) mapped: bool,
    pub(super) found: Option<Found>,
    /// A run was given up, and its threads are left behind: one is enough.
    pub(super) is_lost: bool,
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, more: Outcome) {
        self.runs += more.runs;
        self.mapped |= more.mapped;
        self.found = more.found;
        self.is_lost |= more.is_lost;
    }
}

/// What is left of the budget, and what came of the rest.
struct Search {
    seed: u64,
    runs: usize,
    within: Duration,
    limits: Limits,
    spent: Outcome,
}

impl Search {
    fn new(harness: &Harness) -> Self {
        let Harness { runs, within, patience, .. } = *harness;
        let limits = Limits { deadline: after(within), patience };
        Search { seed: harness.seed_in_force(), runs, within, limits, spent: Outcome::default() }
    }

    fn has_budget(&self) -> bool {
        self.spent.runs < self.runs && Instant::now() < self.limits.deadline
    }

    fn run<S: Subject>(&mut self, program: &Program, seed: u64, runs: usize) -> Option<Found> {
        let runs = runs.min(self.runs.saturating_sub(self.spent.runs));
        self.spent += driver::run::<S>(program, seed, runs, &self.limits);
        self.spent.found.take()
    }

    /// Makes the program smaller while it fails in the same way, and takes the shortest history of the smallest one.
    fn shortest<S: Subject>(self, mut program: Program, mut found: Found) -> Failure {
        let runs = self.spent.runs;
        let limits = Limits { deadline: after(self.within), ..self.limits };
        let spent = Outcome { is_lost: self.spent.is_lost, ..Outcome::default() };
        let mut again = Search { runs: RUNS_TO_SHORTEN, limits, spent, ..self };
        let mut failures = 1;
        while let Some((smaller, again)) = again.fails_smaller::<S>(&program, found.broken) {
            (program, found) = (smaller, again);
            failures += 1;
        }
        for _ in 0..HISTORIES {
            let Some(other) = again.fails_again::<S>(&program, found.broken) else { break };
            found = found.or_shorter(other);
            failures += 1;
        }
        Failure { found, seed: None, runs, failures }
    }

    fn fails_smaller<S: Subject>(&mut self, program: &Program, broken: Broken) -> Option<(Program, Found)> {
        program.smaller().find_map(|smaller| {
            let found = self.fails_again::<S>(&smaller, broken)?;
            Some((smaller, found))
        })
    }

    fn fails_again<S: Subject>(&mut self, program: &Program, broken: Broken) -> Option<Found> {
        if self.spent.is_lost {
            return None;
        }
        let seed = Random::new(self.seed, self.spent.runs as u64).next();
        self.run::<S>(program, seed, driver::RUNS_TO_SHRINK).filter(|found| found.broken.is_like(broken))
    }

    fn report(&self, programs: u64) -> Report {
        Report { seed: self.seed, programs, runs: self.spent.runs }
    }

    fn never_mapped(&self) -> Failure {
        let runs = self.spent.runs;
        let detail = format!(
            "fault must leave its page mapped if nobody invalidates it, and held must say so \
             (or there were too few runs, {runs}, for any fault to come through)"
        );
        let found = Found { broken: Broken::NeverMapped, detail, events: Vec::new() };
        Failure { found, seed: Some(self.seed), runs, failures: 1 }
    }
}

/// Nothing is broken, as far as this went.
#[derive(Clone, Debug)]
pub struct Report {
    seed: u64,
    programs: u64,
    runs: usize,
}

impl Report {
    /// How many runs there were.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// The seed that was in force.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, programs, runs } = self;
        write!(f, "nothing is broken in {runs} runs of {programs} programs {}, seed {seed}", driver::NAME)
    }
}

/// A rule is broken. Shown as text it is the whole story: the rule, the history, and how to see it again.
#[must_use = "it says which rule is broken"]
pub struct Failure {
    found: Found,
    /// `None` if it came from bytes.
    seed: Option<u64>,
    runs: usize,
    failures: usize,
}

impl Failure {
    /// Which rule.
    pub fn broken(&self) -> Broken {
        self.found.broken
    }

    /// What happened, in order, in the shortest run found that breaks it.
    pub fn history(&self) -> &[Event] {
        &self.found.events
    }

    /// How many runs it took, without those to shorten it.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// The seed that was in force; `None` if it was found by bytes.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { found: Found { broken, detail, events }, seed, runs, failures } = self;
        writeln!(f, "{broken}")?;
        for (number, event) in events.iter().enumerate() {
            writeln!(f, "  {:>2}. {event}", number + 1)?;
        }
        writeln!(f, "  >>> {detail}")?;
        write!(f, "found after {runs} runs {}, shown is the shortest of {failures} failures; ", driver::NAME)?;
        match seed {
            Some(seed) => write!(f, "to see it again: {SEED}={seed}"),
            None => f.write_str("to see it again: the same bytes"),
        }
    }
}

impl fmt::Debug for Failure {
    /// The same: it is for `unwrap`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Failure {}

fn after(within: Duration) -> Instant {
    let now = Instant::now();
    // Too long for the clock is for ever, or a century.
    now.checked_add(within).unwrap_or_else(|| now + Duration::from_secs(3_000_000_000))
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::super::{Fault, Generation, Setting};
    use super::*;
    use crate::{Change, Mirror, MirrorState, Retry};
    use std::convert::Infallible;

    /// Callbacks drop nothing, so whatever was mapped is there when all threads have gone, and one more change finds it.
    struct Forgetful(Mirror<Pages>);

    #[derive(Default)]
    struct Pages(Vec<(u64, Generation)>);

    impl MirrorState for Pages {
        fn invalidate(&mut self, _: &Change) {}
    }

    impl Subject for Forgetful {
        type Address = u64;

        fn new(setting: &Setting) -> Self {
            Forgetful(setting.space().mirror(setting.range(), Pages::default()).expect("the range is not empty"))
        }

        fn fault(&self, fault: &Fault<'_>) {
            let page = fault.page();
            assert_eq!(format!("{fault:?}"), format!("Fault {{ page: {page}, .. }}"));
            let build = |_: crate::Attempt<'_>| Ok::<_, Infallible>(fault.read(page));
            let _ = self.0.update(Retry::forever(), build, |pages, read| pages.0.push((page, read)));
        }

        fn held(&self, page: u64) -> Option<Generation> {
            let find = |pages: &Pages| pages.0.iter().find(|(mapped, _)| *mapped == page).map(|(_, read)| *read);
            self.0.with(find).ok().flatten()
        }

        fn while_locked(&self, then: &mut dyn FnMut()) {
            let _ = self.0.with(|_| then());
        }
    }

    /// A fault on page 3, and besides one on page 1 that takes its time.
    const TWO_FAULTS: [u8; 5] = [0, 0, 0, 2, 1];

    /// Another one on page 2, of a third thread.
    const THREE_FAULTS: [u8; 9] = [1, 0, 0, 2, 1, 0, 0, 1, 1];

    /// All of them are one thread and one fault, whatever was found first.
    const SHORTEST: &str = "P2 is broken: a start did not make the mirror drop what it held
   1. thread 0: faults page 1 in
   2. thread 0:   the build reads page 1: generation 0
   3. thread 0:   the fault on page 1 is done
   4. at rest:  starts to invalidate pages 0 to 4 (Unmap)
   5. at rest:    the start has returned
  >>> the mirror holds page 1 in generation 0, as it did before the start
";

    #[test]
    fn settings_are_kept() {
        let harness = Harness::new().seed(7).runs(3).within(Duration::from_secs(1)).patience(Duration::from_millis(2));
        assert_eq!(format!("{harness:?}"), "Harness { seed: 7, runs: 3, within: 1s, patience: 2ms }");
        assert_eq!(format!("{:?}", Harness::default()), format!("{:?}", Harness::new()));
    }

    #[test]
    fn a_failure_is_the_whole_story() {
        let failure = Harness::new().check_bytes::<Forgetful>(&TWO_FAULTS).expect_err("it forgets nothing");
        let found = "found after 1 runs on plain threads, shown is the shortest of 13 failures; \
                     to see it again: the same bytes";
        assert_eq!(failure.to_string(), format!("{SHORTEST}{found}"));
        assert_eq!(format!("{failure:?}"), failure.to_string());
        assert_eq!((failure.broken(), failure.runs(), failure.seed()), (Broken::NotDropped, 1, None));
        let threads: Vec<_> = failure.history().iter().map(Event::thread).collect();
        assert_eq!(threads, [Some(0), Some(0), Some(0), None, None]);
    }

    /// What goes wrong whatever the threads do goes wrong in the same run again, and is as short again.
    #[test]
    fn what_a_seed_has_found_is_found_by_it_again() {
        let find = |seed| Harness::new().seed(seed).runs(200).check::<Forgetful>().expect_err("it forgets nothing");
        let failure = find(5);
        assert_eq!(failure.seed(), Some(5));
        assert!(failure.to_string().ends_with(&format!("to see it again: {SEED}=5")), "{failure}");
        let again = find(5);
        assert_eq!(
            (again.broken(), again.runs(), again.history()),
            (failure.broken(), failure.runs(), failure.history())
        );
        assert_eq!(failure.history().len(), 5);
    }

    /// What is found by the last run there is, when time is up, is made shorter all the same.
    #[test]
    fn shortening_has_a_budget_of_its_own() {
        let search = |runs, deadline| {
            let mut search = Search::new(&Harness::new().runs(1));
            let program = Program::new(&mut THREE_FAULTS.into_iter());
            let found = search.run::<Forgetful>(&program, 0, 1).expect("it forgets nothing");
            search.spent.runs = runs;
            search.limits.deadline = deadline;
            search.shortest::<Forgetful>(program, found).to_string()
        };
        let (now, later) = (Instant::now(), after(Duration::from_secs(60)));
        for failure in [search(1, now), search(RUNS_TO_SHORTEN, later)] {
            assert!(failure.starts_with(SHORTEST), "{failure}");
        }
    }

    #[test]
    fn a_run_without_progress_is_given_up_after_twenty_patiences() {
        let limits = Limits { deadline: Instant::now(), patience: Duration::from_millis(1) };
        let (over, is_over) = std::sync::mpsc::channel();
        let waits_with = |progress: usize| {
            let mut waits = 0;
            let given_up = limits.wait(&is_over, || {
                waits += 1;
                assert!(waits < 100, "it goes on");
                progress.min(waits)
            });
            (waits, given_up)
        };
        assert_eq!(waits_with(0), (20, Err(RecvTimeoutError::Timeout)));
        assert_eq!(waits_with(30), (50, Err(RecvTimeoutError::Timeout)));
        over.send(()).unwrap();
        assert_eq!(waits_with(30), (1, Ok(())));
        drop(over);
        assert_eq!(waits_with(30), (1, Err(RecvTimeoutError::Disconnected)));
    }

    #[test]
    fn a_report_says_how_much_was_run() {
        let report = Report { seed: 3, programs: 2, runs: 4 };
        assert_eq!((report.runs(), report.seed()), (4, 3));
        assert_eq!(report.to_string(), "nothing is broken in 4 runs of 2 programs on plain threads, seed 3");
    }

    #[test]
    fn a_time_too_long_for_the_clock_is_later_all_the_same() {
        let now = Instant::now();
        assert!(after(Duration::MAX) > now + Duration::from_secs(1_000_000_000));
        assert!(after(Duration::from_secs(60)) > now + Duration::from_secs(59));
    }

    #[test]
    fn outcomes_add_up() {
        let mut sum = Outcome { runs: 2, mapped: false, found: None, is_lost: false };
        sum += Outcome { runs: 3, mapped: true, found: None, is_lost: true };
        sum += Outcome { runs: 1, mapped: false, found: None, is_lost: false };
        assert_eq!((sum.runs, sum.mapped, sum.is_lost), (6, true, true));
    }
}
