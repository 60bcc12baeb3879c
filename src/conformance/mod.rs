//! Does a mirror of yours keep the protocol? Hand it over and see it driven (feature `conformance`).
//!
//! [`Mirror`](crate::Mirror) keeps you from the classic mistakes; [`Invalidate`](crate::Invalidate) behind a lock of your
//! own does not, and neither can know what your build reads and what your device still holds. This harness can: it owns
//! a few pages, each with a *generation* that every change raises, and has threads fault them into your mirror while
//! others invalidate them, of many kinds, nested, overlapping, on behalf of somebody, without blocking, and for good. A
//! mirror that ever holds an old generation is wrong, and so is one that holds any between start and end.
//!
//! # How to plug one in
//!
//! Implement [`Subject`], with a [`Generation`] in the place of what your mirror really installs, and call
//! [`Harness::check`]:
//!
//! ```
//! use interval_notifier::conformance::{Fault, Generation, Harness, Setting, Subject};
//! use interval_notifier::{Change, Mirror, MirrorState, Retry};
//! use std::collections::BTreeMap;
//! use std::convert::Infallible;
//! use std::ops::RangeBounds;
//!
//! struct Table(BTreeMap<u64, Generation>);
//!
//! impl MirrorState for Table {
//!     fn invalidate(&mut self, change: &Change) {
//!         self.0.retain(|page, _| !change.overlap().contains(page));
//!     }
//! }
//!
//! struct Device(Mirror<Table>);
//!
//! impl Subject for Device {
//!     type Address = u64;
//!
//!     fn new(setting: &Setting) -> Self {
//!         Device(setting.space().mirror(setting.range(), Table(BTreeMap::new())).unwrap())
//!     }
//!     fn fault(&self, fault: &Fault<'_>) {
//!         let build = |_: interval_notifier::Attempt<'_>| Ok::<_, Infallible>(fault.read(fault.page()));
//!         let install = |table: &mut Table, generation| table.0.insert(fault.page(), generation);
//!         let _ = self.0.update(Retry::forever(), build, install); // an error: the space has been released
//!     }
//!     fn held(&self, page: u64) -> Option<Generation> {
//!         self.0.with(|table| table.0.get(&page).copied()).unwrap()
//!     }
//!     fn while_locked(&self, then: &mut dyn FnMut()) {
//!         self.0.with(|_| then()).unwrap();
//!     }
//! }
//!
//! let report = Harness::new().runs(100).check::<Device>()?;
//! println!("{report}"); // nothing is broken in 100 runs of 50 programs on plain threads, seed 0
//! # Ok::<_, interval_notifier::conformance::Failure>(())
//! ```
//!
//! A mirror that is wrong comes back as a [`Failure`], with the shortest history that the harness could make of it:
//!
//! ```text
//! P2 is broken: something is mapped between start and end
//!    1. thread 1: faults page 1 in
//!    2. thread 1:   the build reads page 1: generation 0
//!    3. thread 0: starts to invalidate page 1 (Unmap)
//!    4. thread 0:   the start has returned
//!    5. thread 1:   the fault on page 1 is done
//!   >>> the mirror holds page 1 in generation 0
//! found after 11 runs on plain threads, shown is the shortest of 17 failures; to see it again: INTERVAL_CONFORMANCE_SEED=0
//! ```
//!
//! `examples/conformance` has a mirror behind a lock of its own, and what becomes of it if one line is wrong.
//!
//! # Under a fuzzer
//!
//! Every byte string is a program and a schedule, so a libFuzzer target (`cargo fuzz`) needs one line, and goes where
//! coverage leads it:
//!
//! ```text
//! fuzz_target!(|bytes: &[u8]| Harness::new().check_bytes::<Device>(bytes).unwrap());
//! ```
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo +nightly fuzz run -s none conformance
//! ```
//!
//! # Who drives it, and what it can see
//!
//! | runner | how | same seed, same result |
//! |---|---|---|
//! | plain threads | [`Harness::check`] | the same programs; the machine does the rest |
//! | Shuttle | the same, in a program built with `RUSTFLAGS='--cfg shuttle'` | yes |
//! | a fuzzer's bytes | [`Harness::check_bytes`], see there | under Shuttle: the bytes are program and schedule |
//!
//! | mistake | reported as | plain threads | Shuttle |
//! |---|---|---|---|
//! | a build is installed without a retry | [`Broken::StaleCommit`], [`Broken::MappedInside`] | yes | yes |
//! | a build reads before it begins | [`Broken::StaleCommit`] | yes | yes |
//! | a callback forgets to drop, drops too little, or ignores an event (of the kinds below) that concerns it | [`Broken::NotDropped`] | yes | yes |
//! | a build installs pages that its subscription does not cover | [`Broken::NotDropped`], [`Broken::StaleCommit`], [`Broken::MappedInside`] | yes | yes |
//! | the lock is let go and taken again between the retry and the install | [`Broken::StaleCommit`], [`Broken::MappedInside`] | hardly: the window is a few instructions | yes |
//! | `set_seq` is called under another lock than the commit's | [`Broken::LockNotTaken`] | yes, unless the callback takes the commit's lock as well | yes |
//! | the same, and it takes the commit's lock as well, to drop | [`Broken::StaleCommit`], [`Broken::MappedInside`] | hardly: the window is a few instructions | yes |
//! | a callback answers [`unaffected`](crate::Call::unaffected) and drops all the same | [`Broken::StaleCommit`], [`Broken::MappedInside`] | yes | yes |
//! | a callback waits for the mirror lock, or for a build, in an invalidation that may not block | [`Broken::Blocked`] | yes, by patience | yes, exactly |
//! | a callback refuses an invalidation that may block, panics, or something else does | [`Broken::Panicked`] | yes | yes |
//! | an endless loop, locks in the wrong order | [`Broken::Hung`] | the first; the second if the machine happens to do it | yes |
//! | an atomic access of the mirror's own that is ordered too weakly | | no | no (use loom) |
//!
//! Under Shuttle your mirror must take its lock and its threads from [`sync`], which is the standard library otherwise:
//! Shuttle does not see other locks, and its tasks share one thread. What panics is printed by the panic hook even where
//! the harness reports it. In `tests/conformance.rs` there is a mirror for every row but the last.
//!
//! Driven are [`Unmap`](crate::EventKind::Unmap), [`Clear`](crate::EventKind::Clear) and
//! [`Migrate`](crate::EventKind::Migrate) without an owner, [`Migrate`](crate::EventKind::Migrate) and
//! [`Exclusive`](crate::EventKind::Exclusive) with the [mirror's own](Setting::owner) and with another, each in starts that
//! may block and in starts that may not; and [`Release`](crate::EventKind::Release). Not driven are
//! [`ProtectVma`](crate::EventKind::ProtectVma), [`ProtectPage`](crate::EventKind::ProtectPage) and
//! [`SoftDirty`](crate::EventKind::SoftDirty): a mirror may rightly ignore them, if it never writes, say.
//!
//! A [`Finish`](crate::Finish) has run when its start has returned, and is seen by what it leads to: what is still held then is
//! [`Broken::NotDropped`] or [`Broken::MappedInside`], and one that waits for the mirror lock where the start may not block is
//! [`Broken::Blocked`] (on plain threads hardly ever: somebody must take the lock between the callback and its finish). What
//! it does when the start is refused, nobody looks at.
//!
//! Not told: a refusal after a part has been dropped. [`Invalidate`](crate::Invalidate) forbids it, but a mirror may drop
//! anything at any time, so that a part has gone proves nothing.
//!
//! Not driven: what you do with notifiers, and when your mirror ends; it is dropped when each run is over.

