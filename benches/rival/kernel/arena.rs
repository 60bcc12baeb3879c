//! Where nodes live: in blocks that grow, never move, and take back what is no longer used.
#![expect(unsafe_code, reason = "places are handed out by address")]

use super::tree::Node;
use std::ptr::{self, NonNull};

/// The address of a node.
pub(super) struct Place<T>(NonNull<Node<T>>);

// SAFETY: it is an address; what may be done with it says `node`, whose `&Node<T>` needs both.
unsafe impl<T: Send + Sync> Send for Place<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Place<T> {}

impl<T> Place<T> {
    pub(super) fn copy(&self) -> Self {
        Place(self.0)
    }

    pub(super) fn is(&self, node: &Node<T>) -> bool {
        ptr::eq(self.0.as_ptr(), node)
    }

    /// # Safety
    ///
    /// The arena has handed it out, is still there, and does not take it back while the node is used.
    #[inline]
    pub(super) unsafe fn node<'a>(&self) -> &'a Node<T> {
        // SAFETY: the caller's promise.
        unsafe { self.0.as_ref() }
    }
}

/// The least that a block holds; later ones hold an eighth of all so far, so that they are few and little is unused.
const BLOCK: usize = 64;

pub(super) struct Arena<T> {
    /// Capacity only: what is in use belongs to whoever holds its place, and is forgotten with the arena.
    blocks: Vec<Vec<Node<T>>>,
    free: Vec<Place<T>>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { blocks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    #[inline]
    pub(super) fn place(&mut self, node: Node<T>) -> Place<T> {
        if self.free.is_empty() {
            self.grow();
        }
        let place = self.free.pop().expect("it has just grown");
        // SAFETY: what is free is in a block of ours and used by nobody.
        unsafe { place.0.write(node) };
        place
    }

    /// # Safety
    ///
    /// `place` is of this arena, and no reference to its node is used any more.
    #[inline]
    pub(super) unsafe fn take_back(&mut self, place: Place<T>) -> T {
        // SAFETY: the caller's promise; nobody reads it again before `place` writes it, and the rest needs no drop.
        let Node { ops, .. } = unsafe { place.0.read() };
        self.free.push(place);
        ops
    }

    #[cold]
    fn grow(&mut self) {
        let so_far: usize = self.blocks.iter().map(Vec::capacity).sum();
        let mut block = Vec::with_capacity(BLOCK.max(so_far / 8));
        // Backwards, so that they are handed out in ascending order.
        self.free.extend(block.spare_capacity_mut().iter_mut().rev().map(|node| Place(NonNull::from(node).cast())));
        self.blocks.push(block);
    }
}
