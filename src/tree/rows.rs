//! What a node is made of: up to `CAP` rows in ascending order of their keys. What searches compare is in columns of its own.
//!
//! A row covers the addresses from its `first` to its `reach`. In a leaf that is an entry's own range, in an inner node
//! the hull of everything under one child, so that a search asks the same question on every level: which rows overlap?
//!
//! Two counts answer it, which look at as many elements whatever is in the node, so that nothing is there to be predicted.
//! One, in `first`, finds the row at which all rows begin too late. The other, in `top`, finds the first row that reaches far
//! enough: ranges overlap, so their ends are in no order, but the largest end so far is. If that row is not before the
//! other, nothing overlaps. The rows between are looked at one by one; if no ranges overlap each other, all are hits.

use super::Key;
use crate::range::{Address, Span};

/// What a row holds: an entry of a leaf, or a branch of an inner node.
pub(super) trait Item<A> {
    /// What is in a row beyond the last one.
    fn padding() -> Self;
    /// `last` of the row's key; `reach` is the row's.
    fn last(&self, reach: A) -> A;
}

/// One row.
pub(super) struct Row<A, T> {
    pub(super) first: A,
    pub(super) rest: Rest<A, T>,
}

/// What a row has besides its `first`: together, as a search that looks at one of them wants them all.
#[derive(Clone, Copy)]
pub(super) struct Rest<A, T> {
    /// The last address that the row covers.
    pub(super) reach: A,
    pub(super) id: u64,
    pub(super) item: T,
}

/// Up to `CAP` rows. `Copy` if the items are: a copy is then a `memcpy`.
///
/// Beyond `len` the items are padding, and `first` and `top` are the highest address so that a count may look
/// there; `reach` and `id` mean nothing.
#[derive(Copy)]
pub(super) struct Rows<A, T, const CAP: usize> {
    len: usize,
    first: [A; CAP],
    /// The largest reach of the row and all before it.
    top: [A; CAP],
    rest: [Rest<A, T>; CAP],
}

impl<A: Copy, T: Clone, const CAP: usize> Clone for Rows<A, T, CAP> {
    fn clone(&self) -> Self {
        Rows { rest: self.rest.clone(), ..*self }
    }

    /// Without a copy on the way.
    fn clone_from(&mut self, other: &Self) {
        self.len = other.len;
        self.first = other.first;
        self.top = other.top;
        self.rest.clone_from_slice(&other.rest);
    }
}

impl<A: Address, T: Item<A>, const CAP: usize> Rows<A, T, CAP> {
    /// A node with fewer rows, if it is not the root, is levelled with a neighbour.
    ///
    /// A quarter and not half, so that inserting and removing by turns does not split and merge by turns.
    pub(super) const LEAST: usize = if CAP < 8 { 2 } else { CAP / 4 };

