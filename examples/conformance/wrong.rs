//! A mirror in which one thing is wrong, whichever you choose.
//!
//! Its lock protects nothing by itself: the device has its own table, and the lock only orders commits and callbacks.
//! So nothing but discipline keeps the wrong ones below from being written.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use interval_notifier::conformance::{Fault, Generation, Setting, Subject, sync::Mutex};
use interval_notifier::{Ack, Call, Invalidate, Subscription, WouldBlock};

/// What is wrong.
pub(crate) trait Mistake: 'static {
    /// The build is installed, whatever `read_retry` says.
    const INSTALLS_ANYWAY: bool = false;
    /// Callbacks take a lock, but not the one under which builds are installed.
    const TAKES_ANOTHER_LOCK: bool = false;
    /// Callbacks do not drop the last page of what is invalidated.
    const DROPS_TOO_LITTLE: bool = false;
    /// Callbacks wait for the lock, whether they may block or not.
    const ALWAYS_WAITS: bool = false;
}

/// Commit without retry.
pub(crate) struct NoRetry;
impl Mistake for NoRetry {
    const INSTALLS_ANYWAY: bool = true;
}

/// `set_seq` under another lock than the commit's.
pub(crate) struct AnotherLock;
impl Mistake for AnotherLock {
    const TAKES_ANOTHER_LOCK: bool = true;
}

/// Off by one: [`overlap()`](interval_notifier::Change::overlap) is closed at both ends.
pub(crate) struct OffByOne;
impl Mistake for OffByOne {
    const DROPS_TOO_LITTLE: bool = true;
}

/// A callback that blocks in a start that may not.
pub(crate) struct Waits;
impl Mistake for Waits {
    const ALWAYS_WAITS: bool = true;
}

struct Device<M> {
    table: Mutex<BTreeMap<u64, Generation>>,
    mirror_lock: Mutex<()>,
    other_lock: Mutex<()>,
    mistake: PhantomData<fn(M)>,
}

impl<M: Mistake> Invalidate for Device<M> {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        let lock = if M::TAKES_ANOTHER_LOCK { &self.other_lock } else { &self.mirror_lock };
        let mut locked = match call.is_blockable() || M::ALWAYS_WAITS {
            true => lock.lock().unwrap(),
            false => lock.try_lock().map_err(|_| call.would_block())?,
        };
        let ack = call.set_seq(&mut locked);
        let (gone, kept) = (call.overlap(), u64::from(M::DROPS_TOO_LITTLE));
        self.table.lock().unwrap().retain(|&page, _| page < gone.first() || page + kept > gone.last());
        Ok(ack)
    }
}

pub(crate) struct Wrong<M>(Subscription<Device<M>>);

impl<M: Mistake> Subject for Wrong<M> {
    type Address = u64;

    fn new(setting: &Setting) -> Self {
        let (table, mirror_lock, other_lock) = Default::default();
        let device = Device { table, mirror_lock, other_lock, mistake: PhantomData };
        Wrong(setting.space().subscribe(setting.range(), device).unwrap())
    }

    fn fault(&self, fault: &Fault<'_>) {
        let device = self.0.ops();
        while let Ok(seq) = self.0.read_begin() {
            let generation = fault.read(fault.page());
            let locked = device.mirror_lock.lock().unwrap();
            let stale = self.0.read_retry(seq, &locked);
            if !stale || M::INSTALLS_ANYWAY {
                device.table.lock().unwrap().insert(fault.page(), generation);
                return;
            }
        }
    }

    fn held(&self, page: u64) -> Option<Generation> {
        self.0.ops().table.lock().unwrap().get(&page).copied()
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        let _locked = self.0.ops().mirror_lock.lock().unwrap();
        then();
    }
}
