//! A secondary page table with a device-side cache of recent translations (feature `table`).
//!
//! # The table
//!
//! [`TranslationTable`] belongs to the mirror: it is a [`MirrorState`](crate::MirrorState), changed under the mirror
//! lock only. It keeps for every mapped span the *offset* to its target, not the target: a span that is cut in two
//! keeps its value in both halves, and an offset is still right there.
//!
//! # The device cache
//!
//! [`DeviceCache`] belongs to the device: a handle that looks recent translations up without the mirror lock, as the
//! TLB of a device does. A miss goes to [`TranslationTable::translate`], under the mirror lock, which fills a line.
//!
//! ```text
//!   device thread                    under the mirror lock
//!   lookup ──hit──> target           map, unmap, clear (&mut)  translate (&)
//!     │ └───miss────────────────────────────────│───────────────────^ │
//!     │ reads                                   │ zaps                │ fills
//!     └──────────────────> [line] [line] … <────┴─────────────────────┘
//! ```
//!
//! # Invariants
//!
//! 1. What a line holds is in the table: a whole mapped span, or a part of one, with the same targets.
//! 2. Lines are filled under `&TranslationTable` and zapped under `&mut TranslationTable`: never both at once, so a
//!    line cannot be filled from a state of the table that is already gone.

use std::fmt;
use std::iter;
use std::ops::RangeBounds;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use rangemap::{RangeInclusiveMap, StepFns};
use seqlock::SeqLock;

use crate::{Address, Change, MirrorState, Span};

/// A secondary page table: what a mirror has translated, from addresses `A` to targets `T`.
///
/// It is a [`MirrorState`] as it stands: its callback [unmaps](Self::unmap) what the invalidation overlaps. Put it into
/// a [`Mirror`](crate::Mirror), give [`device_cache`](Self::device_cache) to the device, and build translations with
/// [`update`](crate::Mirror::update). Inside a larger state, call [`unmap`](Self::unmap) with
/// [`change.overlap()`](Change::overlap) from the state's own callback, before anything there that may panic.
///
/// # Guarantees
///
/// A [`lookup`](DeviceCache::lookup) that happens after [`unmap`](Self::unmap) returned finds nothing in the unmapped
/// range until it is mapped again. In a mirror `unmap` returns before the start of the invalidation does, so this is
/// promise P2 for new lookups. Two things it is not, as with the TLB of any device:
///
/// - A lookup that began before may still return the old target. Whoever frees what the target names has to
///   wait for the device to be done with it; the cache does not know who still uses an answer.
/// - *After* is the order of the memory model: a lock, a channel, or an atomic flag has told the device. A device that
///   was told nothing may find the old target for as long as the store takes to become visible.
///
/// Dropping the table empties the cache. A table that is taken out of its mirror hears of no invalidations any more:
/// stop the device first.
///
/// # Costs
///
/// With `n` mapped spans, of which `k` are cut, replaced or listed:
///
/// | operation | time | lock |
/// |---|---|---|
/// | [`lookup`](DeviceCache::lookup) | reads one line; spins while a writer is inside it | none |
/// | [`translate`](Self::translate) | O(log n), writes one line | the mirror's, shared; the line's |
/// | [`map`](Self::map), [`unmap`](Self::unmap) | O((k + 1) log n); if k > 0, reads all lines, writes those hit | the mirror's |
/// | [`mapped`](Self::mapped), [`gaps`](Self::gaps) | O(log n + k), lazily | the mirror's, shared |
///
/// # Limits
///
/// - The table is the crate `rangemap`: one target per address. A new mapping replaces what it overlaps; spans
///   that are neighbours on both sides become one. (`rangemap` panics on empty ranges: it is never given one.)
/// - A line is a lock of the crate `seqlock`, which reads by a volatile copy and then looks whether a writer came
///   between. This is how sequence locks are written in practice, but by the letter of the memory model the copy is a
///   data race, so it cannot be tested under Miri or ThreadSanitizer. Shuttle and loom do not see into it: what is
///   known of it comes from tests with plain threads.
///
/// # Examples
///
/// ```
/// use interval_notifier::{AddressSpace, EventKind, Retry, TranslationTable};
///
/// let space = AddressSpace::new();
/// let mirror = space.mirror(.., TranslationTable::new())?;
/// let device = mirror.with(|table| table.device_cache())?;
///
/// mirror.update(
///     Retry::forever(),
///     |_| Ok::<u64, std::io::Error>(0x9000), // asks the primary page table
///     |table, target| table.map(0x1000..0x3000, target),
/// )??;
/// assert_eq!(device.lookup(0x1008), None); // a miss: the device asks the mirror
/// assert_eq!(mirror.with(|table| table.translate(0x1008))?, Some(0x9008));
/// assert_eq!(device.lookup(0x1010), Some(0x9010)); // and finds the span from now on
///
/// let change = space.invalidate(0x2000..0x3000, EventKind::Unmap);
/// assert_eq!(device.lookup(0x1010), None); // zapped with the half that goes away
/// change.end();
/// assert_eq!(mirror.with(|table| table.translate(0x1010))?, Some(0x9010)); // the other half is still there
/// assert_eq!(mirror.with(|table| table.translate(0x2010))?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TranslationTable<A: Address = u64, T: Address = u64> {
    spans: RangeInclusiveMap<A, Offset, Steps>,
    cache: Arc<Lines<A, T>>,
}

