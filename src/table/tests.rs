//! The table against a dense one, and its device cache against threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::{AddressSpace, EventKind};

#[test]
fn handles_and_tables_may_be_shared_and_sent() {
    fn shared<D: Send + Sync>() {}
    shared::<TranslationTable<u128, u32>>();
    shared::<DeviceCache<u128, u32>>();
    shared::<TargetOverflow<u128, u32>>();
}

/// Few keys, so that random ranges meet; more than [`LINES`], so that pages share lines.
const KEYS: usize = 24;

/// What the table should say, an entry for each key. Key `i` is the address `base + i`.
struct Dense {
    base: u128,
    targets: [Option<u128>; KEYS],
}

impl Dense {
    fn address<A: Address>(&self, key: usize) -> A {
        A::from_u128(self.base + key as u128).unwrap()
    }

    fn span<A: Address>(&self, first: usize, last: usize) -> Span<A> {
        Span::new(self.address::<A>(first)..=self.address(last)).unwrap()
    }

    /// The longest runs of keys from `first` to `last` that are unmapped, or whose targets follow each other.
    fn runs<A: Address>(&self, first: usize, last: usize) -> Vec<(Span<A>, Option<u128>)> {
        let mut runs = Vec::new();
        let mut start = first;
        for key in first..=last {
            let follows = match (self.targets[key], self.targets.get(key + 1).copied().flatten()) {
                (Some(this), Some(next)) => this.checked_add(1) == Some(next),
                (this, next) => this == next,
            };
            if key == last || !follows {
                runs.push((self.span(start, key), self.targets[start]));
                start = key + 1;
            }
        }
        runs
    }

