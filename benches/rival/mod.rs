//! Whom this crate is measured against, behind one small trait: the kernel's protocol, and what a user would write.
//!
//! | engine | ranges found by | readers held up by |
//! |---|---|---|
//! | [`Interval`] | this crate | an invalidation that overlaps |
//! | [`Kernel`] | augmented red-black tree, one spin lock | the epoch: all that are active, once one of them hits something |
//! | [`RwLockIset`], [`ParkingLotIset`] | `iset` under a lock | any invalidation |
//! | [`HastyRwLockIset`] | the same, with a begin that does not wait | none, but what was built is thrown away |
//! | [`RwLockBTreeMap`], [`ParkingLotBTreeMap`] | `BTreeMap` under a lock, disjoint ranges only | any invalidation |
//! | [`GlobalSeq`] | a look at every subscription | any invalidation |
//!
//! Everything here keeps the same promise (nothing stale is committed, nothing stays mapped inside an invalidation), so
//! that speed, false retries and waits can be compared. `tests/rivals.rs` holds each of them against a plain list.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each program that includes it uses a part of it")]

mod global_seq;
mod interval;
mod kernel;
mod rwlock;
mod rwlock_btreemap;
mod rwlock_iset;

pub use global_seq::GlobalSeq;
pub use interval::Interval;
pub use kernel::Kernel;
pub use rwlock_btreemap::{ParkingLotBTreeMap, RwLockBTreeMap};
pub use rwlock_iset::{HastyRwLockIset, ParkingLotIset, RwLockIset};

use std::ops::Range;

/// A mirror: what it does when a part of its range is invalidated.
pub trait Ops: Send + Sync + 'static {
    /// What the mirror lock protects.
    type Locked: ?Sized;

    /// Takes the mirror lock, calls `set_seq` while it is held, forgets whatever overlaps `range`, and gives back the
    /// lock and what `set_seq` returned. `range` is the whole invalidated range, not clipped to the subscription.
    fn invalidate<R>(&self, range: Range<u64>, set_seq: impl FnOnce(&mut Self::Locked) -> R) -> R;
}

/// An address space with its subscriptions.
///
/// Subscriptions belong to the space that made them; with another one every method may panic.
pub trait Engine<T: Ops>: Default + Send + Sync + 'static {
    /// A subscription. It ends with [`unsubscribe`](Self::unsubscribe), not when it is dropped.
    type Sub: Send + Sync;
    /// Where a build began.
    type Seq;
    /// An invalidation between start and end; dropping it ends it.
    type Open<'a>;

    /// Subscribes `ops` to a range that is not empty.
    fn subscribe(&self, range: Range<u64>, ops: T) -> Self::Sub;
    /// When it returns no callback runs, and none will. To be called outside of callbacks and invalidations.
    fn unsubscribe(&self, sub: Self::Sub) -> T;
    /// The value that is called back.
    fn ops<'a>(&'a self, sub: &'a Self::Sub) -> &'a T;

    /// Calls back whatever overlaps a range that is not empty.
    fn start(&self, range: Range<u64>) -> Self::Open<'_>;

    /// Begins a build; may wait.
    fn read_begin(&self, sub: &Self::Sub) -> Self::Seq;
    /// Is what was built since then stale? Without the lock true is reliable and false is not.
    fn check_retry(&self, sub: &Self::Sub, seq: &Self::Seq) -> bool;
    /// The same under the mirror lock, where it is exact.
    fn read_retry(&self, sub: &Self::Sub, seq: Self::Seq, locked: &T::Locked) -> bool;
}
