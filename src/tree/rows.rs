//! What a node is made of: up to `CAP` rows in ascending order of their keys, one array per column.
//!
//! A row covers the addresses from its `first` to its reach. In a leaf that is an entry's own range, in an inner node
//! the hull of everything under one child, so that a search asks the same question on every level: which rows overlap?
//! Two binary searches answer it, and neither looks at an item. One, in `first`, finds the row at which all rows begin
//! too late. The other, in `top`, finds the row before which all rows end too early: ranges overlap, so their ends are
//! in no order, but the largest end so far is. What lies between has to be looked at one by one; if no ranges overlap
//! each other, it is exactly what is wanted.

use super::Key;
use crate::range::{Address, Span};
use std::ops::Range;

/// What a row holds: an entry of a leaf, or a branch of an inner node.
pub(super) trait Item<A> {
    /// `last` of the row's key.
    fn last(&self) -> A;
    /// The last address that the row covers.
    fn reach(&self) -> A;
}

/// One row outside of its columns.
pub(super) struct Row<A, T> {
    pub(super) first: A,
    pub(super) id: u64,
    pub(super) item: T,
}

/// Up to `CAP` rows. `Copy` if the items are: a copy is then a `memcpy`.
///
/// Beyond `len` the columns are padding: the items there are `None`, the rest means nothing.
#[derive(Clone, Copy)]
pub(super) struct Rows<A, T, const CAP: usize> {
    len: usize,
    first: [A; CAP],
    /// The largest reach of this row and all before it.
    top: [A; CAP],
    id: [u64; CAP],
    item: [Option<T>; CAP],
}

impl<A: Address, T: Item<A>, const CAP: usize> Rows<A, T, CAP> {
    /// A node with fewer rows, if it is not the root, is levelled with a neighbour.
    ///
    /// A quarter and not half, so that inserting and removing by turns does not split and merge by turns.
    pub(super) const LEAST: usize = CAP / 4;

    pub(super) fn new() -> Self {
        const { assert!(Self::LEAST >= 2, "a node must not be empty when it has one row less than the least") };
        Rows { len: 0, first: [A::MIN; CAP], top: [A::MIN; CAP], id: [0; CAP], item: [const { None }; CAP] }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn key(&self, at: usize) -> Key<A> {
        Key { first: self.first[at], last: self.item(at).last(), id: self.id[at] }
    }

    pub(super) fn item(&self, at: usize) -> &T {
        self.item[at].as_ref().expect("every row below `len` holds an item")
    }

    /// The last address that any row covers. There must be a row.
    pub(super) fn reach(&self) -> A {
        self.top[self.len - 1]
    }

    /// How many rows have a key up to and including `key`.
    pub(super) fn rank(&self, key: &Key<A>) -> usize {
        let before = self.first[..self.len].partition_point(|first| *first < key.first);
        before + (before..self.len).take_while(|&at| self.key(at) <= *key).count()
    }

    /// The rows from `from` on that overlap `span`, in ascending order.
    pub(super) fn overlapping(&self, span: Span<A>, from: usize) -> impl Iterator<Item = usize> {
        let start = self.top[..self.len].partition_point(|top| *top < span.first());
        let end = self.first[..self.len].partition_point(|first| *first <= span.last());
        (start.max(from)..end).filter(move |&at| self.item(at).reach() >= span.first())
    }

    /// Inserts a row at `at`. If there is no room, the upper half of the rows moves to a new node, which is given back.
    pub(super) fn insert(&mut self, at: usize, row: Row<A, T>) -> Option<Self> {
        if self.len < CAP {
            self.open(at, row);
            return None;
        }
        let mut right = Self::new();
        self.move_tail(CAP / 2, &mut right);
        if at <= self.len {
            self.open(at, row)
        } else {
            right.open(at - self.len, row)
        }
        Some(right)
    }

    /// Takes the row at `at` out and closes the gap.
    pub(super) fn remove(&mut self, at: usize) {
        self.rotate_left(at..self.len, 1);
        self.len -= 1;
        self.item[self.len] = None;
        self.renew_tops(at);
    }

    /// Takes the item at `at` out of its row; [`put`](Self::put) must follow before anything else is asked of the row.
    pub(super) fn take(&mut self, at: usize) -> T {
        self.item[at].take().expect("every row below `len` holds an item")
    }

    /// Writes the row at `at`.
    pub(super) fn put(&mut self, at: usize, row: Row<A, T>) {
        self.first[at] = row.first;
        self.id[at] = row.id;
        self.item[at] = Some(row.item);
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
        self.rotate_left(at..self.len + 1, self.len - at);
        self.len += 1;
        self.put(at, row);
    }

    /// Moves the last `count` rows to the front of `right`.
    fn move_tail(&mut self, count: usize, right: &mut Self) {
        right.rotate_left(0..right.len + count, right.len);
        self.len -= count;
        right.len += count;
        self.swap(self.len, right, count);
        right.renew_tops(0);
    }

    /// Moves the first `count` rows of `right` to the end.
    fn move_head(&mut self, count: usize, right: &mut Self) {
        self.swap(self.len, right, count);
        right.rotate_left(0..right.len, count);
        self.len += count;
        right.len -= count;
        self.renew_tops(self.len - count);
        right.renew_tops(0);
    }

    /// Rotates the columns of `rows`; `top` is left to [`renew_tops`](Self::renew_tops).
    fn rotate_left(&mut self, rows: Range<usize>, by: usize) {
        self.first[rows.clone()].rotate_left(by);
        self.id[rows.clone()].rotate_left(by);
        self.item[rows].rotate_left(by);
    }

    /// Exchanges `count` rows from `at` on with the first of `right`, all but their `top`.
    fn swap(&mut self, at: usize, right: &mut Self, count: usize) {
        let rows = at..at + count;
        self.first[rows.clone()].swap_with_slice(&mut right.first[..count]);
        self.id[rows.clone()].swap_with_slice(&mut right.id[..count]);
        self.item[rows].swap_with_slice(&mut right.item[..count]);
    }

    /// Renews `top` of the rows from `from` on; those before have not changed.
    fn renew_tops(&mut self, from: usize) {
        let mut top = if from == 0 { A::MIN } else { self.top[from - 1] };
        for at in from..self.len {
            top = top.max(self.item(at).reach());
            self.top[at] = top;
        }
    }
}

#[cfg(any(test, fuzzing))]
impl<A: Address, T: Item<A>, const CAP: usize> Rows<A, T, CAP> {
    /// Asserts what the tree's invariants say about one node, which must hold `least` rows.
    pub(super) fn check(&self, least: usize) {
        assert!((1..self.len).all(|at| self.key(at - 1) < self.key(at)), "invariant 1");
        assert!((least..=CAP).contains(&self.len), "invariant 4: {} rows, not {least} to {CAP}", self.len);
        assert!(self.item[self.len..].iter().all(Option::is_none), "invariant 5");
        let top = |at: usize| (0..=at).map(|at| self.item(at).reach()).max();
        assert!((0..self.len).all(|at| Some(self.top[at]) == top(at)), "invariant 6");
    }
}
