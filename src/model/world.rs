//! Drives the crate through its public interface, and compares every answer with the oracle's.

use super::op::{OWNERS, Op};
use super::oracle::{InvId, Oracle, Pages, SubId};
use super::toy::Handle;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::{AddressSpace, OwnedInvalidation, Owner, ReadSeq};
use std::ops::Bound::Unbounded;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Steps in one run, those in callbacks included: scripts multiply.
const FUEL: u32 = 200;
/// Callbacks within callbacks.
const DEEPEST: usize = 4;

/// What a toy panics with.
pub(crate) struct Planted;

/// A build that has begun: what the crate gave for it, what the oracle gave for it, and what it saw.
pub(crate) struct Build {
    pub(crate) sub: SubId,
    pub(crate) seq: ReadSeq,
    pub(crate) begun: u64,
    pub(crate) pages: Pages,
}

/// The crate on one side and the oracle on the other. No lock here is held while the crate is called.
pub(crate) struct World {
    pub(crate) space: AddressSpace,
    owners: [Owner; OWNERS as usize],
    fuel: AtomicU32,
    oracle: Mutex<Oracle>,
    /// A handle is taken out while it is used, so callbacks use the others and drop the rest.
    pub(crate) handles: Mutex<Vec<(SubId, Handle)>>,
    pub(crate) open: Mutex<Vec<(InvId, OwnedInvalidation)>>,
    pub(crate) builds: Mutex<Vec<Build>>,
}

/// The element that `pick` names, taken out.
pub(crate) fn take<T>(list: &Mutex<Vec<T>>, pick: u8) -> Option<T> {
    let mut list = lock(list);
    let at = usize::from(pick).checked_rem(list.len())?;
    Some(list.swap_remove(at))
}

impl World {
    pub(crate) fn new() -> Arc<World> {
        Arc::new(World {
            space: AddressSpace::new(),
            owners: [Owner::new(), Owner::new()],
            fuel: AtomicU32::new(FUEL),
            oracle: Mutex::default(),
            handles: Mutex::default(),
            open: Mutex::default(),
            builds: Mutex::default(),
        })
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    pub(crate) fn owner(&self, owner: u8) -> Owner {
        self.owners[usize::from(owner)]
    }

    /// One step, and the state of rest after it.
    pub(crate) fn step_and_rest(self: &Arc<Self>, op: &Op) {
        let _ = self.step(op); // A panicking toy is a part of the run.
        for (sub, handle) in lock(&self.handles).iter() {
            self.inspect(*sub, handle);
        }
        self.oracle().rest();
    }

    /// A step inside a callback. If that panics, the callback does.
    pub(crate) fn step_inside(self: &Arc<Self>, op: &Op) {
        if self.oracle().depth() <= DEEPEST && self.step(op).is_err() {
            resume_unwind(Box::new(Planted));
        }
    }

    /// Ends and drops whatever is left.
    pub(crate) fn tear_down(self: &Arc<Self>) {
        self.fuel.store(0, Relaxed);
        while let Some((id, guard)) = take(&self.open, 0) {
            self.oracle().end(id);
            guard.end();
        }
        while let Some((sub, handle)) = take(&self.handles, 0) {
            self.discard(sub, handle);
        }
        self.disturb(&(Unbounded, Unbounded)); // It hits nobody, but leaves no value behind.
        self.oracle().rest();
    }

    pub(crate) fn step(self: &Arc<Self>, op: &Op) -> Result<(), Planted> {
        if self.fuel.load(Relaxed) == 0 {
            return Ok(());
        }
        self.fuel.fetch_sub(1, Relaxed);
        match op {
            Op::Subscribe { range, habits, crowd } => (0..*crowd).for_each(|_| self.subscribe(range, habits)),
            Op::Unsubscribe(sub) => self.pick(*sub, |sub, handle| self.unsubscribe(sub, handle)),
            Op::Drop(sub) => self.pick(*sub, |sub, handle| self.discard(sub, handle)),
            Op::Begin { sub, how } => self.pick_ref(*sub, |sub, handle| self.begin(sub, handle, *how)),
            Op::Check(build) => self.pick_build(*build, |build, handle| self.check(build, handle)),
            Op::Commit(build) => self.pick_build(*build, |build, handle| self.commit(build, handle)),
            Op::Update { sub, disturb, times, build_fails } => {
                self.pick_ref(*sub, |sub, handle| self.update(sub, handle, (disturb, *times), *build_fails));
            }
            Op::Evict { sub, range } => self.pick_ref(*sub, |sub, handle| self.evict(sub, handle, range)),
            Op::Locked { sub, inner } => self.pick_ref(*sub, |sub, handle| self.locked(sub, handle, inner)),
            Op::Start { range, owner, blocking } => return self.start(range, *owner, *blocking),
            Op::End(open) => self.end(*open),
            Op::Within { range, owner, form, inner } => return self.within(range, *owner, *form, inner),
            Op::Release => return self.release(),
        }
        Ok(())
    }

    /// Hands a subscription to `act`, which may give it back.
    fn pick(&self, pick: u8, act: impl FnOnce(SubId, Handle) -> Option<Handle>) {
        if let Some((sub, handle)) = take(&self.handles, pick) {
            let back = act(sub, handle);
            lock(&self.handles).extend(back.map(|handle| (sub, handle)));
        }
    }

    fn pick_ref(&self, pick: u8, act: impl FnOnce(SubId, &Handle)) {
        self.pick(pick, |sub, handle| {
            act(sub, &handle);
            Some(handle)
        });
    }

    /// Hands a build and its subscription to `act`, which may give the build back. One without subscription is forgotten.
    fn pick_build(&self, pick: u8, act: impl FnOnce(Build, &Handle) -> Option<Build>) {
        let Some(build) = take(&self.builds, pick) else { return };
        let Some(at) = lock(&self.handles).iter().position(|(sub, _)| *sub == build.sub) else { return };
        let (sub, handle) = lock(&self.handles).swap_remove(at);
        let back = act(build, &handle);
        lock(&self.handles).push((sub, handle));
        lock(&self.builds).extend(back);
    }
}
