//! The tree's invariants as assertions, and all of its entries as a list. Nothing here searches: it walks every node.
//! There must be no writer.

use super::{Inner, Key, Leaf, Node, Published, Tree, Value};
use crate::range::Address;
use crate::sync::epoch;
#[cfg(all(test, not(any(loom, shuttle))))]
use std::collections::BTreeSet;

type Entries<A, V> = Vec<(Key<A>, V)>;

impl<A: Address, V: Value> Tree<A, V> {
    /// Asserts every invariant of the module documentation, by its number there.
    pub(crate) fn check(&self) {
        let entries = self.to_vec();
        assert!(entries.is_sorted_by(|(left, _), (right, _)| left < right), "invariant 1");
        assert_eq!(entries.len(), self.write().len(), "invariant 6");
        let guard = epoch::pin();
        if let Some(root) = self.root.load(&guard) {
            check(root, &guard, true);
        }
    }

    /// Every entry, in ascending order.
    pub(crate) fn to_vec(&self) -> Entries<A, V> {
        let guard = epoch::pin();
        let mut entries = Vec::new();
        if let Some(root) = self.root.load(&guard) {
            append(root, &guard, &mut entries);
        }
        entries
    }

    /// Where the nodes of the live version are.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn nodes(&self) -> BTreeSet<usize> {
        fn below<A: Address, V: Value>(node: Published<'_, A, V>, guard: &epoch::Guard, nodes: &mut BTreeSet<usize>) {
            nodes.insert(node.address());
            if let Node::Inner(inner) = node {
                children(&inner, guard).for_each(|child| below(child, guard, nodes));
            }
        }
        let (guard, mut nodes) = (epoch::pin(), BTreeSet::new());
        if let Some(root) = self.root.load(&guard) {
            below(root, &guard, &mut nodes);
        }
        nodes
    }
}

pub(super) fn children<'g, A: Address, V: Value>(
    inner: &Inner<A, V>,
    guard: &'g epoch::Guard,
) -> impl Iterator<Item = Published<'g, A, V>> {
    (0..inner.len()).map(|at| inner.item(at).node(guard))
}

fn append<A: Address, V: Value>(node: Published<'_, A, V>, guard: &epoch::Guard, entries: &mut Entries<A, V>) {
    match node {
        Node::Leaf(leaf) => entries.extend((0..leaf.len()).map(|at| (leaf.key(at), leaf.item(at).value()))),
        Node::Inner(inner) => children(&inner, guard).for_each(|child| append(child, guard, entries)),
    }
}

/// Checks this node and all below it; gives back their height and entries.
fn check<A: Address, V: Value>(
    node: Published<'_, A, V>,
    guard: &epoch::Guard,
    is_root: bool,
) -> (usize, Entries<A, V>) {
    match node {
        Node::Leaf(leaf) => {
            leaf.check(if is_root { 1 } else { Leaf::<A, V>::LEAST });
            let mut entries = Vec::new();
            append(node, guard, &mut entries);
            (1, entries)
        }
        Node::Inner(inner) => {
            inner.check(if is_root { 2 } else { Inner::<A, V>::LEAST });
            check_branches(&inner, guard)
        }
    }
}

fn check_branches<A: Address, V: Value>(inner: &Inner<A, V>, guard: &epoch::Guard) -> (usize, Entries<A, V>) {
    let (mut heights, mut entries) = (Vec::new(), Vec::new());
    for (at, child) in children(inner, guard).enumerate() {
        let (height, mut below) = check(child, guard, false);
        assert_eq!(inner.key(at), below[0].0, "invariant 3");
        assert_eq!(Some(inner.row_reach(at)), below.iter().map(|(key, _)| key.last).max(), "invariant 3");
        heights.push(height);
        entries.append(&mut below);
    }
    assert!(heights.iter().all(|height| *height == heights[0]), "invariant 2: {heights:?}");
    (1 + heights[0], entries)
}