    fn check<A: Address, T: Address>(&self, table: &TranslationTable<A, T>, first: usize, last: usize) {
        let within = self.span(first, last);
        let runs = self.runs::<A>(first, last);
        let gaps = runs.iter().filter(|run| run.1.is_none()).map(|run| run.0);
        assert!(table.gaps(within).eq(gaps), "{table:?}");
        let mapped = runs.iter().filter_map(|run| Some((run.0, T::from_u128(run.1?)?)));
        assert!(table.mapped(within).eq(mapped), "{table:?}");
        assert_eq!(table.is_empty(), self.targets == [None; KEYS]);
        for (key, target) in self.targets.iter().enumerate() {
            let found = table.device_cache().lookup(self.address(key)).map(T::to_u128);
            assert!(found.is_none() || found == *target, "the device finds {found:?}, not {target:?}");
        }
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Random operations on the keys from `base` on and the 24 targets from `target` on, all beyond `T::MAX` included.
fn agree<A: Address, T: Address>(base: u128, target: u128, seed: u64) {
    let mut dice = Dice(seed);
    let mut dense = Dense { base, targets: [None; KEYS] };
    let mut table = TranslationTable::<A, T>::with_page_bits(dice.below(4) as u32);
    let mut refused = 0;
    for _ in 0..1500 {
        let (one, other) = (dice.below(KEYS), dice.below(KEYS));
        let (first, last) = (one.min(other), one.max(other));
        match dice.below(8) {
            0..3 => {
                let to = target + dice.below(KEYS) as u128;
                let Some(to_first) = T::from_u128(to) else { continue };
                let end = to.checked_add((last - first) as u128);
                let fits = end.and_then(T::from_u128).is_some();
                assert_eq!(table.map(dense.span(first, last), to_first).is_ok(), fits);
                if fits {
                    (first..=last).for_each(|key| dense.targets[key] = Some(to + (key - first) as u128));
                }
                refused += u32::from(!fits);
            }
            3..5 => {
                table.unmap(dense.span(first, last));
                dense.targets[first..=last].fill(None);
            }
            5 if dice.below(20) == 0 => {
                table.clear();
                dense.targets.fill(None);
            }
            _ => {
                let found = table.translate(dense.address(one));
                assert_eq!(found.map(T::to_u128), dense.targets[one]);
                assert_eq!(table.device_cache().lookup(dense.address(one)), found);
            }
        }
        dense.check(&table, first, last);
    }
    let at_the_end = target.checked_add(2 * KEYS as u128).and_then(T::from_u128).is_none();
    assert_eq!(refused > 0, at_the_end, "overflow is reached where targets end, and only there");
}

#[test]
fn the_table_agrees_with_a_dense_one_at_both_ends() {
    const END: u128 = KEYS as u128 - 1;
    for seed in 1..4 {
        agree::<u64, u64>(0, 0, seed);
        agree::<u64, u64>(u64::MAX as u128 - END, 5, seed);
        agree::<u64, u64>(3, u64::MAX as u128 - END, seed);
        agree::<u32, u128>(u32::MAX as u128 - END, 1 << 100, seed);
        agree::<u128, u32>(u128::MAX - END, u32::MAX as u128 - END, seed);
        agree::<u128, u128>(u128::MAX - END, 0, seed);
        agree::<u128, u128>(0, u128::MAX - END, seed);
        agree::<usize, usize>(usize::MAX as u128 - END, 1 << 20, seed);
    }
}

#[test]
fn a_span_over_everything_can_be_mapped_and_cut() {
    let mut table = TranslationTable::<u128, u128>::default();
    let overflow = table.map(.., 1).unwrap_err();
    assert_eq!((overflow.span.last(), overflow.target_first), (u128::MAX, 1));
    table.map(.., 0).unwrap();
    assert_eq!(table.translate(u128::MAX), Some(u128::MAX));
    assert_eq!(table.gaps(..).next(), None);
    table.unmap(1..u128::MAX);
    let ends = [(Span::new(..=0).unwrap(), 0), (Span::new(u128::MAX..).unwrap(), u128::MAX)];
    assert!(table.mapped(..).eq(ends));
    assert!(table.gaps(..).eq(Span::new(1..u128::MAX)));
}

#[test]
fn spans_are_not_joined_across_the_end_of_the_targets() {
    let mut table = TranslationTable::<u128, u128>::default();
    table.map(5..=5, u128::MAX).unwrap();
    table.map(6..=6, 0).unwrap();
    let span = |key| Span::new(key..=key).unwrap();
    assert!(table.mapped(..).eq([(span(5), u128::MAX), (span(6), 0)]));
    assert_eq!((table.translate(5), table.translate(6)), (Some(u128::MAX), Some(0)));
}

#[test]
fn an_empty_range_holds_nothing_and_changes_nothing() {
    let mut table = TranslationTable::new();
    table.map(0..10, 0).unwrap();
    table.map(5..5, u64::MAX).unwrap();
    table.unmap(7..7);
    #[expect(clippy::reversed_empty_ranges, reason = "a reversed range is bad input on purpose")]
    table.unmap(8..2);
    assert!(table.mapped(..).eq([(Span::new(0..10).unwrap(), 0)]));
    assert_eq!((table.mapped(3..3).next(), table.gaps(20..20).next()), (None, None));
}

#[test]
fn a_page_may_be_wider_than_the_addresses() {
    for bits in [32, 127, 128, u32::MAX] {
        let mut table = TranslationTable::<u32, u32>::with_page_bits(bits);
        table.map(.., 0).unwrap();
        assert_eq!(table.translate(u32::MAX), Some(u32::MAX));
        assert_eq!(table.device_cache().lookup(7), Some(7));
    }
}

#[test]
fn a_mirror_forgets_what_is_invalidated_and_so_does_its_device() {
    let (space, mut table) = (AddressSpace::new(), TranslationTable::new());
    table.map(0x1000_u64..0x5000, 0x9000_u64).unwrap();
    let device = table.device_cache();
    let mirror = space.mirror(.., table).unwrap();
    assert_eq!(mirror.with(|table| table.translate(0x2004)).unwrap(), Some(0xa004));
    space.invalidate(0x2000..0x3000, EventKind::Unmap).end();
    assert_eq!((mirror.with(|table| table.translate(0x2004)).unwrap(), device.lookup(0x2004)), (None, None));
    assert_eq!(mirror.with(|table| table.translate(0x1004)).unwrap(), Some(0x9004));
}

#[test]
fn a_device_that_outlives_the_table_finds_nothing() {
    let mut table = TranslationTable::new();
    let device = table.device_cache();
    table.map(0..10, 0).unwrap();
    table.translate(3);
    assert_eq!(format!("{device:?}"), "{0..=9: 0}");
    drop(table);
    assert_eq!((device.lookup(3), format!("{device:?}").as_str()), (None, "{}"));
}

/// What a device must see: generation `g` maps from `first_of(g)` on, so that a line half of one generation and
/// half of another is seen too.
const GENERATION: u64 = 1 << 16;
fn first_of(generation: u64) -> u64 {
    (generation % 2) * 0x1000
}

#[test]
fn a_lookup_after_unmap_finds_nothing_older_and_nothing_torn() {
    let table = Mutex::new(TranslationTable::new());
    let device = table.lock().unwrap().device_cache();
    let oldest = AtomicU64::new(0);
    let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    let enough = || hits.load(Ordering::Relaxed).min(misses.load(Ordering::Relaxed)) > 300;

    let use_it = || {
        while !done.load(Ordering::Relaxed) {
            for address in [0x1000, 0x1ff8] {
                // Acquire: pairs with the owner's Release; the lookup happens after the unmap it tells of.
                let oldest = oldest.load(Ordering::Acquire);
                let (target, from) = match device.lookup(address) {
                    Some(target) => (Some(target), &hits),
                    None => (table.lock().unwrap().translate(address), &misses),
                };
                let Some(target) = target else { continue };
                from.fetch_add(1, Ordering::Relaxed);
                let generation = target / GENERATION;
                assert!(generation >= oldest, "{generation} was unmapped before {oldest} was told");
                assert_eq!(target % GENERATION, address - first_of(generation), "torn");
            }
        }
    };
    let change_it = || {
        for generation in 1.. {
            table.lock().unwrap().unmap(0..0x2000);
            oldest.store(generation, Ordering::Release);
            let span = first_of(generation)..0x2000;
            table.lock().unwrap().map(span, generation * GENERATION).unwrap();
            if generation % 16 == 0 {
                thread::yield_now();
            }
            if generation > 5_000 && (enough() || generation > 5_000_000) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        scope.spawn(use_it);
        scope.spawn(use_it);
        scope.spawn(change_it);
    });
    assert!(enough(), "{hits:?} hits and {misses:?} misses are too few to say anything");
}
