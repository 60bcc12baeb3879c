//! What happened in a run, in order, and what is known to be wrong with it.

use super::program::Notice;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mirror did that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Broken {
    /// P1: it holds what had changed before it was committed.
    StaleCommit,
    /// P2: between start and end it holds what was committed after the start had begun.
    MappedInside,
    /// P2: what it held when an invalidation started was still there when the start had returned.
    NotDropped,
    /// A start has returned although another thread held the mirror lock all the time: the callback calls `set_seq` under
    /// another lock, or under none. (Not asked of a mirror that [subscribes later](super::Subject::SUBSCRIBES_AT_ONCE).)
    LockNotTaken,
    /// P6: a callback has waited for the mirror lock, or for a build, although the invalidation may not block.
    Blocked,
    /// Something panicked: the mirror, or the library because of what the mirror did (a refusal where none is allowed).
    Panicked,
    /// P7: the threads never came to their end.
    Hung,
    /// In no run was a page ever mapped, so that nothing at all was shown.
    NeverMapped,
}

impl Broken {
    /// Can the same mistake show as either? A build that is overtaken shows where it is looked for first.
    pub(super) fn is_like(self, other: Broken) -> bool {
        let is_stale = |broken| matches!(broken, Broken::StaleCommit | Broken::MappedInside | Broken::NotDropped);
        self == other || (is_stale(self) && is_stale(other))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Broken::StaleCommit => "P1 is broken: something stale was committed",
            Broken::MappedInside => "P2 is broken: something is mapped between start and end",
            Broken::NotDropped => "P2 is broken: a start did not make the mirror drop what it held",
            Broken::LockNotTaken => {
                "a start went past the mirror lock while it was held: set_seq is called under another lock, or under none"
            }
            Broken::Blocked => "P6 is broken: a callback waited although the invalidation may not block",
            Broken::Panicked => "a panic",
            Broken::Hung => "P7 is broken: the threads wait for each other, or for ever",
            Broken::NeverMapped => "no fault ever left its page mapped: nothing was tested",
        })
    }
}

/// One moment of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `None`: when all threads had gone.
    thread: Option<usize>,
    what: What,
}

impl Event {
    /// Which thread it was, from 0; `None` if it was after the end of all.
    pub fn thread(&self) -> Option<usize> {
        self.thread
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Fault { page: usize },
    Read { page: usize, generation: u64 },
    Faulted { page: usize },
    Start { notice: Notice, may_block: bool },
    Started,
    Refused,
    Changed { page: usize, generation: u64, start: usize },
    End { notice: Notice },
    Hold,
    LetGo,
    Release,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thread {
            Some(thread) => write!(f, "thread {thread}: ")?,
            None => f.write_str("at rest:  ")?,
        }
        match &self.what {
            What::Fault { page } => write!(f, "faults page {page} in"),
            What::Read { page, generation } => write!(f, "  the build reads page {page}: generation {generation}"),
            What::Faulted { page } => write!(f, "  the fault on page {page} is done"),
            What::Start { notice, may_block } => {
                let how = if *may_block { "starts" } else { "starts, without blocking," };
                write!(f, "{how} to invalidate {notice}")
            }
            What::Started => f.write_str("  the start has returned"),
            What::Refused => f.write_str("  the start was refused"),
            What::Changed { page, generation, .. } => write!(f, "  changes page {page}: generation {generation}"),
            What::End { notice } => write!(f, "  ends the invalidation of {notice}"),
            What::Hold => f.write_str("holds the mirror lock"),
            What::LetGo => f.write_str("  lets go of the mirror lock"),
            What::Release => f.write_str("releases the address space"),
        }
    }
}

/// Something wrong, and what led to it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) broken: Broken,
    pub(super) detail: String,
    pub(super) events: Vec<Event>,
}

impl Found {
    /// The one with the shorter history; of equals this one.
    pub(super) fn or_shorter(self, other: Found) -> Found {
        if other.length() < self.length() { other } else { self }
    }

    /// How many events; then, how often the threads take turns.
    fn length(&self) -> (usize, usize) {
        let switches = self.events.windows(2).filter(|pair| pair[0].thread != pair[1].thread).count();
        (self.events.len(), switches)
    }
}

/// The record of one run. It outlives a run that hangs.
///
/// Everything in it is the standard library's under every runner: it lies outside of what is explored.
#[derive(Debug, Default)]
pub(super) struct Record {
    pages: Mutex<Told>,
    /// Non-blocking starts that have yet to return.
    tries: AtomicUsize,
    /// Was any page ever mapped?
    mapped: AtomicBool,
}