    pub(super) fn new() -> Self {
        const {
            assert!(2 * Self::LEAST <= CAP, "two of the least fit in one node");
            assert!(CAP.is_power_of_two(), "searched in whole steps");
        }
        Rows {
            len: 0,
            first: [A::MAX; CAP],
            top: [A::MAX; CAP],
            rest: std::array::from_fn(|_| Rest { reach: A::MIN, id: 0, item: T::padding() }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_underfull(&self) -> bool {
        self.len < Self::LEAST
    }

    #[inline]
    pub(super) fn key(&self, at: usize) -> Key<A> {
        let Rest { reach, id, ref item } = self.rest[at];
        Key { first: self.first[at], last: item.last(reach), id }
    }

    #[inline]
    pub(super) fn item(&self, at: usize) -> &T {
        &self.rest[at].item
    }

    pub(super) fn items(&mut self) -> impl Iterator<Item = &mut T> {
        self.rest[..self.len].iter_mut().map(|rest| &mut rest.item)
    }

    pub(super) fn row_reach(&self, at: usize) -> A {
        self.rest[at].reach
    }

    /// The last address that any row covers. There must be a row.
    pub(super) fn reach(&self) -> A {
        self.top[self.len - 1]
    }

    /// How many rows have a key up to and including `key`.
    pub(super) fn rank(&self, key: &Key<A>) -> usize {
        let mut rank = count_front(&self.first, |first| first < key.first).min(self.len);
        while rank < self.len && self.first[rank] == key.first && self.key(rank) <= *key {
            rank += 1;
        }
        rank
    }

    /// The rows from `from` on that overlap `span`, in ascending order.
    #[inline]
    pub(super) fn overlapping(&self, span: Span<A>, from: usize) -> impl DoubleEndedIterator<Item = usize> {
        let end = count_front(&self.first, |first| first <= span.last()).min(self.len);
        let begin = count_front(&self.top, |top| top < span.first()).max(from);
        (begin..end).filter(move |&at| self.rest[at].reach >= span.first())
    }

    /// Inserts a row at `at`. If there is no room, the upper rows move to a new node, which is given back: half of them,
    /// but as few as may be if the row is the last one. Keys that ascend leave nodes three quarters full behind.
    pub(super) fn insert(&mut self, at: usize, row: Row<A, T>) -> Option<Self> {
        if self.len < CAP {
            self.open(at, row);
            return None;
        }
        let mut right = Self::new();
        self.move_tail(if at == CAP { Self::LEAST - 1 } else { CAP / 2 }, &mut right);
        if at <= self.len {
            self.open(at, row);
        } else {
            right.open(at - self.len, row);
        }
        Some(right)
    }

    /// Takes the row at `at` out and closes the gap.
    pub(super) fn remove(&mut self, at: usize) {
        self.first.copy_within(at + 1..self.len, at);
        self.rest[at..self.len].rotate_left(1);
        self.len -= 1;
        self.first[self.len] = A::MAX;
        self.top[self.len] = A::MAX;
        self.rest[self.len].item = T::padding();
        self.renew_tops(at);
    }

    /// Writes the row at `at`.
    pub(super) fn put(&mut self, at: usize, row: Row<A, T>) {
        self.first[at] = row.first;
        self.rest[at] = row.rest;
        self.renew_tops(at);
    }

    /// Evens out two neighbours: all rows to the left one if they fit there, else half of them to each.
    pub(super) fn level(&mut self, right: &mut Self) {
        let rows = self.len + right.len;
        let left = if rows <= CAP { rows } else { rows / 2 };
        if left < self.len {
            self.move_tail(self.len - left, right);
        } else {
            self.move_head(left - self.len, right);
        }
    }

    /// Makes room at `at`, where there is some, and writes a row there.
    fn open(&mut self, at: usize, row: Row<A, T>) {
        self.first.copy_within(at..self.len, at + 1);
        self.len += 1;
        self.rest[at..self.len].rotate_right(1);
        self.put(at, row);
    }

    /// Moves the last `count` rows to the front of `right`.
    fn move_tail(&mut self, count: usize, right: &mut Self) {
        right.first.copy_within(..right.len, count);
        right.rest[..right.len + count].rotate_right(count);
        self.len -= count;
        right.len += count;
        self.swap(self.len, right, count);
        self.first[self.len..].fill(A::MAX);
        self.top[self.len..].fill(A::MAX);
        right.renew_tops(0);
    }

    /// Moves the first `count` rows of `right` to the end.
    fn move_head(&mut self, count: usize, right: &mut Self) {
        self.swap(self.len, right, count);
        right.first.copy_within(count..right.len, 0);
        right.rest[..right.len].rotate_left(count);
        self.len += count;
        right.len -= count;
        right.first[right.len..].fill(A::MAX);
        right.top[right.len..].fill(A::MAX);
        self.renew_tops(self.len - count);
        right.renew_tops(0);
    }

    /// Renews `top` from row `from` on; the rows before have not changed.
    fn renew_tops(&mut self, from: usize) {
        let mut most = if from == 0 { A::MIN } else { self.top[from - 1] };
        for (top, rest) in self.top[from..self.len].iter_mut().zip(&self.rest[from..self.len]) {
            most = most.max(rest.reach);
            *top = most;
        }
    }

    /// Exchanges `count` rows from `at` on with the first of `right`.
    fn swap(&mut self, at: usize, right: &mut Self, count: usize) {
        let rows = at..at + count;
        self.first[rows.clone()].swap_with_slice(&mut right.first[..count]);
        self.rest[rows].swap_with_slice(&mut right.rest[..count]);
    }
}

/// How many elements at the front of `column` are `such`; there is none among the others. `N` is a power of two.
///
/// Not by halving: each half would be known only when the one before is, and a search does little else than wait for that.
/// Here the elements at the ends of all blocks are looked at at once, and then those of one block.
#[inline]
fn count_front<A: Copy, const N: usize>(column: &[A; N], such: impl Fn(A) -> bool) -> usize {
    let block = const { if N > 8 { 8 } else { N } };
    let begin: usize = (1..N / block).map(|k| if such(column[k * block - 1]) { block } else { 0 }).sum();
    let within = |at: usize| usize::from(such(column[begin.min(N - block) + at]));
    begin + (0..block).map(within).sum::<usize>()
}

#[cfg(any(test, fuzzing))]
impl<A: Address, T: Item<A>, const CAP: usize> Rows<A, T, CAP> {
    /// Asserts what the tree's invariants say about one node, which must hold `least` rows.
    pub(super) fn check(&self, least: usize) {
        assert!((1..self.len).all(|at| self.key(at - 1) < self.key(at)), "invariant 1");
        assert!((least..=CAP).contains(&self.len), "invariant 4: {} rows, not {least} to {CAP}", self.len);
        assert!(self.first[self.len..].iter().all(|first| *first == A::MAX), "invariant 5");
        let top = |at: usize| self.rest[..=at].iter().map(|rest| rest.reach).max();
        let tops = (0..CAP).map(|at| if at < self.len { top(at) } else { Some(A::MAX) });
        assert!(tops.eq(self.top.iter().copied().map(Some)), "invariant 5");
    }
}
