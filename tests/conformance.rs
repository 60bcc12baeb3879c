//! The conformance harness finds what is wrong with a mirror, soon, and nothing with one that is right.
//!
//! The mirrors are those of `examples/conformance`. On plain threads by `cargo test`; under Shuttle by
//! `RUSTFLAGS='--cfg shuttle' cargo test --test conformance --target-dir target/shuttle`.
#![cfg(not(loom))]

#[path = "conformance/lazy.rs"]
mod lazy;
#[path = "../examples/conformance/right.rs"]
mod right;
#[path = "../examples/conformance/wrong.rs"]
mod wrong;

use interval_notifier::conformance::sync::{Mutex, MutexGuard, thread};
use interval_notifier::conformance::{Broken, Event, Failure, Fault, Generation, Harness, Setting, Subject};
use interval_notifier::{
    Ack, Attempt, BeginError, Call, Change, EventKind, Invalidate, Mirror, MirrorState, Owner, Retry, Span,
    Subscription, UpdateError, WouldBlock,
};
use lazy::Lazy;
use right::Right;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;
use wrong::{AnotherLock, NoRetry, OffByOne, Waits, Wrong};

/// Plain threads on a busy machine may not meet often enough to show the shortest history there is.
const SLACK: usize = if cfg!(shuttle) { 0 } else { 8 };

/// Time is no limit where the result depends on it.
fn harness() -> Harness {
    Harness::new().runs(1_000).within(Duration::from_secs(120))
}

/// For mirrors that wait, each time for so long, while their failure is made shorter.
fn impatient() -> Harness {
    harness().patience(Duration::from_millis(50))
}

fn failure<S: Subject>(harness: &Harness) -> Failure {
    let failure = harness.check::<S>().expect_err("it is wrong");
    println!("{failure}\n");
    failure
}

/// One of these rules is broken, which is found within so many runs and shown in so many events.
fn assert_found<S: Subject>(rules: &[Broken], runs: usize, events: usize) -> String {
    assert_found_by::<S>(&harness(), rules, runs, events)
}

fn assert_found_by<S: Subject>(harness: &Harness, rules: &[Broken], runs: usize, events: usize) -> String {
    let failure = failure::<S>(harness);
    assert!(rules.contains(&failure.broken()));
    assert!(failure.runs() <= runs, "it took {} runs", failure.runs());
    assert!(failure.history().len() <= events + SLACK, "it took {} events", failure.history().len());
    failure.to_string()
}

#[test]
fn a_right_mirror_passes() {
    let report = harness().check::<Right>().unwrap();
    println!("{report}");
    assert_eq!(report.runs(), 1_000);
}

/// What the fuzz target `conformance` found worth keeping. Under Shuttle the bytes are program and schedule.
#[test]
fn a_right_mirror_passes_the_kept_corpus() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/conformance");
    if !corpus.parent().expect("it has one").exists() {
        return; // The published crate is without it.
    }
    let mut kept = 0;
    for file in corpus.read_dir().expect("the corpus is kept") {
        let file = file.expect("a readable folder").path();
        let bytes = std::fs::read(&file).expect("a readable file");
        let checked = harness().check_bytes::<Right>(&bytes);
        checked.unwrap_or_else(|failure| panic!("{}: {failure}", file.display()));
        kept += 1;
    }
    assert!(kept > 0);
}

#[test]
fn a_commit_without_a_retry_is_found() {
    assert_found::<Wrong<NoRetry>>(&[Broken::StaleCommit, Broken::MappedInside], 500, 7);
}

#[test]
fn a_sequence_set_under_another_lock_is_found() {
    assert_found::<Wrong<AnotherLock>>(&[Broken::LockNotTaken, Broken::MappedInside], 500, 7);
}

#[test]
fn a_callback_that_drops_too_little_is_found() {
    assert_found::<Wrong<OffByOne>>(&[Broken::NotDropped], 500, 8);
}

#[test]
fn a_callback_that_waits_although_it_may_not_is_found() {
    assert_found_by::<Wrong<Waits>>(&impatient(), &[Broken::Blocked], 1_000, 5);
}

/// A mirror behind the library's lock, of pages that have an inside; `M` says what is wrong with it.
struct Library<const MISTAKE: u8>(Mirror<Frames<MISTAKE>, usize>);