#[derive(Debug, Default)]
struct Told {
    events: Vec<Event>,
    /// What came first; nothing is noted after it.
    broken: Option<(Broken, String)>,
}

impl Record {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes it; its number.
    pub(super) fn note(&self, thread: Option<usize>, what: What) -> usize {
        self.told().note(thread, what)
    }

    /// Notes that the start of that number has returned. It went past the mirror lock if somebody held that all the time.
    pub(super) fn note_started(&self, thread: Option<usize>, start: usize, takes_lock: bool) {
        let mut told = self.told();
        told.note(thread, What::Started);
        if let Some(holder) = told.holder_since(start).filter(|_| takes_lock) {
            let detail = format!(
                "the start has returned, and thread {holder} held the mirror lock before and still does \
                 (a mirror that subscribes later, or in parts, says so: Subject::SUBSCRIBES_AT_ONCE)"
            );
            told.breaks(Broken::LockNotTaken, detail);
        }
    }

    pub(super) fn breaks(&self, broken: Broken, detail: String) {
        self.told().breaks(broken, detail);
    }

    /// The mirror holds `page` in a generation that is too old, or while it must not. Which rule that breaks depends on
    /// how it came there.
    pub(super) fn breaks_by(&self, otherwise: Broken, page: usize, generation: u64, start: Option<usize>) {
        let mut told = self.told();
        let start = start.or_else(|| told.start_of_the_change_after(page, generation));
        let before = start.is_some_and(|start| told.was_mapped_before(start, page, generation));
        let detail = format!("the mirror holds page {page} in generation {generation}");
        match before {
            true => told.breaks(Broken::NotDropped, format!("{detail}, as it did before the start")),
            false => told.breaks(otherwise, detail),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.told().broken.is_some()
    }

    /// The run ended so: what was found, if anything was.
    pub(super) fn found(&self) -> Option<Found> {
        let told = self.told();
        let (broken, detail) = told.broken.clone()?;
        Some(Found { broken, detail, events: told.events.clone() })
    }

    /// The run did not end.
    pub(super) fn hung(&self, why: &str) -> Found {
        let tries = self.tries.load(SeqCst) > 0;
        self.breaks(if tries { Broken::Blocked } else { Broken::Hung }, why.to_owned());
        self.found().expect("it is broken now at the latest")
    }

    /// Calls it as a start that may not block.
    pub(super) fn trying<R>(&self, start: impl FnOnce() -> R) -> R {
        struct Over<'a>(&'a AtomicUsize);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        self.tries.fetch_add(1, SeqCst);
        let _over = Over(&self.tries);
        start()
    }

    /// Does nobody start without blocking just now?
    pub(super) fn nobody_tries(&self) -> bool {
        self.tries.load(SeqCst) == 0
    }

    pub(super) fn saw_mapped(&self) {
        self.mapped.store(true, Relaxed);
    }

    pub(super) fn was_mapped(&self) -> bool {
        self.mapped.load(Relaxed)
    }
}

impl Told {
    fn note(&mut self, thread: Option<usize>, what: What) -> usize {
        if self.broken.is_none() {
            self.events.push(Event { thread, what });
        }
        self.events.len().saturating_sub(1)
    }

    fn breaks(&mut self, broken: Broken, detail: String) {
        self.broken.get_or_insert((broken, detail));
    }

    /// Who held the mirror lock when the start of that number began, and has not let go since? Both are noted under the
    /// lock, so he holds it still.
    fn holder_since(&self, start: usize) -> Option<usize> {
        let holds = |(number, event): &(usize, &Event)| {
            let later = || self.events[number + 1..].iter();
            event.what == What::Hold && later().all(|later| later.thread != event.thread)
        };
        self.events[..start].iter().enumerate().find(holds).and_then(|(_, event)| event.thread)
    }

    /// Had every fault that read this generation of the page come to its end before the event of that number? It may have
    /// been on another page.
    fn was_mapped_before(&self, start: usize, page: usize, generation: u64) -> bool {
        let is_done = |(number, read): (usize, &Event)| {
            let ends = |event: &Event| event.thread == read.thread && matches!(event.what, What::Faulted { .. });
            self.events.get(number..start).is_some_and(|between| between.iter().any(ends))
        };
        let reads = self.events.iter().enumerate().filter(|(_, event)| event.what == What::Read { page, generation });
        reads.clone().count() > 0 && reads.into_iter().all(is_done)
    }

