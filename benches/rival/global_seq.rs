//! The least that is correct: no tree at all, one sequence for the space. Every reader builds again for every change.

use super::rwlock::{Naive, Ranges};
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// A list under a lock.
pub type GlobalSeq<T> = Naive<T, List<T>, RwLock<List<T>>>;

/// In no order.
pub struct List<T>(Vec<(Range<u64>, Arc<T>)>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T: Send + Sync + 'static> Ranges<T> for List<T> {
    fn insert(&mut self, range: &Range<u64>, ops: Arc<T>) {
        self.0.push((range.clone(), ops));
    }
    fn remove(&mut self, _: &Range<u64>, ops: &Arc<T>) {
        let place = self.0.iter().rposition(|(_, other)| Arc::ptr_eq(other, ops)).expect("it was inserted");
        self.0.swap_remove(place);
    }
    fn for_each_overlap(&self, range: &Range<u64>, mut call: impl FnMut(&T)) {
        let overlap = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        self.0.iter().filter(|(other, _)| overlap(other)).for_each(|(_, ops)| call(ops));
    }
}
