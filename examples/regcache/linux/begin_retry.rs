//! `begin-retry`: this crate. The cache is told when a change starts and when it ends, and a registration that met a
//! change is thrown away.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interval_notifier::{AddressSpace, Change, EventKind, Mirror, MirrorState, Retry};

use super::device::{Device, Registration, lock};
use super::discipline::{Discipline, Fail, Registrar, Tally};
use super::sys::SysError;

/// A range that changes faster than this for so long cannot be registered: better an error than a hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// The one registration of a range, if there is one that can be used.
struct Slot<D: Device>(Option<Registration<D>>);

impl<D: Device> MirrorState<usize> for Slot<D> {
    /// Unregisters at once: while a change runs the device holds nothing of the range.
    fn invalidate(&mut self, _: &Change<usize>) {
        self.0 = None;
    }
}

type SharedMirror<D> = Arc<Mirror<Slot<D>, usize>>;

pub(crate) struct BeginRetry<D: Device> {
    space: AddressSpace<usize>,
    mirrors: Mutex<HashMap<Range<usize>, SharedMirror<D>>>,
    registrar: Registrar<D>,
}

impl<D: Device> BeginRetry<D> {
    pub(crate) fn new(registrar: Registrar<D>) -> Self {
        BeginRetry { space: AddressSpace::default(), mirrors: Mutex::default(), registrar }
    }

    /// The mirror of `range`, which stays subscribed when its registration goes.
    fn mirror(&self, range: &Range<usize>) -> Result<SharedMirror<D>, Fail> {
        let mut mirrors = lock(&self.mirrors);
        if let Some(mirror) = mirrors.get(range) {
            return Ok(Arc::clone(mirror));
        }
        let mirror = Arc::new(self.space.mirror(range.clone(), Slot(None))?);
        mirrors.insert(range.clone(), Arc::clone(&mirror));
        Ok(mirror)
    }

    /// Registers until no change has met the registration, and installs it.
    fn register(&self, mirror: &Mirror<Slot<D>, usize>, range: &Range<usize>) -> Result<(), Fail> {
        let mut builds = 0;
        let replaced = mirror.update(
            Retry::within(PATIENCE),
            |_| {
                builds += 1;
                self.registrar.register(range)
            },
            |slot, registration| slot.0.replace(registration),
        )?;
        // Another sender was quicker: its registration was as good as ours. It is dropped here, without the lock.
        drop(replaced);
        self.registrar.tally.count_retries(builds - 1);
        Ok(())
    }
}

impl<D: Device> Discipline for BeginRetry<D> {
    fn send(&self, range: &Range<usize>, page: usize) -> Result<u64, Fail> {
        let mirror = self.mirror(range)?;
        loop {
            // The lock is held while the device sends: a change of the range waits for the send to finish.
            if let Some(registration) = &mirror.lock()?.0 {
                return Ok(registration.send(page)?);
            }
            self.register(&mirror, range)?;
        }
    }

    fn around(&self, range: Range<usize>, change: &mut dyn FnMut() -> Result<(), SysError>) -> Result<(), SysError> {
        self.space.invalidate_while(range, EventKind::Unmap, change)
    }

    fn tally(&self) -> &Tally {
        &self.registrar.tally
    }
}
