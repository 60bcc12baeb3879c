//! The index of subscriptions: a persistent, augmented B+tree.
//!
//! # Entries
//!
//! An entry is a range and a value. Many entries may have the same range; an id tells them apart. They are sorted by
//! [`Key`], `(first, last, id)`, and removed by it. Ranges are closed, so that the last address can be covered.
//!
//! # Versions
//!
//! A node never changes once somebody else can see it. [`Tree::insert`] and [`Tree::remove`] leave the tree as it is
//! and give back a new one that shares with it every node but those on one path from the root to a leaf, and a
//! neighbour of each where nodes are merged. A search walks over plain data: no lock, no atomic operation, no
//! allocation, whatever writers do meanwhile. To clone a version is to count one reference.
//!
//! # Nodes
//!
//! A leaf holds entries. An inner node holds branches: a child, the smallest key under it, and how far the ranges under
//! it reach. Both are [`Rows`], sorted columns of a fixed capacity. The reach is the augmentation: as ranges overlap,
//! the order of the keys does not tell where they end.
//!
//! A search enters a branch only if its hull, from the smallest `first` to the reach, overlaps what is searched. If all
//! ranges of the branch begin before the end of what is searched, the one that reaches farthest is a hit; so a branch
//! is entered in vain only where ranges begin on both sides of that end, and that is one branch a level. A search that
//! finds nothing visits at most one node a level, and one that finds `k` entries O((k + 1) log n) nodes. Continuing
//! after a key costs one more path, to that key.
//!
//! # Invariants
//!
//! 1. The keys of a node's rows ascend strictly, and so do the keys of all entries from the first leaf to the last.
//! 2. All leaves have the same depth.
//! 3. A branch's key is the smallest key under it and its reach the largest `last` under it.
//! 4. A node is at least a quarter full, except for the root: a leaf there holds one entry or more, an inner node two
//!    branches or more, and an empty tree has no node.
//! 5. The padding of a node holds no item, so that it keeps no child alive.
//! 6. Each row of a node knows how far it and all rows before it reach.
//! 7. `Tree::len` is the number of entries.
//!
//! # What a write costs
//!
//! One node a level is allocated and copied. A leaf is copied as memory. An inner node counts a reference for each of
//! its branches, at most [`INNER`], and the old one gives as many back when its last version is dropped.

mod rows;

#[cfg(any(test, fuzzing))]
mod check;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use crate::range::{Address, Span};
use crate::sync::Arc;
use rows::{Item, Row, Rows};
use std::ops::ControlFlow;

/// Entries of a leaf.
const LEAF: usize = 32;
/// Branches of an inner node.
const INNER: usize = 16;

/// Sort key and identity of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key<A> {
    pub(crate) first: A,
    pub(crate) last: A,
    pub(crate) id: u64,
}

impl<A: Address> Key<A> {
    pub(crate) fn new(span: Span<A>, id: u64) -> Self {
        Key { first: span.first(), last: span.last(), id }
    }

    pub(crate) fn span(&self) -> Span<A> {
        Span::new(self.first..=self.last).expect("a key is made from a range, and a range is never empty")
    }
}

/// One version of the index. Cloning it costs one reference count.
///
/// Values are `Copy`: no code of theirs runs when a leaf is copied or a version is dropped.
#[derive(Clone)]
pub(crate) struct Tree<A: Address, V: Copy> {
    root: Option<Link<A, V>>,
    len: usize,
}

/// A counted reference to a node.
#[derive(Clone)]
enum Link<A: Address, V: Copy> {
    Leaf(Arc<Leaf<A, V>>),
    Inner(Arc<Inner<A, V>>),
}

type Leaf<A, V> = Rows<A, Entry<A, V>, LEAF>;
type Inner<A, V> = Rows<A, Branch<A, V>, INNER>;

/// The rest of an entry's row: a leaf has the key's `first` and `id` in columns of their own.
#[derive(Clone, Copy)]
struct Entry<A, V> {
    last: A,
    value: V,
}

/// The rest of a branch's row.
#[derive(Clone)]
struct Branch<A: Address, V: Copy> {
    /// `last` of the smallest key under it.
    last: A,
    /// The largest `last` of all keys under it.
    reach: A,
    link: Link<A, V>,
}

impl<A: Address, V> Item<A> for Entry<A, V> {
    fn last(&self) -> A {
        self.last
    }
    fn reach(&self) -> A {
        self.last
    }
}

impl<A: Address, V: Copy> Item<A> for Branch<A, V> {
    fn last(&self) -> A {
        self.last
    }
    fn reach(&self) -> A {
        self.reach
    }
}