    /// Where the change began that ended this generation of the page.
    fn start_of_the_change_after(&self, page: usize, generation: u64) -> Option<usize> {
        self.events.iter().find_map(|event| match event.what {
            What::Changed { page: changed, generation: now, start } if changed == page && now > generation => {
                Some(start)
            }
            _ => None,
        })
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use What::{Changed, End, Fault, Faulted, Hold, LetGo, Read, Refused, Start, Started};

    fn notice() -> Notice {
        Notice::plain(1..3)
    }

    fn start() -> What {
        Start { notice: notice(), may_block: true }
    }

    /// A record of these events.
    fn record(events: impl IntoIterator<Item = (usize, What)>) -> Record {
        let record = Record::default();
        for (number, (thread, what)) in events.into_iter().enumerate() {
            assert_eq!(record.note(Some(thread), what), number);
        }
        record
    }

    fn broken(record: &Record) -> Option<Broken> {
        assert_eq!(record.is_broken(), record.found().is_some());
        record.found().map(|found| found.broken)
    }

    #[test]
    fn events_read_as_sentences() {
        let said = |thread, what| Event { thread, what }.to_string();
        for (what, words) in [
            (Fault { page: 2 }, "faults page 2 in"),
            (Read { page: 2, generation: 7 }, "  the build reads page 2: generation 7"),
            (Faulted { page: 2 }, "  the fault on page 2 is done"),
            (start(), "starts to invalidate pages 1 to 2 (Unmap)"),
            (
                Start { notice: notice(), may_block: false },
                "starts, without blocking, to invalidate pages 1 to 2 (Unmap)",
            ),
            (Started, "  the start has returned"),
            (Refused, "  the start was refused"),
            (Changed { page: 1, generation: 3, start: 0 }, "  changes page 1: generation 3"),
            (End { notice: notice() }, "  ends the invalidation of pages 1 to 2 (Unmap)"),
            (Hold, "holds the mirror lock"),
            (LetGo, "  lets go of the mirror lock"),
            (What::Release, "releases the address space"),
        ] {
            assert_eq!(said(Some(1), what.clone()), format!("thread 1: {words}"));
            assert_eq!(said(None, what), format!("at rest:  {words}"));
        }
    }

    #[test]
    fn events_say_whose_they_are() {
        for thread in [None, Some(0), Some(1), Some(2)] {
            assert_eq!(Event { thread, what: Hold }.thread(), thread);
        }
    }

    #[test]
    fn what_is_stale_may_show_as_either() {
        let stale = [Broken::StaleCommit, Broken::MappedInside, Broken::NotDropped];
        let others = [Broken::LockNotTaken, Broken::Blocked, Broken::Panicked, Broken::Hung, Broken::NeverMapped];
        for one in stale.into_iter().chain(others) {
            assert!(one.is_like(one));
            assert!(!one.to_string().is_empty());
            for other in stale {
                assert_eq!(one.is_like(other), stale.contains(&one), "{one:?} and {other:?}");
            }
            assert_eq!(one.is_like(Broken::Hung), one == Broken::Hung);
        }
    }

    #[test]
    fn the_shorter_history_is_the_better_one_and_of_equals_the_first() {
        let found = |detail: &str, threads: &[usize]| Found {
            broken: Broken::Hung,
            detail: detail.to_owned(),
            events: threads.iter().map(|&thread| Event { thread: Some(thread), what: Hold }).collect(),
        };
        let better = |one: &Found, other: &Found| one.clone().or_shorter(other.clone()).detail;
        let (short, long) = (found("short", &[0, 1]), found("long", &[0, 0, 0]));
        assert_eq!((better(&short, &long), better(&long, &short)), ("short".into(), "short".into()));
        let (calm, restless) = (found("calm", &[0, 0, 1, 1]), found("restless", &[0, 1, 0, 1]));
        assert_eq!((better(&calm, &restless), better(&restless, &calm)), ("calm".into(), "calm".into()));
        assert_eq!(better(&found("first", &[0, 1]), &found("second", &[1, 0])), "first");
    }

    #[test]
    fn a_start_that_returns_while_somebody_holds_the_lock_went_past_it() {
        let started = |events: &[(usize, What)], start, takes_lock| {
            let record = record(events.iter().cloned());
            record.note_started(Some(1), start, takes_lock);
            broken(&record)
        };
        let passed = [(0, Hold), (1, start())];
        assert_eq!(started(&passed, 1, true), Some(Broken::LockNotTaken));
        assert_eq!(started(&passed, 1, false), None, "it need not be taken");
        assert_eq!(started(&[(0, Hold), (0, LetGo), (1, start())], 2, true), None, "let go before");
        assert_eq!(started(&[(0, Hold), (1, start()), (0, LetGo)], 1, true), None, "let go meanwhile");
        assert_eq!(started(&[(1, start()), (0, Hold)], 0, true), None, "held only later");
        assert_eq!(started(&[(2, Fault { page: 1 }), (0, Hold), (1, start())], 2, true), Some(Broken::LockNotTaken));
    }

    #[test]
    fn the_first_that_is_broken_is_the_last_that_is_noted() {
        let record = record([(0, Hold)]);
        record.breaks(Broken::Panicked, "first".to_owned());
        record.breaks(Broken::Hung, "second".to_owned());
        assert_eq!(record.note(Some(0), LetGo), 0);
        let found = record.found().unwrap();
        assert_eq!((found.broken, found.detail.as_str(), found.events.len()), (Broken::Panicked, "first", 1));
    }

    /// A fault on page 2, whole or in part, and a change of it from generation 0 to 1.
    fn faulted() -> [(usize, What); 3] {
        [(0, Fault { page: 2 }), (0, Read { page: 2, generation: 0 }), (0, Faulted { page: 2 })]
    }

    #[test]
    fn what_was_mapped_before_a_start_has_not_been_dropped_by_it() {
        let by = |events: Vec<(usize, What)>, generation, start| {
            let record = record(events);
            record.breaks_by(Broken::StaleCommit, 2, generation, start);
            broken(&record).unwrap()
        };
        let [fault, read, done] = faulted();
        let changed = |generation, start| (1, Changed { page: 2, generation, start });
        let before = vec![fault.clone(), read.clone(), done.clone(), (1, start()), changed(1, 3)];
        assert_eq!(by(before.clone(), 0, None), Broken::NotDropped);
        assert_eq!(by(before.clone(), 0, Some(3)), Broken::NotDropped);
        assert_eq!(by(before.clone(), 0, Some(1)), Broken::StaleCommit, "that start was before the fault was done");
        assert_eq!(by(before, 1, Some(3)), Broken::StaleCommit, "nobody has read that");
        let beside = vec![fault.clone(), read.clone(), (1, start()), changed(1, 2), done.clone()];
        assert_eq!(by(beside, 0, None), Broken::StaleCommit);
        let somebody_elses = vec![fault.clone(), read.clone(), (2, Faulted { page: 2 }), (1, start()), changed(1, 3)];
        assert_eq!(by(somebody_elses, 0, None), Broken::StaleCommit);
        let again = vec![fault.clone(), read.clone(), done.clone(), (2, read.1.clone()), (1, start()), changed(1, 4)];
        assert_eq!(by(again, 0, None), Broken::StaleCommit, "one of the faults was under way");
        let another_page = vec![fault, read, done, (1, start()), (1, Changed { page: 1, generation: 1, start: 3 })];
        assert_eq!(by(another_page, 0, None), Broken::StaleCommit, "no change of it is known");
    }

    /// The change that made a generation is not the one that ended it.
    #[test]
    fn a_generation_is_ended_by_the_next_change() {
        let change = |generation, begun| [(1, start()), (1, Changed { page: 2, generation, start: begun })];
        let [fault, _, done] = faulted();
        let read = (0, Read { page: 2, generation: 1 });
        let events = change(1, 0).into_iter().chain([fault, read, done]).chain(change(2, 5));
        let record = record(events);
        record.breaks_by(Broken::StaleCommit, 2, 1, None);
        assert_eq!(broken(&record), Some(Broken::NotDropped));
    }

    #[test]
    fn whoever_hangs_in_a_start_that_may_not_block_is_blocked() {
        let hung = |record: &Record| record.hung("why").broken;
        let record = Record::default();
        assert!(record.nobody_tries());
        assert_eq!(record.trying(|| (record.nobody_tries(), hung(&record))), (false, Broken::Blocked));
        assert!(record.nobody_tries());
        let record = Record::default();
        record.trying(|| ());
        assert_eq!(hung(&record), Broken::Hung);
        assert_eq!(record.found().unwrap().detail, "why");
    }

    #[test]
    fn a_page_that_was_mapped_is_remembered() {
        let record = Record::default();
        assert!(!record.was_mapped());
        record.saw_mapped();
        assert!(record.was_mapped());
    }
}
