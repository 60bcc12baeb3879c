//! Addresses and closed ranges of them.
//!
//! Ranges come in as anything that is `RangeBounds<A>` and are kept closed, `first..=last`, so that the last
//! address can be covered. Nothing here is ever empty: an empty range has no [`Span`].

use std::fmt;
use std::ops::{Bound, RangeBounds};

pub(crate) mod sealed {
    use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

    /// What the crate needs of an address type. Sealed: only the unsigned integers below.
    pub trait Sealed: Sized {
        /// Lowest address.
        const MIN: Self;
        /// Highest address.
        const MAX: Self;
        /// Atomic storage for one address; it need not be read in one piece.
        type Cell: Default + Send + Sync + std::fmt::Debug;
        /// The next address, if there is one.
        fn succ(self) -> Option<Self>;
        /// The previous address, if there is one.
        fn pred(self) -> Option<Self>;
        /// The number it is, in the widest type.
        fn to_u128(self) -> u128;
        /// The address of that number, if there is one.
        fn from_u128(number: u128) -> Option<Self>;
        /// Stores every word of it.
        fn store(cell: &Self::Cell, value: Self, order: Ordering);
        /// Loads every word of it.
        fn load(cell: &Self::Cell, order: Ordering) -> Self;
    }

    macro_rules! one_word {
        ($($int:ty, $atomic:ty;)*) => { $(
            impl Sealed for $int {
                const MIN: Self = <$int>::MIN;
                const MAX: Self = <$int>::MAX;
                type Cell = $atomic;
                fn succ(self) -> Option<Self> { self.checked_add(1) }
                fn pred(self) -> Option<Self> { self.checked_sub(1) }
                fn to_u128(self) -> u128 { self as u128 }
                fn from_u128(number: u128) -> Option<Self> { number.try_into().ok() }
                fn store(cell: &Self::Cell, value: Self, order: Ordering) { cell.store(value, order) }
                fn load(cell: &Self::Cell, order: Ordering) -> Self { cell.load(order) }
            }
        )* };
    }
    one_word! { u32, AtomicU32; u64, AtomicU64; usize, AtomicUsize; }

    impl Sealed for u128 {
        const MIN: Self = u128::MIN;
        const MAX: Self = u128::MAX;
        type Cell = [AtomicU64; 2];
        fn succ(self) -> Option<Self> {
            self.checked_add(1)
        }
        fn pred(self) -> Option<Self> {
            self.checked_sub(1)
        }
        fn to_u128(self) -> u128 {
            self
        }
        fn from_u128(number: u128) -> Option<Self> {
            Some(number)
        }
        fn store(cell: &Self::Cell, value: Self, order: Ordering) {
            cell[0].store(value as u64, order);
            cell[1].store((value >> 64) as u64, order);
        }
        fn load(cell: &Self::Cell, order: Ordering) -> Self {
            u128::from(cell[0].load(order)) | u128::from(cell[1].load(order)) << 64
        }
    }
}

/// An address: one of `u32`, `u64`, `usize`, `u128`.
///
/// The trait is sealed. Units are the user's: bytes, pages, I/O virtual addresses, keys.
pub trait Address: sealed::Sealed + Copy + Ord + std::hash::Hash + fmt::Debug + Send + Sync + 'static {}
impl Address for u32 {}
impl Address for u64 {}
impl Address for usize {}
impl Address for u128 {}

/// A closed, never empty range of addresses: `first..=last`.
///
/// It is `Copy` and itself a [`RangeBounds`], so it goes wherever a range is taken.
///
/// ```
/// use interval_notifier::Span;
/// let page = Span::new(0x1000_u64..0x2000).unwrap();
/// assert_eq!((page.first(), page.last()), (0x1000, 0x1fff));
/// assert_eq!(page.overlap(&Span::new(0x1800..).unwrap()), Span::new(0x1800..=0x1fff));
/// assert_eq!(Span::new(7_u64..7), None); // empty
/// assert_eq!(Span::<u64>::new(..).unwrap().last(), u64::MAX); // the last address is covered
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span<A: Address = u64> {
    first: A,
    last: A,
}

impl<A: Address> Span<A> {
    /// The addresses of `range`, or `None` if it holds none (empty or reversed).
    pub fn new(range: impl RangeBounds<A>) -> Option<Self> {
        let first = match range.start_bound() {
            Bound::Included(&a) => a,
            Bound::Excluded(&a) => a.succ()?,
            Bound::Unbounded => A::MIN,
        };
        let last = match range.end_bound() {
            Bound::Included(&a) => a,
            Bound::Excluded(&a) => a.pred()?,
            Bound::Unbounded => A::MAX,
        };
        (first <= last).then_some(Span { first, last })
    }

    /// The lowest address of it.
    pub fn first(&self) -> A {
        self.first
    }

    /// The highest address of it; it belongs to the range.
    pub fn last(&self) -> A {
        self.last
    }

    /// The addresses in both, or `None` if there are none.
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let last = self.last.min(other.last);
        (first <= last).then_some(Span { first, last })
    }
}

impl<A: Address> RangeBounds<A> for Span<A> {
    fn start_bound(&self) -> Bound<&A> {
        Bound::Included(&self.first)
    }
    fn end_bound(&self) -> Bound<&A> {
        Bound::Included(&self.last)
    }
}

impl<A: Address> fmt::Debug for Span<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..={:?}", self.first, self.last)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_range_at_the_edges() {
        let span = |f, l| Some(Span { first: f, last: l });
        assert_eq!(Span::<u32>::new(..), span(0, u32::MAX));
        assert_eq!(Span::<u32>::new(..=0), span(0, 0));
        assert_eq!(Span::<u32>::new(..0), None);
        assert_eq!(Span::<u32>::new(u32::MAX..), span(u32::MAX, u32::MAX));
        assert_eq!(Span::<u32>::new(u32::MAX..u32::MAX), None);
        assert_eq!(Span::<u32>::new(0..u32::MAX), span(0, u32::MAX - 1));
        assert_eq!(Span::<u32>::new((Bound::Excluded(u32::MAX), Bound::Unbounded)), None);
        assert_eq!(Span::<u32>::new((Bound::Excluded(3), Bound::Excluded(4))), None);
        assert_eq!(Span::<u32>::new((Bound::Excluded(3), Bound::Included(4))), span(4, 4));
        #[expect(clippy::reversed_empty_ranges, reason = "a reversed range is bad input on purpose")]
        let reversed = Span::<u32>::new(9..3);
        assert_eq!(reversed, None);
        assert_eq!(Span::<u128>::new(u128::MAX - 1..).map(|s| s.last()), Some(u128::MAX));
    }

    #[test]
    fn a_cell_of_two_words_keeps_both() {
        use crate::sync::atomic::Ordering;
        use sealed::Sealed;
        let cell = <u128 as Sealed>::Cell::default();
        for value in [1, 1 << 64, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            u128::store(&cell, value, Ordering::Relaxed);
            assert_eq!(u128::load(&cell, Ordering::Relaxed), value);
        }
    }

    #[test]
    fn overlap_is_the_common_part() {
        let s = |f, l| Span::<u64>::new(f..=l).unwrap();
        // 0 1 2 3 4 5 6
        // ●─────●
        //       ●─────●
        assert_eq!(s(0, 3).overlap(&s(3, 6)), Some(s(3, 3)));
        assert_eq!(s(0, 2).overlap(&s(3, 6)), None);
        assert_eq!(s(0, 6).overlap(&s(2, 3)), Some(s(2, 3)));
    }
}