impl TranslationTable {
    /// An empty table from `u64` to `u64` for pages of 4096 addresses; for other types see [`Default`], for other page
    /// sizes [`with_page_bits`](Self::with_page_bits).
    pub fn new() -> Self {
        Self::default()
    }
}

impl<A: Address, T: Address> TranslationTable<A, T> {
    /// An empty table whose device works on pages of 2<sup>`bits`</sup> addresses.
    ///
    /// The device cache keeps neighbouring pages in different lines, and one line for the addresses of one page. This
    /// matters to its speed only: any range can be mapped, and a line holds the whole span that it found.
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// let mut page_numbers = TranslationTable::<u32, u64>::with_page_bits(0);
    /// page_numbers.map(7..=7, 0x7000)?;
    /// assert_eq!(page_numbers.translate(7), Some(0x7000));
    /// # Ok::<(), interval_notifier::TargetOverflow<u32, u64>>(())
    /// ```
    pub fn with_page_bits(bits: u32) -> Self {
        Self { spans: RangeInclusiveMap::new_with_step_fns(), cache: Arc::new(Lines::new(bits)) }
    }

    /// Maps `range` to the targets from `target_first` on: address `a` to `target_first + (a - range.first)`.
    ///
    /// What the range was mapped to before is replaced in the table and zapped from the device cache. An empty range
    /// maps nothing.
    ///
    /// # Errors
    ///
    /// [`TargetOverflow`] if the last target does not fit `T`. Nothing has changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// let mut table = TranslationTable::<u64, u32>::default();
    /// table.map(u64::MAX - 3.., u32::MAX - 3)?; // both last addresses are covered
    /// assert_eq!(table.translate(u64::MAX), Some(u32::MAX));
    /// assert!(table.map(0..8, u32::MAX - 3).is_err());
    /// # Ok::<(), interval_notifier::TargetOverflow<u64, u32>>(())
    /// ```
    pub fn map(&mut self, range: impl RangeBounds<A>, target_first: T) -> Result<(), TargetOverflow<A, T>> {
        let Some(span) = Span::new(range) else { return Ok(()) };
        let translation = Translation { span, target_first };
        if translation.target(span.last()).is_none() {
            return Err(TargetOverflow { span, target_first });
        }
        self.zap(&span);
        self.spans.insert(span.first()..=span.last(), Offset::between(span.first(), target_first));
        Ok(())
    }

    /// Removes every translation in `range` from the table and from the device cache.
    ///
    /// A span that reaches beyond `range` is cut; its rest stays mapped, but leaves the device cache until it is
    /// translated again. An empty range removes nothing. See the [guarantees](Self#guarantees) for what a device
    /// finds from now on.
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// let mut table = TranslationTable::new();
    /// table.map(0x1000..0x4000, 0x8000)?;
    /// table.unmap(0x2000..0x3000);
    /// assert_eq!([0x1fff, 0x2000, 0x3000].map(|a| table.translate(a)), [Some(0x8fff), None, Some(0xa000)]);
    /// # Ok::<(), interval_notifier::TargetOverflow>(())
    /// ```
    pub fn unmap(&mut self, range: impl RangeBounds<A>) {
        let Some(span) = Span::new(range) else { return };
        self.zap(&span);
        self.spans.remove(span.first()..=span.last());
    }

