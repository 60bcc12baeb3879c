//! An augmented red-black tree through nodes that somebody else owns, as in the kernel: links lie in the nodes, which are
//! found by address, and each node knows the last address in its subtree.
//!
//! Links are atomics that are loaded and stored relaxed (plain moves in machine code): an invalidation walks on without
//! the lock while others search, and only the protocol around the tree, which puts changes off meanwhile, orders them.
//!
//! # Invariants
//!
//! 1. A node that is linked stays where it is until it has been removed. The owner of the tree sees to it; it is what
//!    makes following a link sound.
//! 2. Red nodes have black children, and every path down has as many black nodes as any other.
//! 3. `max` of a node is the greatest `last` in its subtree.
#![expect(unsafe_code, reason = "nodes are linked by address, which is what makes the kernel's tree fast")]

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Where a node is linked from.
struct Link<T>(AtomicPtr<Node<T>>);

impl<T> Link<T> {
    const fn none() -> Self {
        Link(AtomicPtr::new(ptr::null_mut()))
    }

    #[inline]
    fn get<'a>(&self) -> Option<&'a Node<T>> {
        // SAFETY: by invariant 1 a node to which a link leads is there.
        unsafe { self.0.load(Relaxed).as_ref() }
    }

    #[inline]
    fn set(&self, node: Option<&Node<T>>) {
        self.0.store(node.map_or(ptr::null_mut(), |node| ptr::from_ref(node).cast_mut()), Relaxed);
    }

    #[inline]
    fn is(&self, node: &Node<T>) -> bool {
        ptr::eq(self.0.load(Relaxed), node)
    }
}

/// What a search reads, and the sequence, are one cache line; the mirror's own state follows.
#[repr(C, align(64))]
pub(super) struct Node<T> {
    first: u64,
    last: u64,
    max: AtomicU64,
    children: [Link<T>; 2],
    parent: Link<T>,
    /// The kernel's `interval_sub->invalidate_seq`.
    pub(super) seq: AtomicU64,
    red: AtomicBool,
    linked: AtomicBool,
    pub(super) ops: T,
}

impl<T> Node<T> {
    pub(super) fn new(first: u64, last: u64, ops: T) -> Self {
        Node {
            first,
            last,
            max: AtomicU64::new(last),
            children: [Link::none(), Link::none()],
            parent: Link::none(),
            seq: AtomicU64::new(0),
            red: AtomicBool::new(true),
            linked: AtomicBool::new(false),
            ops,
        }
    }

    pub(super) fn is_linked(&self) -> bool {
        self.linked.load(Relaxed)
    }

    /// Which child of `parent` it is.
    #[inline]
    fn side(&self, parent: &Node<T>) -> usize {
        if parent.children[LEFT].is(self) { LEFT } else { RIGHT }
    }

    /// The first that overlaps in the subtree below; its `max` reaches `first`.
    #[inline]
    fn search(mut self: &Self, first: u64, last: u64) -> Option<&Self> {
        loop {
            if let Some(left) = self.children[LEFT].get() {
                if left.max.load(Relaxed) >= first {
                    // Whatever overlaps on the left comes before this one; if nothing does, nothing further right does.
                    self = left;
                    continue;
                }
            }
            if self.first > last {
                return None;
            }
            if self.last >= first {
                return Some(self);
            }
            self = self.children[RIGHT].get().filter(|right| right.max.load(Relaxed) >= first)?;
        }
    }

    /// The next that overlaps, in ascending order.
    #[inline]
    pub(super) fn next_overlap(mut self: &Self, first: u64, last: u64) -> Option<&Self> {
        loop {
            if let Some(right) = self.children[RIGHT].get() {
                if right.max.load(Relaxed) >= first {
                    return right.search(first, last);
                }
            }
            loop {
                let parent = self.parent.get()?;
                let from_left = parent.children[LEFT].is(self);
                self = parent;
                if from_left {
                    break;
                }
            }
            if self.first > last {
                return None;
            }
            if self.last >= first {
                return Some(self);
            }
        }
    }

    /// What invariant 3 asks for.
    #[inline]
    fn greatest(&self) -> u64 {
        let below = |side: usize| self.children[side].get().map_or(0, |child| child.max.load(Relaxed));
        self.last.max(below(LEFT)).max(below(RIGHT))
    }

    /// Re-establishes invariant 3 from here upward, as far as something changes.
    fn propagate(mut self: &Node<T>) {
        loop {
            let greatest = self.greatest();
            if self.max.load(Relaxed) == greatest {
                return;
            }
            self.max.store(greatest, Relaxed);
            match self.parent.get() {
                Some(parent) => self = parent,
                None => return,
            }
        }
    }
}