impl<A: Address, V: Copy> Tree<A, V> {
    /// An empty tree; it allocates nothing.
    pub(crate) fn new() -> Self {
        Tree { root: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A version with one entry more. The key must be new.
    pub(crate) fn insert(&self, key: Key<A>, value: V) -> Self {
        let mut root = self.root.clone().unwrap_or_else(|| Link::Leaf(Arc::new(Rows::new())));
        if let Some(right) = root.insert(key, value) {
            root = Link::above(root, right);
        }
        Tree { root: Some(root), len: self.len + 1 }
    }

    /// A version without the entry `key`, or `None` if it is not there.
    pub(crate) fn remove(&self, key: &Key<A>) -> Option<Self> {
        let mut root = self.root.clone()?;
        let removed = root.remove(key);
        removed.then(|| Tree { root: root.without_idle_root(), len: self.len - 1 })
    }

    /// Visits, in ascending order, the entries that overlap `span` and are greater than `after`, until told to break.
    pub(crate) fn overlapping(
        &self,
        span: Span<A>,
        after: Option<Key<A>>,
        mut visit: impl FnMut(Key<A>, V) -> ControlFlow<()>,
    ) {
        if let Some(root) = &self.root {
            // Whether it was told to break or came to the end is for the visitor to know.
            let _ = root.overlapping(span, after.as_ref(), &mut visit);
        }
    }
}

impl<A: Address, V: Copy> Link<A, V> {
    /// A node above two nodes.
    fn above(left: Self, right: Self) -> Self {
        let mut inner = Rows::new();
        inner.insert(0, left.into_row());
        inner.insert(1, right.into_row());
        Link::Inner(Arc::new(inner))
    }

    fn len(&self) -> usize {
        match self {
            Link::Leaf(leaf) => leaf.len(),
            Link::Inner(inner) => inner.len(),
        }
    }

    /// The row that stands for this node in the one above it.
    // INVARIANT 3: every change below a branch ends here.
    fn into_row(self) -> Row<A, Branch<A, V>> {
        let (key, reach) = match &self {
            Link::Leaf(leaf) => (leaf.key(0), leaf.reach()),
            Link::Inner(inner) => (inner.key(0), inner.reach()),
        };
        Row { first: key.first, id: key.id, item: Branch { last: key.last, reach, link: self } }
    }

    /// Inserts an entry. If this node had to be split, its upper half is given back.
    fn insert(&mut self, key: Key<A>, value: V) -> Option<Self> {
        match self {
            Link::Leaf(leaf) => {
                let leaf = Arc::make_mut(leaf);
                let at = leaf.rank(&key);
                debug_assert!(at == 0 || leaf.key(at - 1) != key, "{key:?} is there already");
                let entry = Row { first: key.first, id: key.id, item: Entry { last: key.last, value } };
                leaf.insert(at, entry).map(|right| Link::Leaf(Arc::new(right)))
            }
            Link::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.branch_of(&key);
                let mut link = inner.take(at).link;
                let right = link.insert(key, value);
                inner.put(at, link.into_row());
                let right = inner.insert(at + 1, right?.into_row());
                right.map(|right| Link::Inner(Arc::new(right)))
            }
        }
    }

    /// Removes an entry and says whether it was there.
    fn remove(&mut self, key: &Key<A>) -> bool {
        match self {
            Link::Leaf(leaf) => {
                let rank = leaf.rank(key);
                let found = rank > 0 && leaf.key(rank - 1) == *key;
                if found {
                    Arc::make_mut(leaf).remove(rank - 1);
                }
                found
            }
            Link::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.branch_of(key);
                let mut link = inner.take(at).link;
                let found = link.remove(key);
                let underfull = link.is_underfull();
                inner.put(at, link.into_row());
                if underfull {
                    inner.refill(at);
                }
                found
            }
        }
    }

    fn is_underfull(&self) -> bool {
        match self {
            Link::Leaf(leaf) => leaf.len() < Leaf::<A, V>::LEAST,
            Link::Inner(inner) => inner.len() < Inner::<A, V>::LEAST,
        }
    }

    /// Moves rows between two neighbours; gives the right one back unless it came out empty.
    fn level(&mut self, mut right: Self) -> Option<Self> {
        match (self, &mut right) {
            (Link::Leaf(left), Link::Leaf(right)) => Arc::make_mut(left).level(Arc::make_mut(right)),
            (Link::Inner(left), Link::Inner(right)) => Arc::make_mut(left).level(Arc::make_mut(right)),
            _ => unreachable!("neighbours have the same depth by invariant 2"),
        }
        (right.len() > 0).then_some(right)
    }

    /// What the root becomes after a removal.
    // INVARIANT 4: a leaf without entries goes, an inner node with one branch gives way to it.
    fn without_idle_root(self) -> Option<Self> {
        match &self {
            Link::Leaf(leaf) => (leaf.len() > 0).then_some(self),
            Link::Inner(inner) if inner.len() == 1 => Some(inner.item(0).link.clone()),
            Link::Inner(_) => Some(self),
        }
    }

    /// As [`Tree::overlapping`].
    fn overlapping(
        &self,
        span: Span<A>,
        after: Option<&Key<A>>,
        visit: &mut impl FnMut(Key<A>, V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Link::Leaf(leaf) => {
                let from = after.map_or(0, |key| leaf.rank(key));
                for at in leaf.overlapping(span, from) {
                    visit(leaf.key(at), leaf.item(at).value)?;
                }
            }
            Link::Inner(inner) => {
                let from = after.map_or(0, |key| inner.branch_of(key));
                for at in inner.overlapping(span, from) {
                    inner.item(at).link.overlapping(span, after, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl<A: Address, V: Copy> Inner<A, V> {
    /// The branch under which `key` is, or belongs: the last whose smallest key is not greater, or else the first.
    fn branch_of(&self, key: &Key<A>) -> usize {
        self.rank(key).saturating_sub(1)
    }

    /// Levels the child at `at`, which is underfull, with a neighbour.
    // INVARIANT 4: it has one row less than the least and its neighbour the least or more: enough for one node, or for
    // two if they do not fit in one.
    fn refill(&mut self, at: usize) {
        let at = at.saturating_sub(1);
        let (mut left, right) = (self.take(at).link, self.take(at + 1).link);
        // From right to left: the tops are renewed in the other direction, over rows that must be whole by then.
        match left.level(right) {
            Some(right) => self.put(at + 1, right.into_row()),
            None => self.remove(at + 1),
        }
        self.put(at, left.into_row());
    }
}
