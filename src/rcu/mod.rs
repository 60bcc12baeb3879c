//! What is read without a lock: the published tree, and the subscriptions that it refers to.
//!
//! All `unsafe` of the crate is in this module. Its interface is safe, and asks two things of the rest of the crate: that
//! a [`Handle`] goes back to the [`Registry`] it came from (a `Subscription` keeps both together), and what `nodes` asks
//! of the tree.
//!
//! # Pin
//!
//! A search runs under an epoch pin and never longer: a pin holds up reclamation for the whole process. No code of the
//! user runs under one. The pin does not leave this module.
//!
//! # Entry
//!
//! The shared part of a subscription: what the protocol needs of it, and the user's value. Trees refer to entries
//! without counting references, so that copying a path of the tree does not touch every subscription on it.
//!
//! # Batch
//!
//! Hits that were found under a pin and are called back after it. While a batch has a hit, the slot of its
//! invalidation holds the entry's address in `current`, as a hazard pointer. Those that are to be finished in a second
//! pass are held in the slot's `finishing` from within the batch on; "`current`" below stands for both.
//!
//! # Invariants
//!
//! 1. A node of the tree is freed or used again only after every pin that may be in it has ended (see `nodes`).
//! 2. Every entry that a search can find is alive: it is taken out of the tree before it is marked removed, so that no pin
//!    that begins later finds it; its memory is retired through the epoch after that.
//! 3. The value of an entry is taken out or dropped, and the entry retired, only after the entry was marked removed
//!    and, after the fence that follows the mark, was seen in no slot's `current`. No batch can come to hold it later:
//!    a batch looks at the mark after it has written `current` and a fence, still pinned, and drops what is marked.
//! 4. The value is taken out or dropped once: by the [`Handle`], which does not outlive it, or by the graveyard, to
//!    which the handle has given it.
#![expect(unsafe_code, reason = "the epoch and the entries it protects; everything else in the crate is safe code")]

mod entry;
mod memory;
mod nodes;
mod registry;

pub(crate) use entry::{Answer, Context, Handle, Listener};
pub(crate) use nodes::{Fresh, Link, Node, NodeRef, Nodes};
pub(crate) use registry::{Batch, Cursor, Finishing, Hit, Inserted, Registry};