#[inline]
fn is_red<T>(node: Option<&Node<T>>) -> bool {
    node.is_some_and(|node| node.red.load(Relaxed))
}

/// Below which node one went missing, what is in its place now, and was the missing one black?
type Gap<'a, T> = (Option<&'a Node<T>>, Option<&'a Node<T>>, bool);

/// Ordered by first address, equal ones by insertion.
pub(super) struct Tree<T> {
    root: Link<T>,
    /// The first node, so that what lies below all ranges is known at once.
    leftmost: Link<T>,
}

impl<T> Tree<T> {
    pub(super) const fn new() -> Self {
        Tree { root: Link::none(), leftmost: Link::none() }
    }

    #[inline]
    pub(super) fn first_overlap<'a>(&self, first: u64, last: u64) -> Option<&'a Node<T>> {
        let root = self.root.get()?;
        let outside = root.max.load(Relaxed) < first || self.leftmost.get()?.first > last;
        if outside { None } else { root.search(first, last) }
    }

    pub(super) fn insert(&mut self, node: &Node<T>) {
        let (mut parent, mut side, mut leftmost) = (None, LEFT, true);
        let mut below = self.root.get();
        while let Some(at) = below {
            // INVARIANT 3, for what will be above the new node.
            if at.max.load(Relaxed) < node.last {
                at.max.store(node.last, Relaxed);
            }
            parent = Some(at);
            // A branch, not an index: it is guessed, and the next node is on its way before this one is looked at.
            if node.first < at.first {
                side = LEFT;
                below = at.children[LEFT].get();
            } else {
                side = RIGHT;
                leftmost = false;
                below = at.children[RIGHT].get();
            }
        }
        node.parent.set(parent);
        node.linked.store(true, Relaxed);
        parent.map_or(&self.root, |parent| &parent.children[side]).set(Some(node));
        if leftmost {
            self.leftmost.set(Some(node));
        }
        self.balance_inserted(node);
    }

    /// `node` is red, and so may its parent be: invariant 2 is broken there and nowhere else.
    fn balance_inserted(&mut self, mut node: &Node<T>) {
        loop {
            let Some(mut parent) = node.parent.get() else { return node.red.store(false, Relaxed) };
            if !is_red(Some(parent)) {
                return;
            }
            let grand = parent.parent.get().expect("the root is black");
            let side = parent.side(grand);
            if let Some(uncle) = grand.children[1 - side].get().filter(|uncle| is_red(Some(uncle))) {
                parent.red.store(false, Relaxed);
                uncle.red.store(false, Relaxed);
                grand.red.store(true, Relaxed);
                node = grand;
                continue;
            }
            if node.side(parent) != side {
                self.rotate(parent, side);
                parent = node;
            }
            parent.red.store(false, Relaxed);
            grand.red.store(true, Relaxed);
            return self.rotate(grand, 1 - side);
        }
    }

    pub(super) fn remove(&mut self, node: &Node<T>) {
        if self.leftmost.is(node) {
            // The first node has nothing to its left, so the next one is the lowest of its right, or its parent.
            self.leftmost.set(node.children[RIGHT].get().map(lowest).or(node.parent.get()));
        }
        let (left, right) = (node.children[LEFT].get(), node.children[RIGHT].get());
        let (gap, filler, black_lost) = match (left, right) {
            (Some(left), Some(right)) => self.replace_by_next(node, left, right),
            _ => self.replace_by_child(node, left.or(right)),
        };
        node.linked.store(false, Relaxed);
        if black_lost {
            self.balance_removed(filler, gap);
        }
    }