    /// Removes every translation.
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// let mut table = TranslationTable::new();
    /// table.map(.., 0)?; // the identity, over all addresses
    /// table.clear();
    /// assert!(table.is_empty());
    /// # Ok::<(), interval_notifier::TargetOverflow>(())
    /// ```
    pub fn clear(&mut self) {
        self.unmap(..);
    }

    /// The target of `address`, if it is mapped; the span that it lies in is put into the device cache.
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// let mut table = TranslationTable::new();
    /// let device = table.device_cache();
    /// table.map(0x1000..0x2000, 0x8000)?;
    /// assert_eq!(device.lookup(0x1234), None);
    /// assert_eq!(table.translate(0x1234), Some(0x8234));
    /// assert_eq!(device.lookup(0x1234), Some(0x8234));
    /// # Ok::<(), interval_notifier::TargetOverflow>(())
    /// ```
    pub fn translate(&self, address: A) -> Option<T> {
        let (range, offset) = self.spans.get_key_value(&address)?;
        let found = offset.translation(Span::new(*range.start()..=*range.end())?);
        // INVARIANT 1 and 2: it comes from the table, which `&self` keeps as it is.
        self.cache.fill(address, found);
        found.target(address)
    }

    /// What is mapped in `range`, in ascending order: each span, clipped to `range`, with its first target.
    ///
    /// ```
    /// use interval_notifier::{Span, TranslationTable};
    /// let mut table = TranslationTable::new();
    /// table.map(0x1000..0x3000, 0x8000)?;
    /// let mapped: Vec<_> = table.mapped(0x2000..).collect();
    /// assert_eq!(mapped, [(Span::new(0x2000..0x3000).unwrap(), 0x9000)]);
    /// # Ok::<(), interval_notifier::TargetOverflow>(())
    /// ```
    pub fn mapped(&self, range: impl RangeBounds<A>) -> impl Iterator<Item = (Span<A>, T)> {
        Span::new(range).into_iter().flat_map(|within| {
            self.spans.overlapping(within.first()..=within.last()).filter_map(move |(range, offset)| {
                let part = within.overlap(&Span::new(*range.start()..=*range.end())?)?;
                Some((part, offset.translation::<A, T>(part).target_first))
            })
        })
    }

    /// What is not mapped in `range`, in ascending order: what a build has to fetch.
    ///
    /// ```
    /// use interval_notifier::{Span, TranslationTable};
    /// let mut table = TranslationTable::new();
    /// table.map(0x2000..0x3000, 0x8000)?;
    /// let missing: Vec<_> = table.gaps(0x1000..0x4000).collect();
    /// assert_eq!(missing, [Span::new(0x1000..0x2000).unwrap(), Span::new(0x3000..0x4000).unwrap()]);
    /// # Ok::<(), interval_notifier::TargetOverflow>(())
    /// ```
    pub fn gaps(&self, range: impl RangeBounds<A>) -> impl Iterator<Item = Span<A>> {
        // `rangemap` lists gaps too, but borrows the range that it is asked for.
        let within = Span::new(range);
        let mut mapped = within.into_iter().flat_map(|within| self.mapped(within));
        let mut from = within.map(|within| within.first());
        iter::from_fn(move || {
            loop {
                let first = from?;
                let Some((span, _)) = mapped.next() else {
                    from = None;
                    return Span::new(first..=within?.last());
                };
                from = span.last().succ();
                if let Some(gap) = Span::new(first..span.first()) {
                    return Some(gap);
                }
            }
        })
    }

