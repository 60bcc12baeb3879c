//! The index of subscriptions: an augmented B+tree that is searched while it is changed.
//!
//! # Entries
//!
//! An entry is a range and a value. Many entries may have the same range; an id tells them apart. They are sorted by
//! [`Key`], `(first, last, id)`, and removed by it. Ranges are closed, so that the last address can be covered.
//!
//! # Nodes
//!
//! A leaf holds entries. An inner node holds branches: a child, the smallest key under it, and how far the ranges under
//! it reach. Both are [`Rows`], sorted and of a fixed capacity. The reach is the augmentation: as ranges overlap,
//! the order of the keys does not tell where they end.
//!
//! A search enters a branch only if its hull, from the smallest `first` to the reach, overlaps what is searched. If all
//! ranges of the branch begin before the end of what is searched, the one that reaches farthest is a hit; so a branch
//! is entered in vain only where ranges begin on both sides of that end, and that is one branch a level. A search that
//! finds nothing visits at most one node a level, and one that finds `k` entries O((k + 1) log n) nodes. Continuing
//! after a key costs one more path, to that key.
//!
//! # Changes
//!
//! A published node never changes, but for where its branches lead. A [`Writer`], one at a time, copies the leaf and
//! changes the copy. If the row that stands for it in the node above remains true, which it does unless the entry is
//! the first of the leaf or the one that reaches farthest, the branch is made to lead to the copy with one store.
//! Otherwise the node above is copied in its turn, and so on up: that is where nodes split and merge.
//!
//! # What a search sees
//!
//! It takes no lock and waits for nobody, and it sees no one version: each branch leads to what is there when the search
//! comes to it. Still it neither skips nor repeats an entry. While it is in a node, perhaps one that has been replaced
//! meanwhile, each branch of that node leads, whenever it is looked at, to entries between the branch's key and the
//! next one's, and to all of them that there were when it was stored last (invariant 3). So the branches part the
//! entries as they part the keys, and an entry that is there all along is met once, under the branch of its key.
//!
//! An entry whose insertion happened before the search is found if it is not removed meanwhile: every store that its
//! writer or an earlier one made happened before too, so each link that the search loads is at least as new.
//!
//! # Invariants
//!
//! 1. The keys of a node's rows ascend strictly, and so do the keys of all entries from the first leaf to the last.
//! 2. All leaves have the same depth.
//! 3. A branch's key is the smallest key under it and its reach the largest `last` under it. This is true of every node
//!    that the branch has ever led to.
//! 4. A node is at least a quarter full, except for the root: a leaf there holds one entry or more, an inner node two
//!    branches or more, and an empty tree has no node.
//! 5. A node's padding and the tops of its rows are as its searches need them: see `rows`.
//! 6. `Writer::len` is the number of entries.

mod rows;

#[cfg(any(test, fuzzing))]
mod check;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use crate::range::{Address, Span};
use crate::rcu::{Fresh, Link, Node, NodeRef, Nodes};
use crate::sync::{CHECKED, Mutex, MutexGuard, epoch, lock};
use rows::{Item, Rest, Row, Rows};
use std::ops::ControlFlow;

/// Entries of a leaf. Under the checkers few entries are to make many nodes.
const LEAF: usize = if CHECKED { 4 } else { 32 };
/// Branches of an inner node.
const INNER: usize = if CHECKED { 4 } else { 32 };

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

/// What a tree maps ranges to. `Copy`: no code of theirs runs when a leaf is copied or freed.
pub(crate) trait Value: Copy + Send + Sync + 'static {}
impl<V: Copy + Send + Sync + 'static> Value for V {}

/// The index.
pub(crate) struct Tree<A: Address, V: Value> {
    root: Child<A, V>,
    writer: Mutex<Writer<A, V>>,
}

type Leaf<A, V> = Rows<A, Entry<V>, LEAF>;
type Inner<A, V> = Rows<A, Branch<A, V>, INNER>;
type Child<A, V> = Link<Leaf<A, V>, Inner<A, V>>;
type Published<'g, A, V> = Node<'g, Leaf<A, V>, Inner<A, V>>;
type New<A, V> = Fresh<Leaf<A, V>, Inner<A, V>>;

/// The rest of an entry's row.
#[derive(Clone, Copy)]
struct Entry<V>(Option<V>);

impl<V> Entry<V> {
    fn value(self) -> V {
        self.0.expect("only padding has no value")
    }
}