const RIGHT: u8 = 0;
const ROUNDS_INWARDS: u8 = 1;
const IGNORES_MIGRATIONS: u8 = 2;
const REFUSES_ALWAYS: u8 = 3;
const PANICS: u8 = 4;
const NEVER_MAPS: u8 = 5;
const WAITS_FOR_EVER: u8 = 6;
const IGNORES_ITS_OWN: u8 = 12; // It may.
const ROUNDS_ITS_END_INWARDS: u8 = 18;
const SPINS_IF_IT_MAY_NOT_BLOCK: u8 = 19;

/// Ignores events of one kind, with an owner or without, in starts of one sort.
const fn ignores(kind: EventKind, is_owned: bool, may_block: bool) -> u8 {
    32 + 4 * kind as u8 + 2 * is_owned as u8 + may_block as u8
}

const PAGE: usize = 4096;

struct Frames<const MISTAKE: u8>(Vec<(usize, Generation)>, Owner);

impl<const MISTAKE: u8> MirrorState<usize> for Frames<MISTAKE> {
    fn invalidate(&mut self, change: &Change<usize>) {
        assert!(MISTAKE != PANICS || self.0.is_empty(), "out of order");
        if MISTAKE == REFUSES_ALWAYS {
            let _ = change.would_block();
        }
        while MISTAKE == SPINS_IF_IT_MAY_NOT_BLOCK && !change.is_blockable() {
            thread::sleep(Duration::from_millis(1));
        }
        let gone = change.overlap();
        self.0.retain(|&(page, _)| match MISTAKE {
            ROUNDS_INWARDS => !gone.contains(&page),
            ROUNDS_ITS_END_INWARDS => !gone.contains(&(page + PAGE - 1)),
            _ => gone.overlap(&Span::new(page..page + PAGE).unwrap()).is_none(),
        });
    }

    fn concerns(&self, change: &Change<usize>) -> bool {
        let owner = change.event().owner();
        match MISTAKE {
            IGNORES_MIGRATIONS => owner.is_none(),
            IGNORES_ITS_OWN => owner != Some(self.1),
            _ => MISTAKE != ignores(change.event().kind(), owner.is_some(), change.is_blockable()),
        }
    }
}

impl<const MISTAKE: u8> Library<MISTAKE> {
    fn map(&self, fault: &Fault<'_, usize>) -> Result<(), UpdateError<Infallible>> {
        let build = |_: Attempt<'_, usize>| Ok::<_, Infallible>(fault.read(fault.page()));
        self.0.update(Retry::forever(), build, |frames, generation| {
            frames.0.retain(|&(other, _)| other != fault.page());
            frames.0.extend((MISTAKE != NEVER_MAPS).then_some((fault.page(), generation)));
        })
    }
}

impl<const MISTAKE: u8> Subject for Library<MISTAKE> {
    type Address = usize;
    const PAGE_SIZE: u64 = PAGE as u64;

    fn new(setting: &Setting<usize>) -> Self {
        Library(setting.space().mirror(setting.range(), Frames(Vec::new(), setting.owner())).unwrap())
    }

    fn fault(&self, fault: &Fault<'_, usize>) {
        let page = fault.page();
        while MISTAKE == WAITS_FOR_EVER && self.held(page).is_some() {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.map(fault);
    }

    fn held(&self, page: usize) -> Option<Generation> {
        let found = self.0.with(|frames| frames.0.iter().find(|frame| frame.0 == page).copied());
        found.ok().flatten().map(|(_, generation)| generation)
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        let _ = self.0.with(|_| then());
    }
}

#[test]
fn a_right_mirror_of_the_library_passes() {
    println!("{}", harness().check::<Library<RIGHT>>().unwrap());
    println!("{}", harness().check::<Library<IGNORES_ITS_OWN>>().unwrap());
}

/// Lets go of its subscription when it hears of a release.
struct Leaves(Mutex<Option<Arc<Library<RIGHT>>>>);

impl Leaves {
    fn mirror(&self) -> Option<Arc<Library<RIGHT>>> {
        self.0.lock().unwrap().clone()
    }
}

impl Subject for Leaves {
    type Address = usize;
    const PAGE_SIZE: u64 = PAGE as u64;

    fn new(setting: &Setting<usize>) -> Self {
        Leaves(Mutex::new(Some(Arc::new(Library::new(setting)))))
    }

    fn fault(&self, fault: &Fault<'_, usize>) {
        let Some(mirror) = self.mirror() else { return };
        if let Err(UpdateError::Begin(BeginError::Released)) = mirror.map(fault) {
            self.0.lock().unwrap().take();
        }
    }

