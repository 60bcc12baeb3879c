//! What the disciplines share: their trait, the registering step, and the table of a cache with a lock of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::begin_retry::BeginRetry;
use super::device::{Device, Registration};
use super::notify::Notified;
use super::notify_locked::NotifiedLocked;
use super::options::Kind;
use super::pause::pause;
use super::sys::SysError;

pub(crate) type Fail = Box<dyn Error + Send + Sync>;

/// A registration cache: it registers a range at its first send and keeps the registration for the next ones.
pub(crate) trait Discipline: Sync {
    /// Sends the page at the address `page` of `range` and returns the generation that arrived.
    fn send(&self, range: &Range<usize>, page: usize) -> Result<u64, Fail>;

    /// Runs `change`, a system call that replaces the pages of `range`, with what this discipline does around it.
    /// A hooked `mmap` is such a place, and so is an allocator or a buffer pool that unmaps its own memory.
    fn around(&self, range: Range<usize>, change: &mut dyn FnMut() -> Result<(), SysError>) -> Result<(), SysError>;

    fn tally(&self) -> &Tally;
}

/// A fresh cache over `device`.
pub(crate) fn cache<D: Device>(kind: Kind, device: &Arc<D>, build_latency: Duration) -> Box<dyn Discipline> {
    let registrar = Registrar { device: Arc::clone(device), build_latency, tally: Tally::default() };
    match kind {
        Kind::NotifyBefore => Box::new(Notified::before(registrar)),
        Kind::NotifyBeforeLocked => Box::new(NotifiedLocked::new(registrar)),
        Kind::NotifyAfter => Box::new(Notified::after(registrar)),
        Kind::BeginRetry => Box::new(BeginRetry::new(registrar)),
    }
}

/// What a cache counts, beside what its users can count themselves.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    registrations: AtomicU64,
    retries: AtomicU64,
}

impl Tally {
    /// How many times the device has registered a range, for use or in vain.
    pub(crate) fn registrations(&self) -> u64 {
        self.registrations.load(Ordering::Relaxed)
    }

    /// How many of these were thrown away because the discipline saw a conflict.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(crate) fn count_retries(&self, more: u64) {
        self.retries.fetch_add(more, Ordering::Relaxed);
    }
}

/// The step that every discipline calls its build.
pub(crate) struct Registrar<D> {
    device: Arc<D>,
    build_latency: Duration,
    pub(crate) tally: Tally,
}

impl<D: Device> Registrar<D> {
    /// Registers `range`. The latency sits behind the pinning of the pages and before the caller's insertion: there
    /// an adapter writes its translation table and tells the host that it has done so.
    pub(crate) fn register(&self, range: &Range<usize>) -> Result<Registration<D>, SysError> {
        let registration = Registration::new(&self.device, range)?;
        self.tally.registrations.fetch_add(1, Ordering::Relaxed);
        pause(self.build_latency);
        Ok(registration)
    }
}

/// The registrations of a cache, which never overlap, and those dropped from it that nobody has unregistered yet.
///
/// Whoever sends has a share in the registration, as users of real caches hold a reference: what is dropped from the
/// table while it is in use stays registered until that send is done. And as in real caches an invalidation only moves
/// entries to `dead`, because unregistering inside an allocator's call deadlocks; the next send frees them.
pub(crate) struct Table<D: Device> {
    /// By the address where the range starts.
    live: BTreeMap<usize, Entry<D>>,
    dead: Vec<Arc<Registration<D>>>,
}

struct Entry<D: Device> {
    end: usize,
    registration: Arc<Registration<D>>,
}

impl<D: Device> Default for Table<D> {
    fn default() -> Self {
        Table { live: BTreeMap::new(), dead: Vec::new() }
    }
}

impl<D: Device> Table<D> {
    /// The registration that covers all of `range`.
    pub(crate) fn find(&self, range: &Range<usize>) -> Option<Arc<Registration<D>>> {
        let (_, entry) = self.live.range(..=range.start).next_back()?;
        (entry.end >= range.end).then(|| Arc::clone(&entry.registration))
    }

    /// Whether any registration has a byte in common with `range`.
    pub(crate) fn overlaps(&self, range: &Range<usize>) -> bool {
        self.live.range(..range.end).next_back().is_some_and(|(_, entry)| entry.end > range.start)
    }

    pub(crate) fn insert(&mut self, range: &Range<usize>, registration: Arc<Registration<D>>) {
        debug_assert!(!self.overlaps(range));
        self.live.insert(range.start, Entry { end: range.end, registration });
    }

    /// Forgets every registration that overlaps `range`.
    pub(crate) fn invalidate(&mut self, range: &Range<usize>) {
        while let Some((&start, entry)) = self.live.range(..range.end).next_back() {
            if entry.end <= range.start {
                break;
            }
            self.dead.extend(self.live.remove(&start).map(|entry| entry.registration));
        }
    }

    /// Hands out what was forgotten, to be dropped without the lock.
    #[must_use]
    pub(crate) fn take_dead(&mut self) -> Vec<Arc<Registration<D>>> {
        mem::take(&mut self.dead)
    }
}