    /// Closes the gap of a node with one child at most.
    #[inline]
    fn replace_by_child<'a>(&mut self, node: &Node<T>, child: Option<&'a Node<T>>) -> Gap<'a, T> {
        self.replace(node, child);
        let parent = node.parent.get();
        if let Some(parent) = parent {
            parent.propagate();
        }
        (parent, child, !is_red(Some(node)))
    }

    /// Puts the next node in the place of one with two children.
    fn replace_by_next<'a>(&mut self, node: &Node<T>, left: &Node<T>, right: &'a Node<T>) -> Gap<'a, T> {
        let next = lowest(right);
        let (black_lost, filler) = (!is_red(Some(next)), next.children[RIGHT].get());
        let gap = if ptr::eq(next, right) {
            next
        } else {
            let parent = next.parent.get().expect("it lies below `right`");
            self.replace(next, filler);
            next.children[RIGHT].set(Some(right));
            right.parent.set(Some(next));
            parent
        };
        next.children[LEFT].set(Some(left));
        left.parent.set(Some(next));
        self.replace(node, Some(next));
        next.red.store(node.red.load(Relaxed), Relaxed);
        // INVARIANT 3: below `next` first, then from it upward, as if the two had been exchanged.
        next.max.store(node.max.load(Relaxed), Relaxed);
        gap.propagate();
        next.propagate();
        (Some(gap), filler, black_lost)
    }

    /// `node` is black or nothing, and its paths have one black node too few: invariant 2 is broken there.
    fn balance_removed<'a>(&mut self, mut node: Option<&'a Node<T>>, mut parent: Option<&'a Node<T>>) {
        while let (false, Some(above)) = (is_red(node), parent) {
            let side = node.map_or_else(|| usize::from(above.children[LEFT].get().is_some()), |node| node.side(above));
            let mut sibling = self.black_sibling(above, side);
            let (near, far) = (sibling.children[side].get(), sibling.children[1 - side].get());
            if !is_red(near) && !is_red(far) {
                sibling.red.store(true, Relaxed);
                (node, parent) = (Some(above), above.parent.get());
                continue;
            }
            if !is_red(far) {
                near.expect("it is red").red.store(false, Relaxed);
                sibling.red.store(true, Relaxed);
                self.rotate(sibling, 1 - side);
                sibling = near.expect("it is red");
            }
            sibling.red.store(above.red.load(Relaxed), Relaxed);
            above.red.store(false, Relaxed);
            sibling.children[1 - side].get().expect("the far one is red").red.store(false, Relaxed);
            return self.rotate(above, side);
        }
        if let Some(node) = node {
            node.red.store(false, Relaxed);
        }
    }

    /// What is across from the side that has one black node too few; a red one is rotated away first.
    fn black_sibling<'a>(&mut self, above: &'a Node<T>, side: usize) -> &'a Node<T> {
        let sibling = above.children[1 - side].get().expect("its paths have a black node more");
        if !is_red(Some(sibling)) {
            return sibling;
        }
        sibling.red.store(false, Relaxed);
        above.red.store(true, Relaxed);
        self.rotate(above, side);
        above.children[1 - side].get().expect("a red sibling had two black children")
    }

    /// Links `new` where `old` is linked from.
    #[inline]
    fn replace(&mut self, old: &Node<T>, new: Option<&Node<T>>) {
        let parent = old.parent.get();
        parent.map_or(&self.root, |parent| &parent.children[old.side(parent)]).set(new);
        if let Some(new) = new {
            new.parent.set(parent);
        }
    }

    /// `node` goes down to `side`, its other child comes up.
    fn rotate(&mut self, node: &Node<T>, side: usize) {
        let up = node.children[1 - side].get().expect("a node takes its place");
        let across = up.children[side].get();
        self.replace(node, Some(up));
        node.children[1 - side].set(across);
        if let Some(across) = across {
            across.parent.set(Some(node));
        }
        up.children[side].set(Some(node));
        node.parent.set(Some(up));
        up.max.store(node.max.load(Relaxed), Relaxed);
        node.max.store(node.greatest(), Relaxed);
    }
}

fn lowest<T>(mut node: &Node<T>) -> &Node<T> {
    while let Some(left) = node.children[LEFT].get() {
        node = left;
    }
    node
}

#[cfg(test)]
impl<T> Tree<T> {
    /// Panics where an invariant does not hold.
    pub(super) fn check(&self) {
        assert!(!is_red(self.root.get()), "the root is black");
        let leftmost = self.leftmost.get().map(ptr::from_ref);
        assert_eq!(leftmost, self.root.get().map(lowest).map(ptr::from_ref), "the first node");
        check_below(self.root.get(), None);
    }
}

/// How many black nodes are on each path down.
#[cfg(test)]
fn check_below<T>(node: Option<&Node<T>>, parent: Option<&Node<T>>) -> u32 {
    let Some(node) = node else { return 1 };
    assert_eq!(node.parent.get().map(ptr::from_ref), parent.map(ptr::from_ref), "linked both ways");
    let children = [LEFT, RIGHT].map(|side| node.children[side].get());
    assert!(!is_red(Some(node)) || children.iter().all(|child| !is_red(*child)), "red nodes have black children");
    assert!(children[LEFT].is_none_or(|left| left.first <= node.first), "ascending");
    assert!(children[RIGHT].is_none_or(|right| right.first >= node.first), "ascending");
    assert_eq!(node.max.load(Relaxed), node.greatest(), "invariant 3");
    let [left, right] = children.map(|child| check_below(child, Some(node)));
    assert_eq!(left, right, "as many black nodes on every path");
    left + u32::from(!is_red(Some(node)))
}