/// The rest of a branch's row.
#[derive(Clone)]
struct Branch<A: Address, V: Value> {
    /// `last` of the smallest key under it.
    last: A,
    child: Child<A, V>,
}

impl<A: Address, V> Item<A> for Entry<V> {
    fn padding() -> Self {
        Entry(None)
    }
    #[inline]
    fn last(&self, reach: A) -> A {
        reach
    }
}

impl<A: Address, V: Value> Item<A> for Branch<A, V> {
    fn padding() -> Self {
        Branch { last: A::MIN, child: Link::nowhere() }
    }
    fn last(&self, _reach: A) -> A {
        self.last
    }
}

impl<A: Address, V: Value> Branch<A, V> {
    #[inline]
    fn node<'g>(&self, guard: &'g epoch::Guard) -> Published<'g, A, V> {
        self.child.load(guard).expect("only padding leads nowhere")
    }
}

impl<A: Address, V: Value> Tree<A, V> {
    /// An empty tree; it has no node.
    pub(crate) fn new() -> Self {
        Tree { root: Link::nowhere(), writer: Mutex::new(Writer { len: 0, nodes: Nodes::new() }) }
    }

    /// For changes. Waits for the writer before.
    pub(crate) fn write(&self) -> Writing<'_, A, V> {
        Writing { root: &self.root, writer: lock(&self.writer) }
    }

    /// Visits, in ascending order, the entries that overlap `span` and are greater than `after`, until told to break.
    ///
    /// The values are those of entries that were there at some moment since the call.
    #[inline]
    pub(crate) fn overlapping(
        &self,
        guard: &epoch::Guard,
        span: Span<A>,
        after: Option<Key<A>>,
        mut visit: impl FnMut(Key<A>, V) -> ControlFlow<()>,
    ) {
        if let Some(root) = self.root.load(guard) {
            // Whether it was told to break or came to the end is for the visitor to know.
            let _ = root.overlapping(guard, span, after.as_ref(), &mut visit);
        }
    }
}

impl<A: Address, V: Value> Drop for Tree<A, V> {
    fn drop(&mut self) {
        free_all(&mut self.root);
    }
}

fn free_all<A: Address, V: Value>(link: &mut Child<A, V>) {
    if let Some(Fresh::Inner(mut inner)) = link.take() {
        inner.items().for_each(|branch| free_all(&mut branch.child));
    }
}

impl<'g, A: Address, V: Value> Published<'g, A, V> {
    /// As [`Tree::overlapping`].
    fn overlapping(
        mut self,
        guard: &'g epoch::Guard,
        span: Span<A>,
        mut after: Option<&Key<A>>,
        visit: &mut impl FnMut(Key<A>, V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // The last branch of each node is followed by the loop: most searches enter no other.
        while let Node::Inner(inner) = self {
            let from = after.map_or(0, |key| branch_of(&*inner, key));
            let mut branches = inner.overlapping(span, from);
            let Some(last) = branches.next_back() else { return ControlFlow::Continue(()) };
            // Under every branch but `from` all keys are greater.
            for at in branches {
                let after = after.filter(|_| at == from);
                inner.item(at).node(guard).overlapping(guard, span, after, visit)?;
            }
            after = after.filter(|_| last == from);
            self = inner.item(last).node(guard);
        }
        let Node::Leaf(leaf) = self else { unreachable!("there is no third kind") };
        let from = after.map_or(0, |key| leaf.rank(key));
        leaf.overlapping(span, from).try_for_each(|at| visit(leaf.key(at), leaf.item(at).value()))
    }
}

/// The branch under which `key` is, or belongs: the last whose smallest key is not greater, or else the first.
fn branch_of<A: Address, V: Value>(inner: &Inner<A, V>, key: &Key<A>) -> usize {
    inner.rank(key).saturating_sub(1)
}

/// What changes a tree.
struct Writer<A: Address, V: Value> {
    len: usize,
    nodes: Nodes<Leaf<A, V>, Inner<A, V>>,
}

/// The right to change a tree, until it is dropped.
pub(crate) struct Writing<'t, A: Address, V: Value> {
    root: &'t Child<A, V>,
    writer: MutexGuard<'t, Writer<A, V>>,
}