mod harness;
mod history;
mod program;
#[cfg(shuttle)]
mod shuttle;
pub mod sync;
#[cfg(not(shuttle))]
mod threads;
mod world;

#[cfg(shuttle)]
use shuttle as driver;
#[cfg(not(shuttle))]
use threads as driver;

pub use harness::{Failure, Harness, Report};
pub use history::{Broken, Event};

use crate::{Address, AddressSpace, Owner, Span};
use std::fmt;

/// A mirror as the harness sees it: the mirror under test, with as little as possible around it.
///
/// A fresh one is made for every run. All methods but `new` are called by several threads at a time.
pub trait Subject: Sized + Send + Sync + 'static {
    /// The addresses that the mirror is written for.
    type Address: Address;

    /// How many addresses make a page. If there are several, changes begin and end inside of pages too, and pages are
    /// named by their first address.
    const PAGE_SIZE: u64 = 1;

    /// Is all of [`setting.range()`](Setting::range) subscribed to from `new` on, with callbacks that take the one lock of
    /// [`while_locked`](Self::while_locked) unless the event is the mirror's own? Then a start that concerns the range and
    /// returns while this lock is held is reported as such ([`Broken::LockNotTaken`]).
    ///
    /// `false` for a mirror that subscribes later or in parts, such as a registration cache that makes a subscription for
    /// each page at its first fault, and for one that has a lock for each part. If a callback of it takes the wrong lock,
    /// that is seen only by what it leads to: soon under Shuttle, hardly ever on plain threads.
    const SUBSCRIBES_AT_ONCE: bool = true;

    /// A mirror of [`setting.range()`](Setting::range) that holds nothing.
    fn new(setting: &Setting<Self::Address>) -> Self;

    /// Begins, builds from what it [reads](Fault::read), and commits, again if that must be: what the mirror does when
    /// the device wants [`fault.page()`](Fault::page). It may read and map other pages as well, as far as it has subscribed
    /// to them.
    ///
    /// It may give up where a reader of yours would: if the space has been released, say. A mirror that always does is
    /// reported ([`Broken::NeverMapped`]).
    fn fault(&self, fault: &Fault<'_, Self::Address>);

    /// What the device would find if it accessed `page` now: what was read of the page that the mirror holds, or `None` if
    /// it holds nothing of it. It must not map anything.
    ///
    /// All pages of the owner are asked for, also those beyond both ends of [`Setting::range`]: the answer must be `None`
    /// there, unless the mirror has subscribed to more than that range.
    fn held(&self, page: Self::Address) -> Option<Generation>;

    /// Calls `then` once, under the mirror lock: the one that is held from [`read_retry`](crate::Subscription::read_retry)
    /// until what was built is installed, held as it is held then.
    fn while_locked(&self, then: &mut dyn FnMut());
}

