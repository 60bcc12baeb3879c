//! One run: an owner of pages with generations, a mirror of somebody else's, and what is asked of it meanwhile.
//!
//! A change raises the generation of its pages as the last thing before its end, so whatever a build reads after the
//! start is stale. Generations only rise. So a mirror that holds less than what the page had *before* it was asked held
//! something stale at the moment it was asked, whatever has happened since: no lock of the mirror's is needed to know.

use super::driver::Pace;
use super::history::{Broken, Record, What};
use super::program::{MIRRORED, Notice, PAGES, Step, Whose};
use super::{Fault, Generation, Setting, Subject};
use crate::range::sealed::Sealed;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use crate::{AddressSpace, Event, Invalidation, Owner, Span, WouldBlock};
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The owner's side, without the mirror.
pub(super) struct Primary {
    pages: [AtomicU64; PAGES],
    record: Arc<Record>,
    pace: Arc<Pace>,
}

impl Primary {
    fn generation(&self, page: usize) -> u64 {
        self.pages[page].load(SeqCst)
    }

    /// A build reads a page, and takes its time over it.
    pub(super) fn read(&self, thread: Option<usize>, page: usize, slow: bool) -> Generation {
        assert!(page < PAGES, "read: the owner has no such page");
        let generation = self.generation(page);
        self.record.note(thread, What::Read { page, generation });
        self.pace.pause();
        if slow {
            self.wait_for_tries(thread, "this build to end");
        }
        Generation(generation)
    }

    /// Whoever starts without blocking comes back in spite of this thread.
    fn wait_for_tries(&self, thread: Option<usize>, for_what: &str) {
        if !self.pace.wait(|| self.record.nobody_tries()) {
            let who = thread.map_or_else(String::new, |thread| format!(" (thread {thread})"));
            let detail = format!("a start that may not block has not returned: it waits for {for_what}{who}");
            self.record.breaks(Broken::Blocked, detail);
        }
    }
}

/// What the threads of a run share.
pub(super) struct World<S: Subject> {
    space: AddressSpace<S::Address>,
    primary: Primary,
    other: Owner,
    own: Owner,
    released: AtomicBool,
    mirror: S,
}

impl<S: Subject> World<S> {
    /// A world with a fresh mirror; `None` if the mirror panics.
    pub(super) fn new(record: Arc<Record>, pace: Arc<Pace>) -> Option<Self> {
        let space = AddressSpace::default();
        let setting = Setting { space: space.clone(), range: span::<S>(&MIRRORED, false), owner: Owner::new() };
        let mirror = caught(&record, || S::new(&setting))?;
        let primary = Primary { pages: std::array::from_fn(|_| AtomicU64::new(0)), record, pace };
        Some(World {
            space,
            primary,
            other: Owner::new(),
            own: setting.owner,
            released: AtomicBool::new(false),
            mirror,
        })
    }

    /// One thread does its steps, until something is broken.
    pub(super) fn play(&self, thread: usize, steps: &[Step]) {
        for step in steps.iter().take_while(|_| !self.record().is_broken()) {
            self.primary.pace.pause();
            caught(self.record(), || self.step(thread, step));
        }
    }

    fn record(&self) -> &Record {
        &self.primary.record
    }

    fn step(&self, thread: usize, step: &Step) {
        let me = Some(thread);
        match step {
            Step::Fault { page, slow } => self.fault(me, *page, *slow),
            Step::Change { notice, nested } => self.change(me, notice, nested.as_ref()),
            Step::TryChange(notice) => self.try_change(me, notice),
            Step::Hold => self.hold(me),
            Step::Release => self.release(me),
        }
    }

    fn fault(&self, me: Option<usize>, page: usize, slow: bool) {
        self.record().note(me, What::Fault { page });
        self.mirror.fault(&Fault {
            page: address::<S>(page, 0),
            primary: &self.primary,
            thread: me,
            slow,
            index: index::<S>,
        });
        self.record().note(me, What::Faulted { page });
        self.assert_all_fresh();
    }

    fn change(&self, me: Option<usize>, notice: &Notice, nested: Option<&Notice>) {
        let start = self.record().note(me, What::Start { notice: notice.clone(), may_block: true });
        let open = self.space.invalidate(span::<S>(&notice.pages, true), self.event(notice));
        self.started(me, notice, start, open, || nested.iter().for_each(|inner| self.change(me, inner, None)));
    }

    fn try_change(&self, me: Option<usize>, notice: &Notice) {
        let start = self.record().note(me, What::Start { notice: notice.clone(), may_block: false });
        let range = span::<S>(&notice.pages, true);
        match self.record().trying(|| self.space.try_invalidate(range, self.event(notice))) {
            Ok(open) => self.started(me, notice, start, open, || ()),
            Err(WouldBlock) => drop(self.record().note(me, What::Refused)),
        }
    }