    fn held(&self, page: usize) -> Option<Generation> {
        self.mirror()?.held(page)
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        match self.mirror() {
            Some(mirror) => mirror.while_locked(then),
            None => then(),
        }
    }
}

/// After a release no start has a mirror lock to wait for.
#[test]
fn a_right_mirror_that_leaves_a_released_space_passes() {
    println!("{}", harness().runs(4_000).check::<Leaves>().unwrap());
}

/// No start has a mirror lock to wait for before there is a subscription.
#[test]
fn a_right_mirror_that_subscribes_late_passes() {
    println!("{}", harness().check::<Lazy>().unwrap());
}

#[test]
fn pages_that_are_hit_in_part_must_go() {
    assert_found::<Library<ROUNDS_INWARDS>>(&[Broken::NotDropped], 500, 8);
    assert_found::<Library<ROUNDS_ITS_END_INWARDS>>(&[Broken::NotDropped], 500, 8);
}

#[test]
fn what_somebody_else_migrates_concerns_the_mirror() {
    assert_found::<Library<IGNORES_MIGRATIONS>>(&[Broken::NotDropped], 1_000, 8);
}

fn assert_not_to_be_ignored<S: Subject>() {
    let rules = [Broken::NotDropped, Broken::StaleCommit, Broken::MappedInside];
    let failure = failure::<S>(&harness().runs(2_000));
    assert!(rules.contains(&failure.broken()));
}

#[test]
fn what_blocks_concerns_the_mirror_whichever_kind_it_is() {
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Unmap, false, true) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Clear, false, true) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Migrate, false, true) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Migrate, true, true) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Exclusive, true, true) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Release, false, true) }>>();
}

#[test]
fn what_does_not_block_concerns_the_mirror_whichever_kind_it_is() {
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Unmap, false, false) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Clear, false, false) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Migrate, false, false) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Migrate, true, false) }>>();
    assert_not_to_be_ignored::<Library<{ ignores(EventKind::Exclusive, true, false) }>>();
}

#[test]
fn a_refusal_where_none_is_allowed_is_reported() {
    let failure = failure::<Library<REFUSES_ALWAYS>>(&harness());
    assert_eq!(failure.broken(), Broken::Panicked);
    assert!(failure.to_string().contains("an invalidation that may block must not be refused"));
}

#[test]
fn a_panic_is_reported() {
    let failure = failure::<Library<PANICS>>(&harness());
    assert_eq!(failure.broken(), Broken::Panicked);
    assert!(failure.to_string().contains("out of order"));
}

#[test]
fn a_mirror_that_never_maps_anything_shows_nothing() {
    let failure = failure::<Library<NEVER_MAPS>>(&harness());
    assert_eq!((failure.broken(), failure.history()), (Broken::NeverMapped, &[] as &[Event]));
}

/// On plain threads such a run is given up, with its threads, so it is not made shorter.
fn assert_given_up<S: Subject>(broken: Broken) {
    let failure = failure::<S>(&impatient());
    assert_eq!(failure.broken(), broken);
    match cfg!(shuttle) {
        true => assert!(failure.history().len() <= 5),
        false => assert!(failure.to_string().contains("the shortest of 1 failures")),
    }
}

#[test]
fn what_never_ends_is_reported() {
    assert_given_up::<Library<WAITS_FOR_EVER>>(Broken::Hung);
    assert_given_up::<Library<SPINS_IF_IT_MAY_NOT_BLOCK>>(Broken::Blocked);
}

/// Mirrors that do all they should, but not as they should.
struct Odd<const MISTAKE: u8>(Subscription<Device<MISTAKE>>);

const SETS_SEQ_AFTERWARDS: u8 = 7;
const SAYS_UNAFFECTED: u8 = 8;
const WAITS_FOR_BUILDS: u8 = 9;
const READS_BEFORE_IT_BEGINS: u8 = 11;
const MAPS_AROUND: u8 = 13;
const FORGETS_IN_ITS_FINISH: u8 = 15; // It may.
const FINISHES_ONE_PAGE: u8 = 16;
#[cfg(shuttle)]
const LOCKS_IN_ITS_FINISH: u8 = 17;
#[cfg(shuttle)]
const INSTALLS_IN_ANOTHER_HOLD: u8 = 14;
#[cfg(shuttle)]
const LOCKS_THE_OTHER_WAY_ROUND: u8 = 10;