    /// Is nothing mapped?
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// assert!(TranslationTable::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// A handle for the device: looks recent translations up without the mirror lock.
    ///
    /// All handles of a table share one cache.
    ///
    /// ```
    /// use interval_notifier::TranslationTable;
    /// let mut table = TranslationTable::new();
    /// let device = table.device_cache();
    /// table.map(0x1000..0x2000, 0x8000)?;
    /// table.translate(0x1000);
    /// let found = std::thread::spawn(move || device.lookup(0x1fff)).join().unwrap();
    /// assert_eq!(found, Some(0x8fff));
    /// # Ok::<(), interval_notifier::TargetOverflow>(())
    /// ```
    pub fn device_cache(&self) -> DeviceCache<A, T> {
        DeviceCache { lines: Arc::clone(&self.cache) }
    }

    /// Takes what overlaps `span` out of the device cache; the caller then takes it out of the table.
    ///
    /// In this order, should the second ever panic, the cache has lost too much, never too little (invariant 1).
    fn zap(&mut self, span: &Span<A>) {
        // By invariant 1 a span that hits nothing in the table hits no line: a new mapping disturbs no device.
        if self.spans.overlaps(&(span.first()..=span.last())) {
            self.cache.zap(span);
        }
    }
}

impl<A: Address, T: Address> MirrorState<A> for TranslationTable<A, T> {
    fn invalidate(&mut self, change: &Change<A>) {
        self.unmap(change.overlap());
    }
}

impl<A: Address, T: Address> Default for TranslationTable<A, T> {
    fn default() -> Self {
        Self::with_page_bits(12)
    }
}

/// Empties the device cache: its handles may live longer than the table.
impl<A: Address, T: Address> Drop for TranslationTable<A, T> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<A: Address, T: Address> fmt::Debug for TranslationTable<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.mapped(..)).finish()
    }
}

/// The device's side of a [`TranslationTable`]: recent translations, found without the mirror lock.
///
/// It is direct-mapped: the [page](TranslationTable::with_page_bits) of an address chooses one of 16 lines, and a line
/// holds the whole mapped span that it was filled from. All clones share it, on any number of threads.
///
/// ```
/// use interval_notifier::DeviceCache;
/// fn shared_by_threads<D: Clone + Send + Sync + 'static>() {}
/// shared_by_threads::<DeviceCache<u64, u64>>();
/// ```
pub struct DeviceCache<A: Address = u64, T: Address = u64> {
    lines: Arc<Lines<A, T>>,
}

impl<A: Address, T: Address> DeviceCache<A, T> {
    /// The target of `address`, if its line of the cache has it. `None` says nothing about the table: ask
    /// [`translate`](TranslationTable::translate) under the mirror lock.
    ///
    /// It finds nothing that was unmapped before it began, and may find what is unmapped while it runs: see the
    /// [guarantees](TranslationTable#guarantees).
    ///
    /// # Blocking
    ///
    /// It takes no lock, but while a writer (a fill, a zap) is inside the line it spins, giving up its time slice. A
    /// writer copies a few words in there and calls nobody.
    ///
    /// # Examples
    ///
    /// ```
    /// use interval_notifier::{AddressSpace, Mirror, TranslationTable};
    /// # use interval_notifier::DeviceCache;
    /// fn load(device: &DeviceCache, mirror: &Mirror<TranslationTable>, address: u64) -> Option<u64> {
    ///     device.lookup(address).or_else(|| mirror.with(|table| table.translate(address)).ok()?)
    /// }
    /// # let mut table = TranslationTable::new();
    /// # table.map(0x1000..0x2000, 0x8000)?;
    /// # let device = table.device_cache();
    /// # let mirror = AddressSpace::new().mirror(.., table)?;
    /// # for _ in 0..2 {
    /// #     assert_eq!(load(&device, &mirror, 0x1004), Some(0x8004));
    /// # }
    /// # assert_eq!(device.lookup(0x1004), Some(0x8004));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lookup(&self, address: A) -> Option<T> {
        self.lines.of(address).read()?.target(address)
    }
}

impl<A: Address, T: Address> Clone for DeviceCache<A, T> {
    fn clone(&self) -> Self {
        Self { lines: Arc::clone(&self.lines) }
    }
}

impl<A: Address, T: Address> fmt::Debug for DeviceCache<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = self.lines.lines.iter().filter_map(|line| line.read());
        f.debug_map().entries(filled.map(|line| (line.span, line.target_first))).finish()
    }
}