    fn event(&self, notice: &Notice) -> Event {
        let event = Event::new(notice.kind);
        match notice.whose {
            Whose::Nobody => event,
            Whose::Other => event.with_owner(self.other),
            Whose::Mirror => event.with_owner(self.own),
        }
    }

    /// From the return of a start to the end. What is the mirror's own is no change: it may keep all it holds.
    fn started(
        &self,
        me: Option<usize>,
        notice: &Notice,
        start: usize,
        open: Invalidation<'_, S::Address>,
        meanwhile: impl FnOnce(),
    ) {
        // After a release a mirror may let go of its subscription.
        let takes_lock = S::SUBSCRIBES_AT_ONCE && notice.concerns() && !self.released.load(Relaxed);
        self.record().note_started(me, start, takes_lock);
        if notice.whose != Whose::Mirror {
            self.raise(me, &notice.pages, start, meanwhile);
        }
        // Noted first: whoever goes on because of the end comes after it.
        self.record().note(me, What::End { notice: notice.clone() });
        open.end();
    }

    /// The change itself, between start and end: nothing is mapped before it, during it or after it.
    fn raise(&self, me: Option<usize>, pages: &Range<usize>, start: usize, meanwhile: impl FnOnce()) {
        self.assert_unmapped(pages, start);
        meanwhile();
        self.primary.pace.pause();
        self.assert_unmapped(pages, start);
        for page in pages.clone() {
            let generation = self.primary.pages[page].fetch_add(1, SeqCst) + 1;
            self.record().note(me, What::Changed { page, generation, start });
        }
        self.assert_unmapped(pages, start);
    }

    fn hold(&self, me: Option<usize>) {
        let mut called = false;
        self.mirror.while_locked(&mut || {
            self.record().note(me, What::Hold);
            self.primary.pace.linger();
            self.primary.wait_for_tries(me, "the mirror lock");
            self.record().note(me, What::LetGo);
            called = true;
        });
        assert!(called, "while_locked must call what it is given");
    }

    /// Only the first who releases it waits until all have heard.
    fn release(&self, me: Option<usize>) {
        if self.released.swap(true, Relaxed) {
            return;
        }
        let start = self.record().note(me, What::Release);
        self.space.release();
        self.record().note(me, What::Started);
        self.assert_unmapped(&(0..PAGES), start);
    }

    /// All threads are gone: nothing stale is left, and one more change makes the mirror drop the rest.
    pub(super) fn rest(self) {
        let record = Arc::clone(&self.primary.record);
        caught(&record, || {
            self.assert_all_fresh();
            if !record.is_broken() {
                self.change(None, &Notice::plain(0..PAGES), None);
            }
            drop(self);
        });
    }

    fn held(&self, page: usize) -> Option<u64> {
        let held = self.mirror.held(address::<S>(page, 0))?;
        self.record().saw_mapped();
        Some(held.0)
    }

    /// All that the owner has: a mirror may hold pages to which it is not subscribed.
    fn assert_all_fresh(&self) {
        (0..PAGES).for_each(|page| self.assert_fresh(page));
    }

    /// P1. What the page had before the mirror is asked is what it must have at least.
    fn assert_fresh(&self, page: usize) {
        let before = self.primary.generation(page);
        if let Some(held) = self.held(page).filter(|held| *held < before) {
            self.record().breaks_by(Broken::StaleCommit, page, held, None);
        }
    }

    /// P2, within the invalidation that began with the event of that number.
    fn assert_unmapped(&self, pages: &Range<usize>, start: usize) {
        for page in pages.clone() {
            if let Some(held) = self.held(page) {
                self.record().breaks_by(Broken::MappedInside, page, held, Some(start));
            }
        }
    }
}

fn address<S: Subject>(page: usize, within: u64) -> S::Address {
    let address = page as u128 * u128::from(S::PAGE_SIZE) + u128::from(within);
    Sealed::from_u128(address).expect("PAGE_SIZE: a few pages must have addresses")
}

fn index<S: Subject>(address: S::Address) -> usize {
    let page = Sealed::to_u128(address) / u128::from(S::PAGE_SIZE);
    page.try_into().unwrap_or(usize::MAX)
}

/// The addresses of pages; those of a change begin and end inside of pages, where pages have an inside.
fn span<S: Subject>(pages: &Range<usize>, ragged: bool) -> Span<S::Address> {
    let cut = if ragged { S::PAGE_SIZE / 4 } else { 0 };
    let last = address::<S>(pages.end - 1, S::PAGE_SIZE - 1 - cut);
    Span::new(address::<S>(pages.start, cut)..=last).expect("no range of a program is empty")
}

/// Calls it; a panic is a failure of the run.
fn caught<R>(record: &Record, call: impl FnOnce() -> R) -> Option<R> {
    let panic = |payload| record.breaks(Broken::Panicked, message(payload));
    catch_unwind(AssertUnwindSafe(call)).map_err(panic).ok()
}

fn message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it carries no message").to_owned()
}