impl<A: Address, V: Value> Writing<'_, A, V> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.writer.len
    }

    /// Where the nodes were that the last change has unlinked.
    #[cfg(all(test, not(any(loom, shuttle))))]
    fn superseded(&self) -> std::collections::BTreeSet<usize> {
        self.writer.nodes.last_superseded()
    }

    /// One entry more. The key must be new.
    pub(crate) fn insert(&mut self, key: Key<A>, value: V) {
        let guard = epoch::pin();
        let mut change = Change { nodes: &mut self.writer.nodes, guard: &guard };
        change.nodes.begin();
        let new = match self.root.load(&guard) {
            Some(root) => change.insert(root, key, value),
            None => {
                let mut leaf = Rows::new();
                leaf.insert(0, entry(key, value));
                Some(Grown { left: Fresh::Leaf(change.nodes.leaf(&leaf)), right: None })
            }
        };
        match new {
            Some(Grown { left: root, right: None }) => self.root.publish(Some(root)),
            Some(Grown { left, right: Some(right) }) => {
                let root = change.above(left, right);
                self.root.publish(Some(root));
            }
            None => {}
        }
        change.nodes.commit(&guard);
        self.writer.len += 1;
    }

    /// One entry less. False if `key` is not there.
    pub(crate) fn remove(&mut self, key: &Key<A>) -> bool {
        let guard = epoch::pin();
        let mut change = Change { nodes: &mut self.writer.nodes, guard: &guard };
        change.nodes.begin();
        let removed = self.root.load(&guard).and_then(|root| change.remove(root, key));
        match removed {
            Some(Removed::New(root)) => publish_root(self.root, root),
            Some(Removed::Done) => {}
            None => return false,
        }
        change.nodes.commit(&guard);
        self.writer.len -= 1;
        true
    }
}

/// A change that is under way.
struct Change<'w, A: Address, V: Value> {
    nodes: &'w mut Nodes<Leaf<A, V>, Inner<A, V>>,
    guard: &'w epoch::Guard,
}

/// What is to replace a node under which an entry was inserted.
struct Grown<A: Address, V: Value> {
    left: New<A, V>,
    /// The upper half, if it had to be split.
    right: Option<New<A, V>>,
}

/// What has become of a node from under which an entry was removed.
enum Removed<A: Address, V: Value> {
    /// It is still there: the change is published below it.
    Done,
    /// It is to be replaced.
    New(New<A, V>),
}

impl<A: Address, V: Value> Change<'_, A, V> {
    /// A node above two nodes.
    fn above(&mut self, left: New<A, V>, right: New<A, V>) -> New<A, V> {
        let mut inner = Rows::new();
        inner.insert(0, row(left));
        inner.insert(1, row(right));
        Fresh::Inner(self.nodes.inner(inner))
    }

    /// Inserts an entry under a node. `None` if that is published; otherwise the node is to be replaced.
    fn insert(&mut self, node: Published<'_, A, V>, key: Key<A>, value: V) -> Option<Grown<A, V>> {
        match node {
            Node::Leaf(leaf) => {
                let at = leaf.rank(&key);
                debug_assert!(at == 0 || leaf.key(at - 1) != key, "{key:?} is there already");
                let mut leaf = self.nodes.supersede_leaf(leaf);
                let right = leaf.insert(at, entry(key, value));
                let right = right.map(|right| Fresh::Leaf(self.nodes.leaf(&right)));
                Some(Grown { left: Fresh::Leaf(leaf), right })
            }
            Node::Inner(inner) => {
                let at = branch_of(&*inner, &key);
                let Grown { left, right } = self.insert(inner.item(at).node(self.guard), key, value)?;
                let Some(right) = right else {
                    return self.replace(inner, at, left).map(|left| Grown { left, right: None });
                };
                let mut copy = self.nodes.supersede_inner(inner);
                copy.put(at, row(left));
                let right = copy.insert(at + 1, row(right));
                let right = right.map(|right| Fresh::Inner(self.nodes.inner(right)));
                Some(Grown { left: Fresh::Inner(copy), right })
            }
        }
    }

    /// Removes an entry from under a node; `None` if it is not there.
    fn remove(&mut self, node: Published<'_, A, V>, key: &Key<A>) -> Option<Removed<A, V>> {
        match node {
            Node::Leaf(leaf) => {
                let at = leaf.rank(key).checked_sub(1).filter(|&at| leaf.key(at) == *key)?;
                let mut leaf = self.nodes.supersede_leaf(leaf);
                leaf.remove(at);
                Some(Removed::New(Fresh::Leaf(leaf)))
            }
            Node::Inner(inner) => {
                let at = branch_of(&*inner, key);
                let new = match self.remove(inner.item(at).node(self.guard), key)? {
                    Removed::New(child) if is_underfull(&child) => Some(self.refill(inner, at, child)),
                    Removed::New(child) => self.replace(inner, at, child),
                    Removed::Done => None,
                };
                Some(new.map_or(Removed::Done, Removed::New))
            }
        }
    }

    /// Lets a branch lead to a new child. If its row would not be true any more, the node is replaced too.
    // INVARIANT 3: every new child under an old branch comes by here.
    fn replace(&mut self, inner: NodeRef<'_, Inner<A, V>>, at: usize, child: New<A, V>) -> Option<New<A, V>> {
        if hull(&child) == (inner.key(at), inner.row_reach(at)) {
            inner.item(at).child.publish(Some(child));
            return None;
        }
        let mut inner = self.nodes.supersede_inner(inner);
        inner.put(at, row(child));
        Some(Fresh::Inner(inner))
    }

    /// Replaces a node whose child at `at` is to become `child`, which is underfull: it is levelled with a neighbour.
    // INVARIANT 4: it has one row less than the least and its neighbour the least or more: enough for one node, or for
    // two if they do not fit in one.
    fn refill(&mut self, inner: NodeRef<'_, Inner<A, V>>, at: usize, child: New<A, V>) -> New<A, V> {
        let neighbour = if at == 0 { 1 } else { at - 1 };
        let other = self.copy(inner.item(neighbour).node(self.guard));
        let (mut left, right) = if at < neighbour { (child, other) } else { (other, child) };
        let at = at.min(neighbour);
        let mut copy = self.nodes.supersede_inner(inner);
        match level(&mut left, right) {
            Some(right) => copy.put(at + 1, row(right)),
            None => copy.remove(at + 1),
        }
        copy.put(at, row(left));
        Fresh::Inner(copy)
    }

    /// A copy that is going to supersede a node.
    fn copy(&mut self, node: Published<'_, A, V>) -> New<A, V> {
        match node {
            Node::Leaf(leaf) => Fresh::Leaf(self.nodes.supersede_leaf(leaf)),
            Node::Inner(inner) => Fresh::Inner(self.nodes.supersede_inner(inner)),
        }
    }
}

