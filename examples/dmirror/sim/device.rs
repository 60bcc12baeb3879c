//! The device: a shadow page table behind one mutex, kept true by begin and retry. After `lib/test_hmm.c`.
//!
//! One device has one subscription over the whole process, as the kernel's; a snapshot has a second one, over its own
//! range and for as long as it takes. Both share the mirror lock, and with it the shadow page table.
//!
//! # Changes of its own
//!
//! The callback ignores the device's own migrations: they hit nobody's begin, so the device keeps its own builds
//! away from them by a lock of its own (`turn`), and takes its own entries out before the pages move.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use interval_notifier::{
    Ack, BeginError, Call, EventKind, Invalidate, Owner, ReadSeq, Subscription, TranslationTable, WouldBlock,
};

use super::pages::{Access, Entry, Fault, Seen};
use super::primary::{Primary, Shadowed};

/// Pages that are built at a time.
pub(crate) const CHUNK: u64 = 32;
/// How long an operation tries, as `HMM_RANGE_DEFAULT_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_millis(1000);

// An entry of the shadow page table: the number of the frame, with its permissions above. Neighbours in neighbouring
// frames with equal permissions are one span.
const WRITE: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 62;
const FRAME: u64 = EXCLUSIVE - 1;

/// What the mirror lock protects.
pub(crate) struct Shadow(TranslationTable);

impl Shadow {
    fn install(&mut self, entries: &[(u64, Entry)]) {
        for (page, entry) in entries {
            let flags = if entry.write { WRITE } else { 0 } | if entry.exclusive { EXCLUSIVE } else { 0 };
            self.0.map(*page..=*page, entry.frame.number | flags).expect("frame numbers are small");
        }
    }

    /// The frame of a page, if it is mapped for this access.
    fn frame(&self, page: u64, access: Access) -> Option<u64> {
        let target = self.0.translate(page)?;
        (access <= Access::Read || target & WRITE != 0).then_some(target & FRAME)
    }
}

/// What the invalidations call back, and the oracle looks at. It does not own its subscription.
pub(crate) struct Mirror {
    owner: Owner,
    shadow: Mutex<Shadow>,
    /// How long the device takes to let go of pages. Not zero: two passes, unless there is no memory for the second.
    flush: Duration,
    pub(crate) out_of_memory: AtomicBool,
    /// Callbacks that concerned the device, and those that did not.
    pub(crate) hits: AtomicU64,
    pub(crate) ignored: AtomicU64,
}

impl Mirror {
    /// Panics under it come from the simulation's own checks and leave it whole.
    fn lock(&self) -> MutexGuard<'_, Shadow> {
        self.shadow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mirror lock, for a callback: it may have to refuse.
    fn lock_for(&self, call: &Call<'_, Shadow>) -> Result<MutexGuard<'_, Shadow>, WouldBlock> {
        if call.is_blockable() { Ok(self.lock()) } else { self.shadow.try_lock().map_err(|_| call.would_block()) }
    }

    /// The first entry that the page table speaks against.
    fn objection(&self, primary: &Primary) -> Option<(u64, u64, &'static str)> {
        let shadow = self.lock();
        let pages = primary.lock();
        let spans = shadow.0.mapped(..);
        let mut entries = spans.flat_map(|(span, first)| (span.first()..=span.last()).zip(first..));
        entries.find_map(|(page, target)| {
            let entry = (target & FRAME, target & WRITE != 0, target & EXCLUSIVE != 0);
            pages.objection(page, entry, self.owner).map(|objection| (page, entry.0, objection))
        })
    }

    /// The device is to let go of what was just taken out of the shadow page table: now, or in a second pass.
    fn flush(&self, ack: Ack) -> Ack {
        let done = Instant::now() + self.flush;
        let wait = move || thread::sleep(done.saturating_duration_since(Instant::now()));
        if self.flush.is_zero() {
            ack
        } else if self.out_of_memory.load(Relaxed) {
            wait();
            ack
        } else {
            ack.with_finish(Box::new(wait))
        }
    }
}

impl Invalidate for Mirror {
    type Locked = Shadow;