#[derive(Default)]
struct Device<const MISTAKE: u8> {
    mirror: Arc<Mutex<()>>,
    pages: Arc<Mutex<BTreeMap<u64, Generation>>>,
    other: Mutex<()>,
}

impl<const MISTAKE: u8> Device<MISTAKE> {
    fn lock(&self, change: &Change) -> Result<MutexGuard<'_, ()>, WouldBlock> {
        match change.is_blockable() {
            true => Ok(self.mirror.lock().unwrap()),
            false => self.mirror.try_lock().map_err(|_| change.would_block()),
        }
    }

    fn forget(&self, change: &Change) {
        self.pages.lock().unwrap().retain(|page, _| !change.overlap().contains(page));
    }
}

impl<const MISTAKE: u8> Invalidate for Device<MISTAKE> {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        let _build = (MISTAKE == WAITS_FOR_BUILDS).then(|| self.other.lock().unwrap());
        let mut locked = self.lock(call)?;
        match MISTAKE {
            FORGETS_IN_ITS_FINISH | FINISHES_ONE_PAGE => {}
            _ => self.forget(call),
        }
        match MISTAKE {
            FORGETS_IN_ITS_FINISH | FINISHES_ONE_PAGE => {
                let (pages, gone) = (self.pages.clone(), call.overlap());
                let stays = move |page: u64| match MISTAKE {
                    FINISHES_ONE_PAGE => page != gone.first(),
                    _ => !gone.contains(&page),
                };
                let forget = move || pages.lock().unwrap().retain(|page, _| stays(*page));
                Ok(call.set_seq(&mut locked).with_finish(Box::new(forget)))
            }
            #[cfg(shuttle)]
            LOCKS_IN_ITS_FINISH => {
                let mirror = self.mirror.clone();
                Ok(call.set_seq(&mut locked).with_finish(Box::new(move || drop(mirror.lock().unwrap()))))
            }
            SAYS_UNAFFECTED => Ok(call.unaffected()),
            SETS_SEQ_AFTERWARDS => {
                drop(locked);
                Ok(call.set_seq(&mut self.other.lock().unwrap()))
            }
            _ => Ok(call.set_seq(&mut locked)),
        }
    }
}

impl<const MISTAKE: u8> Subject for Odd<MISTAKE> {
    type Address = u64;

    fn new(setting: &Setting) -> Self {
        Odd(setting.space().subscribe(setting.range(), Device::default()).unwrap())
    }

    fn fault(&self, fault: &Fault<'_>) {
        let device = self.0.ops();
        let before = (MISTAKE == READS_BEFORE_IT_BEGINS).then(|| fault.read(fault.page()));
        while let Ok(seq) = self.0.read_begin() {
            let _build = (MISTAKE == WAITS_FOR_BUILDS).then(|| device.other.lock().unwrap());
            let around = u64::from(MISTAKE == MAPS_AROUND);
            let pages = fault.page() - around..=fault.page() + around;
            let built = pages.map(|page| (page, before.unwrap_or_else(|| fault.read(page)))).collect::<Vec<_>>();
            #[cfg(shuttle)]
            let _pages = (MISTAKE == LOCKS_THE_OTHER_WAY_ROUND).then(|| device.pages.lock().unwrap());
            let locked = device.mirror.lock().unwrap();
            let stale = self.0.read_retry(seq, &locked);
            #[cfg(shuttle)]
            drop(_pages);
            #[cfg(shuttle)]
            let _locked = match MISTAKE {
                INSTALLS_IN_ANOTHER_HOLD => {
                    drop(locked);
                    device.mirror.lock().unwrap()
                }
                _ => locked,
            };
            if !stale {
                device.pages.lock().unwrap().extend(built);
                return;
            }
        }
    }

    fn held(&self, page: u64) -> Option<Generation> {
        self.0.ops().pages.lock().unwrap().get(&page).copied()
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        let _locked = self.0.ops().mirror.lock().unwrap();
        then();
    }
}

#[test]
fn a_callback_that_says_unaffected_and_drops_is_found() {
    assert_found::<Odd<SAYS_UNAFFECTED>>(&[Broken::StaleCommit, Broken::MappedInside], 500, 8);
}

#[test]
fn a_callback_that_waits_for_a_build_is_found() {
    assert_found_by::<Odd<WAITS_FOR_BUILDS>>(&impatient(), &[Broken::Blocked], 1_000, 5);
}

