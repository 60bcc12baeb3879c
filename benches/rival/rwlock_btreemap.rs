//! A bound that no collection for overlapping ranges has to reach: the standard library's map, keyed by the first address.
//!
//! Its ranges must be disjoint, so it cannot stand in for the others: two subscriptions of one page are two too many.

use super::rwlock::{Naive, Ranges};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// Under the lock of the standard library.
pub type RwLockBTreeMap<T> = Naive<T, Disjoint<T>, RwLock<Disjoint<T>>>;
/// Under the lock of `parking_lot`.
pub type ParkingLotBTreeMap<T> = Naive<T, Disjoint<T>, parking_lot::RwLock<Disjoint<T>>>;

/// From the first address to the end.
pub struct Disjoint<T>(BTreeMap<u64, (u64, Arc<T>)>);

impl<T> Default for Disjoint<T> {
    fn default() -> Self {
        Disjoint(BTreeMap::new())
    }
}

impl<T: Send + Sync + 'static> Ranges<T> for Disjoint<T> {
    #[inline]
    fn insert(&mut self, range: &Range<u64>, ops: Arc<T>) {
        let before = self.0.insert(range.start, (range.end, ops));
        assert!(before.is_none(), "two subscriptions at {:#x}, and this map holds disjoint ranges only", range.start);
    }
    #[inline]
    fn remove(&mut self, range: &Range<u64>, _: &Arc<T>) {
        self.0.remove(&range.start).expect("it was inserted");
    }
    #[inline]
    fn for_each_overlap(&self, range: &Range<u64>, mut call: impl FnMut(&T)) {
        let downward = self.0.range(..range.end).rev();
        downward.take_while(|(_, (end, _))| *end > range.start).for_each(|(_, (_, ops))| call(ops));
    }
}