    fn invalidate(&self, call: &Call<'_, Shadow>) -> Result<Ack, WouldBlock> {
        let event = call.event();
        if matches!(event.kind(), EventKind::Migrate | EventKind::Exclusive) && event.owner() == Some(self.owner) {
            self.ignored.fetch_add(1, Relaxed);
            return Ok(call.unaffected());
        }
        let mut shadow = self.lock_for(call)?;
        let is_mapped = shadow.0.mapped(call.overlap()).next().is_some();
        if is_mapped && !call.is_blockable() && !self.flush.is_zero() {
            return Err(call.would_block());
        }
        self.hits.fetch_add(1, Relaxed);
        let ack = call.set_seq(&mut shadow);
        shadow.0.unmap(call.overlap());
        drop(shadow);
        Ok(if is_mapped { self.flush(ack) } else { ack })
    }
}

impl Shadowed for Mirror {
    fn check(&self, primary: &Primary) {
        // The locks are given back before the panic: the other threads need not fail too.
        if let Some((page, frame, objection)) = self.objection(primary) {
            panic!("the oracle: a device maps page {page} to frame {frame}, but {objection}");
        }
    }
}

/// A snapshot's subscription: it holds nothing, so there is nothing to drop.
struct Snapshot(Arc<Mirror>);

impl Invalidate for Snapshot {
    type Locked = Shadow;

    fn invalidate(&self, call: &Call<'_, Shadow>) -> Result<Ack, WouldBlock> {
        let mut shadow = self.0.lock_for(call)?;
        Ok(call.set_seq(&mut shadow))
    }
}

/// What an access did: pages used, faults of the device, and builds that were thrown away on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) pages: u64,
    pub(crate) faults: u64,
    pub(crate) retries: u64,
}

/// A device that mirrors a process.
pub(crate) struct Device {
    pub(crate) mirror: Arc<Mirror>,
    subscription: Subscription<Arc<Mirror>>,
    primary: Arc<Primary>,
    /// Held shared by builds, and alone by changes of our own.
    turn: RwLock<()>,
}

impl Device {
    pub(crate) fn open(primary: &Arc<Primary>) -> Self {
        Self::open_slow(primary, Duration::ZERO)
    }

    /// A device that takes `flush` to let go of pages.
    pub(crate) fn open_slow(primary: &Arc<Primary>, flush: Duration) -> Self {
        let mirror = Arc::new(Mirror {
            owner: Owner::new(),
            shadow: Mutex::new(Shadow(TranslationTable::with_page_bits(0))),
            flush,
            out_of_memory: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
        });
        let subscription = primary.space.subscribe(.., Arc::clone(&mirror)).expect("the process is alive");
        let shadow: Weak<dyn Shadowed> = Arc::<Mirror>::downgrade(&mirror);
        primary.watch(shadow);
        Device { mirror, subscription, primary: Arc::clone(primary), turn: RwLock::new(()) }
    }

    // ---- accesses

    /// The device reads; nothing is given out if any page fails.
    pub(crate) fn read(&self, pages: Range<u64>) -> Result<(Vec<u64>, Done), Fault> {
        let mut words = Vec::new();
        let done = self.access(pages, Access::Read, |_, frame| {
            words.push(self.primary.memory.read(frame));
        })?;
        Ok((words, done))
    }

    /// The device writes, beginning at page `first`.
    pub(crate) fn write(&self, first: u64, words: &[u64]) -> Result<Done, Fault> {
        self.access(first..first + words.len() as u64, Access::Write, |page, frame| {
            self.primary.memory.write(frame, words[(page - first) as usize]);
        })
    }

    /// Uses what is mapped, under the mirror lock, and faults what is not.
    fn access(&self, pages: Range<u64>, access: Access, mut each: impl FnMut(u64, u64)) -> Result<Done, Fault> {
        let mut done = Done::default();
        let mut next = pages.start;
        loop {
            next = self.use_mapped(next..pages.end, access, &mut each);
            if next == pages.end {
                done.pages = pages.end - pages.start;
                return Ok(done);
            }
            done.faults += 1;
            done.retries += self.fault(next..pages.end, access)?;
        }
    }

    fn use_mapped(&self, pages: Range<u64>, access: Access, each: &mut impl FnMut(u64, u64)) -> u64 {
        let shadow = self.mirror.lock();
        for page in pages.clone() {
            match shadow.frame(page, access) {
                Some(frame) => each(page, frame),
                None => return page,
            }
        }
        pages.end
    }

    /// Maps `pages`, chunk by chunk; tells how many builds were thrown away.
    fn fault(&self, pages: Range<u64>, access: Access) -> Result<u64, Fault> {
        let chunks = pages.clone().step_by(CHUNK as usize);
        chunks.map(|first| self.fault_chunk(first..pages.end.min(first + CHUNK), access)).sum()
    }

    fn fault_chunk(&self, pages: Range<u64>, access: Access) -> Result<u64, Fault> {
        let _turn = self.turn.read().unwrap();
        let build = || {
            let entry = |page| {
                take_a_while(page, &pages);
                self.primary.fault(page, access, Some(self.mirror.owner), |entry, _| (page, entry))
            };
            pages.clone().map(entry).collect()
        };
        self.update(build).map(|(_, retries)| retries)
    }

