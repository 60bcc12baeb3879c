//! The nodes of a tree that is searched while it is changed: how they are linked, and when their memory is used again.
//!
//! # Fresh, published, superseded
//!
//! A fresh node belongs to the writer, who changes it at will. Once a [`Link`] that searches can reach leads to it, it
//! is published: nobody changes it any more, but for the links in it. To change a published node is to publish a copy
//! in its place; the original is then superseded, and its memory used again when no search can be in it.
//!
//! Nodes are not counted. There is one live version, and what is not in it has been superseded.
//!
//! # What is asked of the tree
//!
//! The tree is safe code, and three things are left to it. Its tests compare, for the second, what was superseded with what
//! was in the tree before and is not after.
//!
//! 1. Only one writer at a time changes links or uses the [`Nodes`].
//! 2. Between [`Nodes::supersede_leaf`] or [`Nodes::supersede_inner`] and [`Nodes::commit`] it has taken the original out
//!    of everything that a new search can reach, and it is superseded only once.
//! 3. [`Link::take`] is used only by a tree that is being dropped, on links of its live version.
//!
//! # Invariants
//!
//! 1. A link leads nowhere, or to a node that a `Box` was turned into; bit 0 of the pointer says of which kind.
//! 2. A published node is freed, or changed, only after every pin has ended that was there when it was superseded. A pin
//!    that begins later cannot reach it: not from the root, and not through another superseded node, as it reaches none.

use crate::sync::atomic::{AtomicPtr, Ordering::*};
use crate::sync::{Arc, CHECKED, epoch};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Superseded nodes are handed to the epoch so many at a time: it costs several atomic operations, and an allocation.
const HANDED_OVER: usize = if CHECKED { 1 } else { 16 };
/// How many free nodes of a kind are kept on the shelf: about as many as the epoch puts there at once under load.
const KEPT: usize = 128;

/// Bit 0 of a pointer to a leaf; nodes are aligned to more than that.
const LEAF: usize = 1;

/// Leads to a node, or nowhere.
pub(crate) struct Link<L, I> {
    to: AtomicPtr<()>,
    kinds: PhantomData<fn() -> (L, I)>,
}

/// A node that only its writer knows of.
pub(crate) enum Fresh<L, I> {
    Leaf(Box<L>),
    Inner(Box<I>),
}

/// A published node, for as long as a pin lasts.
pub(crate) enum Node<'g, L, I> {
    Leaf(NodeRef<'g, L>),
    Inner(NodeRef<'g, I>),
}

/// A published node whose kind is known.
pub(crate) struct NodeRef<'g, N> {
    node: NonNull<N>,
    pinned: PhantomData<&'g N>,
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl<L, I> Node<'_, L, I> {
    pub(crate) fn address(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.node.addr().get(),
            Node::Inner(inner) => inner.node.addr().get(),
        }
    }
}

impl<N> Clone for NodeRef<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<N> Copy for NodeRef<'_, N> {}

impl<N> Deref for NodeRef<'_, N> {
    type Target = N;
    fn deref(&self) -> &N {
        // SAFETY: made by `Link::load` only, under a pin that lasts as long as `self` may (invariant 2); nobody has `&mut`
        // to a published node.
        unsafe { self.node.as_ref() }
    }
}

impl<L, I> Link<L, I> {
    /// Leads nowhere.
    pub(crate) fn nowhere() -> Self {
        const { assert!(align_of::<L>() > LEAF && align_of::<I>() > LEAF, "bit 0 is taken") };
        Link { to: AtomicPtr::new(std::ptr::null_mut()), kinds: PhantomData }
    }

    /// Leads to a node that nobody else knows of.
    pub(crate) fn new(node: Fresh<L, I>) -> Self {
        Link { to: AtomicPtr::new(Self::pointer(node)), kinds: PhantomData }
    }

    fn pointer(node: Fresh<L, I>) -> *mut () {
        match node {
            Fresh::Leaf(leaf) => Box::into_raw(leaf).cast::<()>().map_addr(|address| address | LEAF),
            Fresh::Inner(inner) => Box::into_raw(inner).cast(),
        }
    }