fn entry<A: Address, V>(key: Key<A>, value: V) -> Row<A, Entry<V>> {
    Row { first: key.first, rest: Rest { reach: key.last, id: key.id, item: Entry(Some(value)) } }
}

/// The row that stands for a node in the one above it.
// INVARIANT 3: every new branch is made here.
fn row<A: Address, V: Value>(node: New<A, V>) -> Row<A, Branch<A, V>> {
    let (key, reach) = hull(&node);
    let item = Branch { last: key.last, child: Link::new(node) };
    Row { first: key.first, rest: Rest { reach, id: key.id, item } }
}

/// The smallest key under a node, and how far it reaches.
fn hull<A: Address, V: Value>(node: &New<A, V>) -> (Key<A>, A) {
    match node {
        Fresh::Leaf(leaf) => (leaf.key(0), leaf.reach()),
        Fresh::Inner(inner) => (inner.key(0), inner.reach()),
    }
}

fn is_underfull<A: Address, V: Value>(node: &New<A, V>) -> bool {
    match node {
        Fresh::Leaf(leaf) => leaf.is_underfull(),
        Fresh::Inner(inner) => inner.is_underfull(),
    }
}

/// Moves rows between two neighbours; gives the right one back unless it came out empty.
fn level<A: Address, V: Value>(left: &mut New<A, V>, mut right: New<A, V>) -> Option<New<A, V>> {
    let rows = match (left, &mut right) {
        (Fresh::Leaf(left), Fresh::Leaf(right)) => {
            left.level(right);
            right.len()
        }
        (Fresh::Inner(left), Fresh::Inner(right)) => {
            left.level(right);
            right.len()
        }
        _ => unreachable!("neighbours have the same depth by invariant 2"),
    };
    (rows > 0).then_some(right)
}

/// Publishes what is left of the root after a removal.
// INVARIANT 4: a leaf without entries goes, an inner node with one branch gives way to it.
fn publish_root<A: Address, V: Value>(link: &Child<A, V>, root: New<A, V>) {
    match root {
        Fresh::Leaf(leaf) if leaf.len() == 0 => link.publish(None),
        Fresh::Inner(inner) if inner.len() == 1 => link.publish_same(&inner.item(0).child),
        root => link.publish(Some(root)),
    }
}
