//! The tree's invariants as assertions, and all of its entries as a list. Nothing here searches: it walks every node.

use super::{Inner, Key, Leaf, Link, Tree};
use crate::range::Address;

type Entries<A, V> = Vec<(Key<A>, V)>;

impl<A: Address, V: Copy> Tree<A, V> {
    /// Asserts every invariant of the module documentation, by its number there.
    pub(crate) fn check(&self) {
        let entries = self.to_vec();
        assert!(entries.is_sorted_by(|(left, _), (right, _)| left < right), "invariant 1");
        assert_eq!(entries.len(), self.len, "invariant 7");
        if let Some(root) = &self.root {
            root.check(true);
        }
    }

    /// Every entry, in ascending order.
    pub(crate) fn to_vec(&self) -> Entries<A, V> {
        let mut entries = Vec::new();
        if let Some(root) = &self.root {
            root.append_to(&mut entries);
        }
        entries
    }
}

impl<A: Address, V: Copy> Link<A, V> {
    fn append_to(&self, entries: &mut Entries<A, V>) {
        match self {
            Link::Leaf(leaf) => entries.extend((0..leaf.len()).map(|at| (leaf.key(at), leaf.item(at).value))),
            Link::Inner(inner) => (0..inner.len()).for_each(|at| inner.item(at).link.append_to(entries)),
        }
    }

    /// Checks this node and all below it; gives back their height and entries.
    fn check(&self, is_root: bool) -> (usize, Entries<A, V>) {
        match self {
            Link::Leaf(leaf) => {
                leaf.check(if is_root { 1 } else { Leaf::<A, V>::LEAST });
                let mut entries = Vec::new();
                self.append_to(&mut entries);
                (1, entries)
            }
            Link::Inner(inner) => {
                inner.check(if is_root { 2 } else { Inner::<A, V>::LEAST });
                inner.check_branches()
            }
        }
    }
}

impl<A: Address, V: Copy> Inner<A, V> {
    fn check_branches(&self) -> (usize, Entries<A, V>) {
        let (mut heights, mut entries) = (Vec::new(), Vec::new());
        for at in 0..self.len() {
            let (height, mut below) = self.item(at).link.check(false);
            assert_eq!(self.key(at), below[0].0, "invariant 3");
            assert_eq!(Some(self.item(at).reach), below.iter().map(|(key, _)| key.last).max(), "invariant 3");
            heights.push(height);
            entries.append(&mut below);
        }
        assert!(heights.iter().all(|height| *height == heights[0]), "invariant 2: {heights:?}");
        (1 + heights[0], entries)
    }
}