    /// The loop of begin, build, lock, retry. Tells how many pages were installed, and how many
    /// builds were thrown away.
    fn update(&self, mut build: impl FnMut() -> Result<Vec<(u64, Entry)>, Fault>) -> Result<(usize, u64), Fault> {
        let deadline = Instant::now() + TIMEOUT;
        for retries in 0.. {
            back_off(retries, deadline);
            let seq = begin(&self.subscription, deadline)?;
            match build() {
                Err(_) if self.subscription.check_retry(&seq) => {} // It failed because the range was changing.
                Err(fault) => return Err(fault),
                Ok(built) => {
                    let mut shadow = self.mirror.lock();
                    if !self.subscription.read_retry(seq, &shadow) {
                        shadow.install(&built);
                        return Ok((built.len(), retries));
                    }
                }
            }
        }
        unreachable!("the deadline comes first")
    }

    // ---- commands

    /// What every page of a range is mapped to, all at one moment.
    pub(crate) fn snapshot(&self, pages: Range<u64>) -> Result<Vec<Option<Seen>>, Fault> {
        let ops = Snapshot(Arc::clone(&self.mirror));
        let subscription = self.primary.space.subscribe(pages.clone(), ops).map_err(|_| Fault::Gone)?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let seq = begin(&subscription, deadline)?;
            let look = |page| {
                take_a_while(page, &pages);
                self.primary.look(page, Some(self.mirror.owner))
            };
            let seen = pages.clone().map(look).collect();
            if !subscription.read_retry(seq, &self.mirror.lock()) {
                return Ok(seen);
            }
        }
    }

    /// Takes pages into the device's memory; tells how many are there.
    pub(crate) fn migrate(&self, pages: Range<u64>) -> Result<u64, Fault> {
        self.change_own(&pages, || self.primary.migrate(&pages, self.mirror.owner))
    }

    /// Gives pages back to RAM; tells how many were in the device's memory.
    pub(crate) fn migrate_back(&self, pages: Range<u64>) -> u64 {
        let _turn = self.turn.write().unwrap();
        self.mirror.lock().0.unmap(pages.clone());
        self.primary.evict(&pages, self.mirror.owner)
    }

    /// The device's memory is withdrawn: everything in it goes back to RAM.
    pub(crate) fn withdraw(&self) -> u64 {
        let all = self.primary.lock().hull();
        self.migrate_back(all)
    }

    /// Gets pages for the device alone; tells how many.
    pub(crate) fn make_exclusive(&self, pages: Range<u64>) -> Result<u64, Fault> {
        self.change_own(&pages, || self.primary.make_exclusive(&pages, self.mirror.owner))
    }

    /// How many pages of a range the device still has for itself alone.
    pub(crate) fn exclusive(&self, pages: Range<u64>) -> usize {
        let shadow = self.mirror.lock();
        pages.filter(|page| shadow.0.translate(*page).is_some_and(|target| target & EXCLUSIVE != 0)).count()
    }

    /// How many spans the shadow page table has in a range.
    pub(crate) fn spans(&self, pages: Range<u64>) -> usize {
        self.mirror.lock().0.mapped(pages).count()
    }

    /// A change of the primary that our callback ignores, and what is mapped after it.
    fn change_own(
        &self,
        pages: &Range<u64>,
        mut change: impl FnMut() -> Result<Vec<(u64, Entry)>, Fault>,
    ) -> Result<u64, Fault> {
        let _turn = self.turn.write().unwrap();
        let build = || {
            self.mirror.lock().0.unmap(pages.clone());
            change()
        };
        self.update(build).map(|(pages, _)| pages as u64)
    }
}

/// Nobody watches over its entries any more, so the oracle must not find any.
impl Drop for Device {
    fn drop(&mut self) {
        self.mirror.lock().0.clear();
    }
}

/// Two devices that take the same pages from each other must not come again in step. The low digits of the clock are as
/// good as random.
fn back_off(retries: u64, deadline: Instant) {
    if retries > 1 {
        let jitter = u64::from(deadline.saturating_duration_since(Instant::now()).subsec_nanos()) / 16 % 16;
        thread::sleep(Duration::from_micros(jitter * retries.min(16)));
    }
}

/// A walk over pages is not done in a moment: in the middle of it there is time for the process to change them.
fn take_a_while(page: u64, pages: &Range<u64>) {
    if page == pages.start + 1 {
        thread::sleep(Duration::from_micros(1));
    }
}

/// A begin that waits until the deadline at most.
fn begin<T: Invalidate>(subscription: &Subscription<T>, deadline: Instant) -> Result<ReadSeq, Fault> {
    let left = deadline.checked_duration_since(Instant::now()).ok_or(Fault::Busy)?;
    subscription.read_begin_timeout(left).map_err(|error| match error {
        BeginError::Active => Fault::Busy,
        BeginError::Released => Fault::Gone,
        error => panic!("{error}"),
    })
}
