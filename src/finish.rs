//! Two-pass invalidation: all mirrors start, then all are waited for.
//!
//! A mirror whose device takes a while to let go of a range returns a [`Finish`] with its [`Ack`](crate::Ack): the
//! callback starts the flush, the finish waits for it. All callbacks of an invalidation run before the first finish, so
//! k devices that take d each take about d together, and not k times d.

/// The second part of a callback; see [`Ack::with_finish`](crate::Ack::with_finish).
///
/// It runs on the thread that invalidates, after the callbacks of all subscriptions and before
/// [`invalidate`](crate::AddressSpace::invalidate) returns (or refuses), in the order in which the callbacks ran. Its
/// subscription is not removed before it has run: [`unsubscribe`](crate::Subscription::unsubscribe) waits for it.
///
/// Closures are finishes. A mirror that must not allocate in a callback keeps a box of its own type ready, lends it,
/// and lets `finish` put it back; while it is lent out the next callback does all its work in one pass.
#[doc(alias = "mmu_interval_notifier_finish")]
pub trait Finish: Send {
    /// Waits for what the callback has started.
    ///
    /// A further finish, if one is returned, runs after all others of this pass.
    #[doc(alias = "invalidate_finish")]
    fn finish(self: Box<Self>) -> Option<Box<dyn Finish>>;
}

impl<F: FnOnce() + Send> Finish for F {
    fn finish(self: Box<Self>) -> Option<Box<dyn Finish>> {
        self();
        None
    }
}