#[test]
fn a_second_pass_that_drops_what_the_first_has_left_passes() {
    println!("{}", harness().check::<Odd<FORGETS_IN_ITS_FINISH>>().unwrap());
}

#[test]
fn a_second_pass_that_drops_too_little_is_found() {
    assert_found::<Odd<FINISHES_ONE_PAGE>>(&[Broken::NotDropped, Broken::MappedInside], 500, 10);
}

/// A second pass cannot refuse: what a start that may not block must not wait for, it must not want.
#[cfg(shuttle)]
#[test]
fn a_second_pass_that_waits_although_it_may_not_is_found() {
    assert_found::<Odd<LOCKS_IN_ITS_FINISH>>(&[Broken::Blocked], 1_000, 5);
}

/// It never holds anything between a start and its end.
#[test]
fn a_build_that_reads_before_it_begins_is_found() {
    let failure = assert_found::<Odd<READS_BEFORE_IT_BEGINS>>(&[Broken::StaleCommit], 500, 8);
    let changes: Vec<_> = failure.lines().filter(|line| line.contains("  changes page")).collect();
    assert!(!changes.is_empty() && changes.iter().all(|line| !line.ends_with("generation 0")), "they begin at 0");
}

/// Its subscription ends before those pages do, so nobody tells it to drop them.
#[test]
fn a_build_that_maps_beyond_the_subscription_is_found() {
    assert_found::<Odd<MAPS_AROUND>>(&[Broken::NotDropped, Broken::StaleCommit, Broken::MappedInside], 500, 8);
}

/// Plain threads would have to meet within a few instructions, here and below.
#[cfg(shuttle)]
#[test]
fn a_retry_under_another_hold_of_the_lock_is_found() {
    assert_found::<Odd<INSTALLS_IN_ANOTHER_HOLD>>(&[Broken::StaleCommit, Broken::MappedInside], 1_000, 8);
}

#[cfg(shuttle)]
#[test]
fn a_sequence_set_under_another_lock_is_found_by_its_effects() {
    assert_found::<Odd<SETS_SEQ_AFTERWARDS>>(&[Broken::StaleCommit, Broken::MappedInside], 1_000, 8);
}

/// A deadlock would cost plain threads these threads.
#[cfg(shuttle)]
#[test]
fn locks_in_the_wrong_order_are_found() {
    assert_found::<Odd<LOCKS_THE_OTHER_WAY_ROUND>>(&[Broken::Hung], 1_000, 5);
}

#[cfg(shuttle)]
#[test]
fn the_same_seed_finds_the_same() {
    let [one, other] = [(); 2].map(|()| failure::<Wrong<NoRetry>>(&harness()).to_string());
    assert_eq!(one, other);
}

/// Bytes that run as they are, and not too many of them.
#[test]
fn bytes_are_programs() {
    let check = |mirror: fn(&Harness, &[u8]) -> Result<(), Failure>, bytes: &[u8]| mirror(&harness(), bytes);
    for length in 0..100 {
        let bytes: Vec<u8> = (0..length).map(|i: u8| i.wrapping_mul(97) ^ length).collect();
        check(Harness::check_bytes::<Right>, &bytes).unwrap();
        check(Harness::check_bytes::<Library<RIGHT>>, &bytes).unwrap();
    }
    let fault_the_last_page = [0, 0, 0, 2, 1];
    let failure = check(Harness::check_bytes::<Wrong<OffByOne>>, &fault_the_last_page).expect_err("it is wrong");
    println!("{failure}");
    assert_eq!((failure.broken(), failure.seed()), (Broken::NotDropped, None));
}

#[test]
fn no_run_begins_when_time_is_up() {
    let failure = Harness::new().within(Duration::ZERO).check::<Right>().expect_err("there was no run");
    assert_eq!((failure.broken(), failure.runs()), (Broken::NeverMapped, 0));
}

/// Runs itself once more, in an environment of its own.
#[test]
fn the_environment_sets_the_seed() {
    const NAME: &str = "INTERVAL_CONFORMANCE_SEED";
    if std::env::var_os(NAME).is_some() {
        assert_eq!(Harness::new().runs(50).seed(1).check::<Right>().unwrap().seed(), 77);
    } else {
        assert_eq!(Harness::new().runs(50).seed(1).check::<Right>().unwrap().seed(), 1);
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "the_environment_sets_the_seed"]).env(NAME, "77");
        assert!(again.status().unwrap().success());
    }
}
