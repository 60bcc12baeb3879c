//! `notify-before` and `notify-after`: the cache is told once per change, and registers without its lock.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::device::{Device, Registration, lock};
use super::discipline::{Discipline, Fail, Registrar, Table, Tally};
use super::sys::SysError;

/// What libfabric's cache does (`ofi_mr_cache_search`, `util_mr_cache_create`): search under the lock; on a miss
/// register *without* it, because a registration may allocate and the allocator may call the hook; then insert, unless
/// another thread has inserted an overlapping entry meanwhile. A notification that came during the registration found
/// no entry to drop and left no trace: what is inserted then refers to pages that no longer exist.
pub(crate) struct Notified<D: Device> {
    table: Mutex<Table<D>>,
    registrar: Registrar<D>,
    moment: Moment,
}

/// When the notification comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Before the system call, as from libfabric's hooks of `munmap`, `mmap` and `madvise` (memhooks).
    Before,
    /// Behind it, as from libfabric's hook of `brk` and from its userfaultfd monitor, which can read the event of an
    /// `munmap` only when the range is gone.
    After,
}

impl<D: Device> Notified<D> {
    pub(crate) fn before(registrar: Registrar<D>) -> Self {
        Notified { table: Mutex::default(), registrar, moment: Moment::Before }
    }

    pub(crate) fn after(registrar: Registrar<D>) -> Self {
        Notified { table: Mutex::default(), registrar, moment: Moment::After }
    }

    fn find(&self, range: &Range<usize>) -> Option<Arc<Registration<D>>> {
        let mut table = lock(&self.table);
        let dead = table.take_dead();
        let found = table.find(range);
        drop(table);
        drop(dead);
        found
    }

    fn insert_if_nobody_else_did(&self, range: &Range<usize>, registration: &Arc<Registration<D>>) -> bool {
        let mut table = lock(&self.table);
        let free = !table.overlaps(range);
        if free {
            table.insert(range, Arc::clone(registration));
        }
        free
    }

    fn find_or_register(&self, range: &Range<usize>) -> Result<Arc<Registration<D>>, SysError> {
        loop {
            if let Some(found) = self.find(range) {
                return Ok(found);
            }
            let registration = Arc::new(self.registrar.register(range)?);
            if self.insert_if_nobody_else_did(range, &registration) {
                return Ok(registration);
            }
            self.registrar.tally.count_retries(1);
        }
    }
}

impl<D: Device> Discipline for Notified<D> {
    fn send(&self, range: &Range<usize>, page: usize) -> Result<u64, Fail> {
        Ok(self.find_or_register(range)?.send(page)?)
    }

    fn around(&self, range: Range<usize>, change: &mut dyn FnMut() -> Result<(), SysError>) -> Result<(), SysError> {
        let notify = || lock(&self.table).invalidate(&range);
        match self.moment {
            Moment::Before => {
                notify();
                change()
            }
            Moment::After => {
                let changed = change();
                notify();
                changed
            }
        }
    }

    fn tally(&self) -> &Tally {
        &self.registrar.tally
    }
}
