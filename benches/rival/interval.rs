//! This crate.

use super::{Engine, Ops};
use interval_notifier::{
    Ack, AddressSpace, Call, EventKind, Invalidate, Invalidation, ReadSeq, Subscription, WouldBlock,
};
use std::ops::Range;

/// An [`AddressSpace`] as an [`Engine`].
#[derive(Default)]
pub struct Interval(AddressSpace);

/// What is subscribed: hands the call on.
pub struct Adapter<T>(T);

impl<T: Ops> Invalidate for Adapter<T> {
    type Locked = T::Locked;

    #[inline]
    fn invalidate(&self, call: &Call<'_, T::Locked>) -> Result<Ack, WouldBlock> {
        let range = call.range();
        // Engines are asked for half-open ranges only, so the last address has a successor.
        Ok(self.0.invalidate(range.first()..range.last() + 1, |locked| call.set_seq(locked)))
    }
}

impl<T: Ops> Engine<T> for Interval {
    type Sub = Subscription<Adapter<T>>;
    type Seq = ReadSeq;
    type Open<'a> = Invalidation<'a>;

    #[inline]
    fn subscribe(&self, range: Range<u64>, ops: T) -> Self::Sub {
        self.0.subscribe(range, Adapter(ops)).expect("the range is not empty and the space is not released")
    }
    #[inline]
    fn unsubscribe(&self, sub: Self::Sub) -> T {
        sub.unsubscribe().expect("outside of callbacks").0
    }
    #[inline]
    fn ops<'a>(&'a self, sub: &'a Self::Sub) -> &'a T {
        &sub.ops().0
    }
    #[inline]
    fn start(&self, range: Range<u64>) -> Invalidation<'_> {
        self.0.invalidate(range, EventKind::Clear)
    }
    #[inline]
    fn read_begin(&self, sub: &Self::Sub) -> ReadSeq {
        sub.read_begin().expect("nothing is poisoned or released")
    }
    #[inline]
    fn check_retry(&self, sub: &Self::Sub, seq: &ReadSeq) -> bool {
        sub.check_retry(seq)
    }
    #[inline]
    fn read_retry(&self, sub: &Self::Sub, seq: ReadSeq, locked: &T::Locked) -> bool {
        sub.read_retry(seq, locked)
    }
}
