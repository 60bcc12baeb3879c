//! A list that is read on every invalidation and changed hardly ever.
//!
//! It is arc-swap's: a reader takes the present list with it, as long as it likes, through slow callbacks too, and holds
//! up nobody. Under the checkers a lock stands in for it, so that every step of ours is seen; its own are not ours to
//! check.

use crate::sync::Arc;

#[cfg(not(any(loom, shuttle)))]
mod arm {
    use super::Arc;

    /// See the module.
    pub(crate) struct List<T>(arc_swap::ArcSwap<Vec<T>>);

    impl<T> List<T> {
        pub(crate) fn new() -> Self {
            List(arc_swap::ArcSwap::from_pointee(Vec::new()))
        }
        /// The present list.
        pub(crate) fn load(&self) -> Arc<Vec<T>> {
            self.0.load_full()
        }
        /// Publishes another. Writers exclude each other.
        pub(crate) fn store(&self, list: Vec<T>) {
            self.0.store(Arc::new(list));
        }
    }
}

#[cfg(any(loom, shuttle))]
mod arm {
    use super::Arc;
    use crate::sync::{Mutex, lock};

    /// See the module.
    pub(crate) struct List<T>(Mutex<Arc<Vec<T>>>);

    impl<T> List<T> {
        pub(crate) fn new() -> Self {
            List(Mutex::new(Arc::new(Vec::new())))
        }
        pub(crate) fn load(&self) -> Arc<Vec<T>> {
            Arc::clone(&lock(&self.0))
        }
        pub(crate) fn store(&self, list: Vec<T>) {
            let old = std::mem::replace(&mut *lock(&self.0), Arc::new(list));
            drop(old);
        }
    }
}

pub(crate) use arm::List;