/// A mapping whose last target does not fit the type of targets; returned by [`TranslationTable::map`].
///
/// ```
/// let mut table = interval_notifier::TranslationTable::<u64, u32>::default();
/// let error = table.map(0..16, u32::MAX).unwrap_err();
/// assert_eq!(error.to_string(), "cannot map 0..=15 to 4294967295 and on: the last target does not fit its type");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetOverflow<A: Address = u64, T: Address = u64> {
    /// What was to be mapped.
    pub span: Span<A>,
    /// The target of its first address.
    pub target_first: T,
}

impl<A: Address, T: Address> fmt::Display for TargetOverflow<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { span, target_first } = self;
        write!(f, "cannot map {span:?} to {target_first:?} and on: the last target does not fit its type")
    }
}

impl<A: Address, T: Address> std::error::Error for TargetOverflow<A, T> {}

/// The way from an address to its target.
///
/// Sign and magnitude, not a difference that wraps: so nothing can overflow, whatever the two types, and `rangemap`
/// joins two spans only if their targets are neighbours too (a target 0 after a last target `u128::MAX` is not).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offset {
    Up(u128),
    Down(u128),
}

impl Offset {
    fn between(address: impl Address, target: impl Address) -> Self {
        let (address, target) = (address.to_u128(), target.to_u128());
        match target.checked_sub(address) {
            Some(up) => Offset::Up(up),
            None => Offset::Down(address - target),
        }
    }

    /// The translation of `span`, all of which has this offset.
    fn translation<A: Address, T: Address>(self, span: Span<A>) -> Translation<A, T> {
        let first = span.first().to_u128();
        let target = match self {
            Offset::Up(by) => first + by,
            Offset::Down(by) => first - by,
        };
        Translation { span, target_first: T::from_u128(target).expect("`map` lets no target in that does not fit") }
    }
}

/// A span and the target of its first address: what a line of the device cache holds.
#[derive(Clone, Copy)]
struct Translation<A: Address, T> {
    span: Span<A>,
    target_first: T,
}

impl<A: Address, T: Address> Translation<A, T> {
    /// The target of `address`, if it is in the span and the target fits `T`.
    fn target(&self, address: A) -> Option<T> {
        if !self.span.contains(&address) {
            return None;
        }
        let distance = address.to_u128() - self.span.first().to_u128();
        T::from_u128(self.target_first.to_u128().checked_add(distance)?)
    }
}

/// How many recent translations a device cache holds. An unmap looks at each of them.
const LINES: usize = 16;

type Line<A, T> = CachePadded<SeqLock<Option<Translation<A, T>>>>;

/// The device cache itself: direct-mapped, a line for every page number modulo [`LINES`].
struct Lines<A: Address, T: Address> {
    lines: [Line<A, T>; LINES],
    page_bits: u32,
}

impl<A: Address, T: Address> Lines<A, T> {
    fn new(page_bits: u32) -> Self {
        Self { lines: std::array::from_fn(|_| CachePadded::new(SeqLock::new(None))), page_bits }
    }

    /// The line for the page of `address`.
    fn of(&self, address: A) -> &Line<A, T> {
        let page = address.to_u128().checked_shr(self.page_bits).unwrap_or(0);
        &self.lines[page as usize % LINES]
    }

    fn fill(&self, address: A, found: Translation<A, T>) {
        *self.of(address).lock_write() = Some(found);
    }

    /// Empties the lines that overlap `span`. Others are only read: their readers are not disturbed.
    fn zap(&self, span: &Span<A>) {
        for line in &self.lines {
            // By invariant 2 nobody fills a line between the read and the write.
            if line.read().is_some_and(|held| held.span.overlap(span).is_some()) {
                *line.lock_write() = None;
            }
        }
    }
}

/// Neighbours of an address, for `rangemap`. It asks for none beyond the ends; there, an address is its own neighbour.
enum Steps {}

impl<A: Address> StepFns<A> for Steps {
    fn add_one(start: &A) -> A {
        start.succ().unwrap_or(*start)
    }
    fn sub_one(start: &A) -> A {
        start.pred().unwrap_or(*start)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