/// Where a mirror is to be made.
#[derive(Debug)]
pub struct Setting<A: Address = u64> {
    space: AddressSpace<A>,
    range: Span<A>,
    owner: Owner,
}

impl<A: Address> Setting<A> {
    /// The address space to subscribe to.
    pub fn space(&self) -> &AddressSpace<A> {
        &self.space
    }

    /// What to mirror. The owner has one page more beyond each of its ends.
    pub fn range(&self) -> Span<A> {
        self.range
    }

    /// Events with this owner are the mirror's own: whatever it still holds is good, so it may ignore them. Events with
    /// any other owner are not.
    pub fn owner(&self) -> Owner {
        self.owner
    }
}

/// A page that the device wants, and the way to read the owner's.
pub struct Fault<'a, A: Address = u64> {
    page: A,
    primary: &'a world::Primary,
    thread: Option<usize>,
    slow: bool,
    index: fn(A) -> usize,
}

impl<A: Address> Fault<'_, A> {
    /// The first address of the page.
    pub fn page(&self) -> A {
        self.page
    }

    /// The build reads a page: what it is now. To be called between begin and retry, and under no lock that a callback takes;
    /// it takes its time.
    ///
    /// # Panics
    ///
    /// If the owner has no such page: it has those of [`Setting::range`], and one beyond each of its ends.
    pub fn read(&self, address: A) -> Generation {
        self.primary.read(self.thread, (self.index)(address), self.slow)
    }
}

impl<A: Address> fmt::Debug for Fault<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("page", &self.page).finish_non_exhaustive()
    }
}

/// What a page is at a moment; every change makes it another one. It stands for the frame, the key, the code or whatever
/// else a build makes of a page. There is no other way to get one than [`Fault::read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(u64);