    /// Where it leads now, for as long as `guard` is pinned.
    #[inline]
    pub(crate) fn load<'g>(&self, _guard: &'g epoch::Guard) -> Option<Node<'g, L, I>> {
        // Acquire: pairs with the Release in `publish`; what the node holds is there when the link leads to it.
        let to = self.to.load(Acquire);
        // By invariant 1 the kind is what the bit says.
        if to.addr() & LEAF == 0 {
            NonNull::new(to.cast()).map(|node| Node::Inner(NodeRef { node, pinned: PhantomData }))
        } else {
            NonNull::new(to.map_addr(|address| address & !LEAF).cast())
                .map(|node| Node::Leaf(NodeRef { node, pinned: PhantomData }))
        }
    }

    /// From now on it leads to `node`, or nowhere.
    pub(crate) fn publish(&self, node: Option<Fresh<L, I>>) {
        // Release: pairs with the Acquire in `load`.
        self.to.store(node.map_or(std::ptr::null_mut(), Self::pointer), Release);
    }

    /// From now on it leads where `other` does, which the writer has not published and gives up.
    pub(crate) fn publish_same(&self, other: &Self) {
        // Relaxed: only the writer knows of `other`. Release: as in `publish`.
        self.to.store(other.to.load(Relaxed), Release);
    }

    /// Takes the node back from a tree that is being dropped.
    pub(crate) fn take(&mut self) -> Option<Fresh<L, I>> {
        // Relaxed: `&mut self`, whoever had access before is ordered by whatever gave us this.
        let to = self.to.load(Relaxed);
        self.to = AtomicPtr::new(std::ptr::null_mut());
        // SAFETY: by what is asked of the tree nobody else can reach the node any more, and its link is gone.
        (!to.is_null()).then(|| unsafe { free(to) })
    }
}

/// The box that a pointer of a link was.
///
/// # Safety
/// 1. The pointer is of a link and leads somewhere.
/// 2. Nobody refers to the node, or can come to, and this is done once.
unsafe fn free<L, I>(to: *mut ()) -> Fresh<L, I> {
    if to.addr() & LEAF == 0 {
        // SAFETY: a box of an `I` by clause 1 and invariant 1; ours by clause 2.
        Fresh::Inner(unsafe { Box::from_raw(to.cast()) })
    } else {
        // SAFETY: as above, of an `L`.
        Fresh::Leaf(unsafe { Box::from_raw(to.map_addr(|address| address & !LEAF).cast()) })
    }
}

/// For the copy of a node: it leads where the original does.
impl<L, I> Clone for Link<L, I> {
    fn clone(&self) -> Self {
        // Relaxed: only the writer copies nodes, and only it changes links.
        Link { to: AtomicPtr::new(self.to.load(Relaxed)), kinds: PhantomData }
    }
}

/// A node that nobody changes or reaches any more, by its pointer in a link.
struct Superseded<L, I> {
    to: *mut (),
    kinds: PhantomData<fn() -> (L, I)>,
}

// SAFETY: it is a box on its way to be one again; nodes that are sent are `Send` by the bounds of `Nodes`.
unsafe impl<L: Send, I: Send> Send for Superseded<L, I> {}

/// Free nodes.
struct Free<L, I> {
    leaves: Vec<Box<L>>,
    inners: Vec<Box<I>>,
}

/// Where nodes go from the epoch, and are fetched from when the writer has none. A lock of the standard library even
/// under the checkers: only memory is handed on by it, and the epoch may do so after the end of a checked execution.
type Shelf<L, I> = Mutex<Free<L, I>>;

/// The writer's part: what is free, and what has been superseded.
pub(crate) struct Nodes<L, I> {
    free: Free<L, I>,
    shelf: Arc<Shelf<L, I>>,
    /// Not yet handed to the epoch: what is unlinked, then what the present change has superseded.
    retired: Vec<Superseded<L, I>>,
    /// How many of them are unlinked. The others are when the change is committed; a panic in between leaks them.
    unlinked: usize,
    /// Addresses of those that the last change superseded.
    #[cfg(all(test, not(any(loom, shuttle))))]
    last: Vec<usize>,
}

impl<L: Copy + Send + Sync + 'static, I: Clone + Send + Sync + 'static> Nodes<L, I> {
    pub(crate) fn new() -> Self {
        let free = || Free { leaves: Vec::new(), inners: Vec::new() };
        Nodes {
            free: free(),
            shelf: Arc::new(Mutex::new(free())),
            retired: Vec::new(),
            unlinked: 0,
            #[cfg(all(test, not(any(loom, shuttle))))]
            last: Vec::new(),
        }
    }

    /// Begins a change.
    pub(crate) fn begin(&mut self) {
        self.retired.truncate(self.unlinked);
    }

    /// A fresh copy that is going to supersede a published leaf.
    pub(crate) fn supersede_leaf(&mut self, leaf: NodeRef<'_, L>) -> Box<L> {
        self.supersede(leaf.node.as_ptr().cast::<()>().map_addr(|address| address | LEAF));
        self.leaf(&leaf)
    }

