//! The best crate there is for ranges that may overlap and change, under a lock.

use super::rwlock::{Naive, Ranges};
use iset::IntervalMap;
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// Under the lock of the standard library.
pub type RwLockIset<T> = Naive<T, Iset<T>, RwLock<Iset<T>>>;
/// The same with a begin that does not wait.
pub type HastyRwLockIset<T> = Naive<T, Iset<T>, RwLock<Iset<T>>, false>;
/// Under the lock of `parking_lot`.
pub type ParkingLotIset<T> = Naive<T, Iset<T>, parking_lot::RwLock<Iset<T>>>;

/// Equal ranges are kept apart by the identity of their values.
pub struct Iset<T>(IntervalMap<u64, Arc<T>>);

impl<T> Default for Iset<T> {
    fn default() -> Self {
        Iset(IntervalMap::new())
    }
}

impl<T: Send + Sync + 'static> Ranges<T> for Iset<T> {
    #[inline]
    fn insert(&mut self, range: &Range<u64>, ops: Arc<T>) {
        self.0.force_insert(range.clone(), ops);
    }
    #[inline]
    fn remove(&mut self, range: &Range<u64>, ops: &Arc<T>) {
        self.0.remove_where(range.clone(), |other| Arc::ptr_eq(other, ops)).expect("it was inserted");
    }
    #[inline]
    fn for_each_overlap(&self, range: &Range<u64>, mut call: impl FnMut(&T)) {
        self.0.values(range.clone()).for_each(|ops| call(ops));
    }
}
