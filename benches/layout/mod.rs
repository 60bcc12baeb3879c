//! What every bench runs on: where subscriptions lie, and which ranges are asked for.
//!
//! Slot `i` begins at `i` times 4 MiB and covers 2 MiB less up to 15 pages; the rest is a gap. Queries are independent of
//! each other and drawn while they are measured, about a nanosecond each.
#![allow(dead_code, unreachable_pub, reason = "each bench uses a part of it")]

use std::ops::Range;

pub const PAGE: u64 = 4 << 10;
const STRIDE: u64 = 4 << 20;
const COVERED: u64 = 2 << 20;
/// Slots are up to this many pages shorter, and what W6 inserts has this length.
const RAGGED: u64 = 15;

/// Small and well mixed.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    #[inline(always)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    #[inline(always)]
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// The ranges of `n` subscriptions in the random order in which they are inserted, so that memory is random in key order.
pub fn slots(n: u64) -> Vec<Range<u64>> {
    let mut random = SplitMix64(42);
    let slot = |i: u64, random: &mut SplitMix64| i * STRIDE..i * STRIDE + COVERED - random.below(RAGGED + 1) * PAGE;
    let mut slots: Vec<_> = (0..n).map(|i| slot(i, &mut random)).collect();
    random.shuffle(&mut slots);
    slots
}

fn page(start: u64) -> Range<u64> {
    start..start + PAGE
}

/// A page in a gap.
#[inline(always)]
pub fn miss(random: &mut SplitMix64, n: u64) -> Range<u64> {
    page(random.below(n) * STRIDE + COVERED + random.below(COVERED / PAGE) * PAGE)
}

/// A page in a slot.
#[inline(always)]
pub fn hit_1(random: &mut SplitMix64, n: u64) -> Range<u64> {
    page(random.below(n) * STRIDE + random.below(COVERED / PAGE - RAGGED) * PAGE)
}

/// A hundred slots in a row.
#[inline(always)]
pub fn hit_100(random: &mut SplitMix64, n: u64) -> Range<u64> {
    let first = random.below(n - 99) * STRIDE;
    first..first + 99 * STRIDE + COVERED
}

/// 60 KiB in a gap, in every `threads`-th gap from `thread` on, so that threads never have the same one.
#[inline(always)]
pub fn in_gap(random: &mut SplitMix64, n: u64, thread: u64, threads: u64) -> Range<u64> {
    let gap = random.below(n / threads) * threads + thread;
    let start = gap * STRIDE + COVERED + random.below(COVERED / PAGE - RAGGED) * PAGE;
    start..start + RAGGED * PAGE
}