    /// A fresh copy that is going to supersede a published inner node.
    pub(crate) fn supersede_inner(&mut self, inner: NodeRef<'_, I>) -> Box<I> {
        self.supersede(inner.node.as_ptr().cast());
        match self.free_inner() {
            Some(mut free) => {
                I::clone_from(&mut free, &inner);
                free
            }
            None => Box::new(I::clone(&inner)),
        }
    }

    fn supersede(&mut self, to: *mut ()) {
        self.retired.push(Superseded { to, kinds: PhantomData });
    }

    /// A fresh leaf.
    pub(crate) fn leaf(&mut self, leaf: &L) -> Box<L> {
        if self.free.leaves.is_empty() {
            self.fetch();
        }
        match self.free.leaves.pop() {
            Some(mut free) => {
                *free = *leaf;
                free
            }
            None => Box::new(*leaf),
        }
    }

    /// A fresh inner node.
    pub(crate) fn inner(&mut self, inner: I) -> Box<I> {
        match self.free_inner() {
            Some(mut free) => {
                *free = inner;
                free
            }
            None => Box::new(inner),
        }
    }

    fn free_inner(&mut self) -> Option<Box<I>> {
        if self.free.inners.is_empty() {
            self.fetch();
        }
        self.free.inners.pop()
    }

    /// Fetches what the epoch has put back, if there are no more free nodes of a kind.
    fn fetch(&mut self) {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let Free { leaves, inners } = &mut self.free;
        if leaves.is_empty() {
            std::mem::swap(leaves, &mut shelf.leaves);
        }
        if inners.is_empty() {
            std::mem::swap(inners, &mut shelf.inners);
        }
    }

    /// What the present change has superseded is unlinked now.
    pub(crate) fn commit(&mut self, guard: &epoch::Guard) {
        #[cfg(all(test, not(any(loom, shuttle))))]
        self.last.clone_from(&self.retired[self.unlinked..].iter().map(|node| node.to.addr() & !LEAF).collect());
        self.unlinked = self.retired.len();
        if self.unlinked >= HANDED_OVER {
            self.hand_over(guard);
        }
    }

    /// Addresses of the nodes that the last change has superseded: each once.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn last_superseded(&self) -> std::collections::BTreeSet<usize> {
        let set: std::collections::BTreeSet<_> = self.last.iter().copied().collect();
        assert_eq!(set.len(), self.last.len(), "a node was superseded twice");
        set
    }

    #[cold]
    fn hand_over(&mut self, guard: &epoch::Guard) {
        self.unlinked = 0;
        let retired = std::mem::replace(&mut self.retired, Vec::with_capacity(HANDED_OVER * 2));
        let shelf = Arc::clone(&self.shelf);
        // SAFETY: by what is asked of the tree no pin that begins from now on reaches these nodes (invariant 2). They and
        // the shelf are `Send` and `'static`, so any thread may put them back, whenever it is.
        unsafe { guard.defer_unchecked(move || put_back(retired, &shelf)) };
    }
}

/// Puts nodes on the shelf, as long as there is room.
fn put_back<L, I>(retired: Vec<Superseded<L, I>>, shelf: &Shelf<L, I>) {
    let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
    // Not under the checkers: the use of a node that is free shows only if its memory is.
    let room = |kept: usize| !CHECKED && kept < KEPT;
    for Superseded { to, .. } in retired {
        // SAFETY: 1. it was in a link. 2. The last pin that could reach it has ended, or there is no tree any more; it
        // was superseded once.
        match unsafe { free(to) } {
            Fresh::Leaf(leaf) if room(shelf.leaves.len()) => shelf.leaves.push(leaf),
            Fresh::Inner(inner) if room(shelf.inners.len()) => shelf.inners.push(inner),
            more => drop(more),
        }
    }
}

impl<L, I> Drop for Nodes<L, I> {
    fn drop(&mut self) {
        // Searches borrow the tree, so there are none.
        self.retired.truncate(self.unlinked);
        put_back(std::mem::take(&mut self.retired), &self.shelf);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn as_many_free_nodes_are_kept_as_there_is_room_for() {
        let shelf: Shelf<u64, u64> = Mutex::new(Free { leaves: Vec::new(), inners: Vec::new() });
        let retired = |node: fn() -> Fresh<u64, u64>| {
            let superseded = || Superseded { to: Link::pointer(node()), kinds: PhantomData };
            (0..=KEPT).map(|_| superseded()).collect()
        };
        put_back(retired(|| Fresh::Leaf(Box::default())), &shelf);
        put_back(retired(|| Fresh::Inner(Box::default())), &shelf);
        let Free { leaves, inners } = shelf.into_inner().expect("nobody has panicked");
        assert_eq!((leaves.len(), inners.len()), (KEPT, KEPT));
    }
}
