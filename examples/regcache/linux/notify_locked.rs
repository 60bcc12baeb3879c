//! `notify-before-locked`: the cache is told before the change, and registers under its lock.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::device::{Device, Registration, lock};
use super::discipline::{Discipline, Fail, Registrar, Table, Tally};
use super::sys::SysError;

/// What UCX's cache does (`ucs_rcache_get`, `ucs_rcache_create_region`, `ucs_rcache_unmapped_callback`): a hit takes
/// the lock shared; a miss takes it alone and registers under it. A notification must not wait for a registration, so
/// that it only tries the lock, and if that is taken leaves its range in a queue, which the next send drains first. A
/// registration in progress is thus never used twice. But one that starts between the notification and the system
/// call pins the old pages, and nobody will tell it.
pub(crate) struct NotifiedLocked<D: Device> {
    table: RwLock<Table<D>>,
    pending: Mutex<Vec<Range<usize>>>,
    registrar: Registrar<D>,
}

impl<D: Device> NotifiedLocked<D> {
    pub(crate) fn new(registrar: Registrar<D>) -> Self {
        NotifiedLocked { table: RwLock::default(), pending: Mutex::default(), registrar }
    }

    fn find(&self, range: &Range<usize>) -> Option<Arc<Registration<D>>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if lock(&self.pending).is_empty() { table.find(range) } else { None }
    }

    fn find_or_register(&self, range: &Range<usize>) -> Result<Arc<Registration<D>>, SysError> {
        if let Some(found) = self.find(range) {
            return Ok(found);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for range in lock(&self.pending).drain(..) {
            table.invalidate(&range);
        }
        drop(table.take_dead());
        if let Some(found) = table.find(range) {
            return Ok(found);
        }
        table.invalidate(range);
        let registration = Arc::new(self.registrar.register(range)?);
        table.insert(range, Arc::clone(&registration));
        Ok(registration)
    }
}

impl<D: Device> Discipline for NotifiedLocked<D> {
    fn send(&self, range: &Range<usize>, page: usize) -> Result<u64, Fail> {
        Ok(self.find_or_register(range)?.send(page)?)
    }

    fn around(&self, range: Range<usize>, change: &mut dyn FnMut() -> Result<(), SysError>) -> Result<(), SysError> {
        match self.table.try_write() {
            Ok(mut table) => table.invalidate(&range),
            Err(_) => lock(&self.pending).push(range),
        }
        change()
    }

    fn tally(&self) -> &Tally {
        &self.registrar.tally
    }
}
