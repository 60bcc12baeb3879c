//! Who is notified of everything in a space: the list behind [`register`](crate::AddressSpace::register).
//!
//! # Invariants
//!
//! 1. The list and its writer's state change together, under the writer's lock. `count` is raised after the list is
//!    published, and before the fence with which a registration begins to look for active invalidations.
//! 2. None of these locks is held while code of the user runs.

mod graveyard;
mod member;

use crate::error::WouldBlock;
use crate::event::Change;
use crate::held::Holding;
use crate::list::List;
use crate::notifier::{Notifier, SecondaryTlb};
use crate::panics::Panics;
use crate::range::Address;
use crate::sync::atomic::{AtomicUsize, Ordering::*};
use crate::sync::{Arc, Condvar, Mutex, lock, wait_until};
use graveyard::Graveyard;
pub(crate) use member::{AnyMember, Member};
use std::any::{Any, TypeId};

/// A notifier of either kind. That a value is of one kind is decided by which of two calls registers it.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a, A: Address> {
    Range(&'a dyn Notifier<A>),
    Tlb(&'a dyn SecondaryTlb<A>),
}

impl<A: Address> Kind<'_, A> {
    fn release(self) {
        match self {
            Kind::Range(notifier) => notifier.release(),
            Kind::Tlb(tlb) => tlb.release(),
        }
    }
}

type Members<A> = Vec<Arc<dyn AnyMember<A>>>;

/// What changes the list, one at a time.
struct Writer<A: Address> {
    members: Members<A>,
    /// Those of `members` that are shared by their type, as [`OneOfType`]s: one each.
    shared: Vec<Box<dyn Any + Send + Sync>>,
    /// Of which types one is being made.
    making: Vec<TypeId>,
    released: bool,
}

/// All notifiers of a space.
pub(crate) struct Notifiers<A: Address> {
    /// How many there are, those in the graveyard included: a space without any pays one load for them.
    count: AtomicUsize,
    /// Oldest first.
    list: List<Arc<dyn AnyMember<A>>>,
    writer: Mutex<Writer<A>>,
    /// Something is not being made any more.
    made: Condvar,
    graveyard: Graveyard<A>,
}

/// A notifier that is shared by its type: the member of the list, and the notifier for whoever has a handle.
pub(crate) struct OneOfType<N, A: Address> {
    pub(crate) member: Arc<Member<Arc<N>, A>>,
    pub(crate) notifier: Arc<N>,
}

impl<N, A: Address> Clone for OneOfType<N, A> {
    fn clone(&self) -> Self {
        OneOfType { member: Arc::clone(&self.member), notifier: Arc::clone(&self.notifier) }
    }
}

/// Why a notifier that is shared by its type cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetRefused {
    Released,
    TooManyUsers,
}

impl<A: Address> Notifiers<A> {
    pub(crate) fn new() -> Self {
        Notifiers {
            count: AtomicUsize::new(0),
            list: List::new(),
            writer: Mutex::new(Writer { members: Vec::new(), shared: Vec::new(), making: Vec::new(), released: false }),
            graveyard: Graveyard::new(),
            made: Condvar::new(),
        }
    }

    fn push(&self, writer: &mut Writer<A>, member: Arc<dyn AnyMember<A>>) {
        writer.members.push(member);
        self.list.store(writer.members.clone());
        // Relaxed: see `load`.
        self.count.fetch_add(1, Relaxed);
    }

    /// The present list, or nothing at the cost of one load.
    fn load(&self) -> Option<Arc<Members<A>>> {
        // Relaxed: that a start sees a registration which does not see the start's slot, both the count and the list, is the
        // fences' work: `Slot::open` comes before this, and `Slots::active_over` after `push`. What is in the list is the
        // list's own to hand on.
        (self.count.load(Relaxed) != 0).then(|| self.list.load())
    }

    /// Adds a member; false if the space is released.
    pub(crate) fn add(&self, member: Arc<dyn AnyMember<A>>) -> bool {
        let mut writer = lock(&self.writer);
        if writer.released {
            return false;
        }
        self.push(&mut writer, member);
        true
    }

    /// The one of its type, with one more user, or else the one that `make` makes. If one is being made, waits for it.
    pub(crate) fn get_or_add<N: Notifier<A>>(
        &self,
        space: u64,
        make: impl FnOnce() -> N,
    ) -> Result<OneOfType<N, A>, GetRefused> {
        if let Some(found) = self.get_or_reserve()? {
            return Ok(found);
        }
        // From here on the type is ours, also if `make` panics.
        let reserved = Reserved { notifiers: self, of: TypeId::of::<N>() };
        let notifier = {
            // It may not wait for anybody here: not for itself, nor for those who wait for it.
            let _inside = Holding::new(space);
            Arc::new(make())
        };
        let one = OneOfType { member: Arc::new(Member::new(Arc::clone(&notifier), |one| Kind::Range(one))), notifier };
        let mut writer = lock(&self.writer);
        if writer.released {
            drop(writer);
            return Err(GetRefused::Released);
        }
        writer.shared.push(Box::new(one.clone()));
        self.push(&mut writer, Arc::clone(&one.member) as _);
        drop(writer);
        drop(reserved);
        Ok(one)
    }

    /// The one of its type, with one more user; or nothing, and then the caller makes one.
    fn get_or_reserve<N: Notifier<A>>(&self) -> Result<Option<OneOfType<N, A>>, GetRefused> {
        let mut writer = lock(&self.writer);
        loop {
            if writer.released {
                return Err(GetRefused::Released);
            }
            if let Some(found) = writer.shared.iter().find_map(|any| any.downcast_ref::<OneOfType<N, A>>()) {
                return add_user(&found.member).map(|()| Some(found.clone()));
            }
            if !writer.making.contains(&TypeId::of::<N>()) {
                writer.making.push(TypeId::of::<N>());
                return Ok(None);
            }
            writer = wait_until(&self.made, writer, None);
        }
    }

    /// One more user of a member that is shared by its type.
    pub(crate) fn get<N>(&self, member: &Member<N, A>) -> Result<(), GetRefused> {
        let _writer = lock(&self.writer);
        add_user(member)
    }

    /// One user less; the last one takes the member out of the list. Was it the last? The caller has given up what it had
    /// of the notifier.
    pub(crate) fn put<N: Notifier<A>>(&self, member: &Arc<Member<Arc<N>, A>>) -> bool {
        let mut writer = lock(&self.writer);
        // Relaxed: under the lock.
        if member.users.fetch_sub(1, Relaxed) != 1 {
            return false;
        }
        writer.shared.retain(|any| !any.is::<OneOfType<N, A>>());
        self.remove_from(&mut writer, Arc::as_ptr(member).cast());
        true
    }

    /// Takes the member out of the list: no start that comes now calls it.
    pub(crate) fn remove<N>(&self, member: &Arc<Member<N, A>>) {
        self.remove_from(&mut lock(&self.writer), Arc::as_ptr(member).cast());
    }

    fn remove_from(&self, writer: &mut Writer<A>, member: *const ()) {
        writer.members.retain(|listed| Arc::as_ptr(listed).cast::<()>() != member);
        self.list.store(writer.members.clone());
    }

    /// A notifier that has left the list is dropped, or with its owner again.
    pub(crate) fn forget_one(&self) {
        // Relaxed: whether anybody looks at an empty list once more does not matter.
        self.count.fetch_sub(1, Relaxed);
    }

    // ---- calls

    /// Tells everybody that an invalidation starts, newest first. If one refuses or panics, those that were told are
    /// told of its end.
    pub(crate) fn start(
        &self,
        change: impl FnOnce() -> Change<A>,
        space: u64,
    ) -> Result<Option<Started<A>>, WouldBlock> {
        let Some(members) = self.load() else { return Ok(None) };
        let mut started = Started { told: members.len(), members, change: change(), space };
        let _inside = Holding::new(space);
        while let Some(next) = started.told.checked_sub(1) {
            let mut answer = Ok(());
            started.members[next].call(&mut |kind| {
                if let Kind::Range(notifier) = kind {
                    answer = notifier.start(&started.change);
                    assert!(answer.is_ok() || !started.change.blockable, "a notifier must not refuse what may block");
                }
            });
            answer?;
            started.told = next;
        }
        Ok(Some(started))
    }

    /// Shows everybody to `call`, newest first, until it is content. A panic goes on when all have been called: what is
    /// to be flushed cannot be undone.
    pub(crate) fn visit(&self, space: u64, mut call: impl FnMut(Kind<'_, A>) -> bool) -> bool {
        let Some(members) = self.load() else { return false };
        let _inside = Holding::new(space);
        let panics = Panics::default();
        let mut content = false;
        members.iter().rev().any(|member| {
            panics.catch(|| member.call(&mut |kind| content = call(kind)));
            content
        });
        panics.resume();
        content
    }

    /// Refuses newcomers from now on.
    pub(crate) fn close(&self) {
        lock(&self.writer).released = true;
    }

    /// Tells everybody of the release who has not heard of it, newest first. It has been `close`d. If it `may_wait`, all of
    /// them have heard it and no callback of theirs runs when this returns, whoever else has told them.
    pub(crate) fn release(&self, space: u64, may_wait: bool, panics: &Panics) {
        let Some(members) = self.load() else { return };
        for member in members.iter().rev() {
            panics.catch(|| {
                let _inside = Holding::new(space);
                member.release(may_wait);
            });
        }
        if may_wait {
            members.iter().for_each(|member| member.wait_uncalled());
        }
    }

    // ---- ends of life

    /// Leaves the notifier of a member that has left the list to the next [`sweep`](Self::sweep).
    pub(crate) fn bury(&self, member: Arc<dyn AnyMember<A>>) {
        self.graveyard.bury(member);
    }

    /// Is anything in the graveyard? A hint.
    pub(crate) fn has_buried(&self) -> bool {
        self.graveyard.has_buried()
    }

    /// Drops what is buried and is not called just now. The caller holds no lock that the drop of a notifier may want.
    pub(crate) fn sweep(&self, space: u64) {
        self.graveyard.sweep(space, || self.forget_one());
    }

    /// Waits until every notifier that was put before has been dropped.
    pub(crate) fn synchronize(&self, space: u64) {
        self.graveyard.synchronize(space, || self.forget_one());
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Relaxed)
    }
}

/// The right to make the one of a type.
struct Reserved<'n, A: Address> {
    notifiers: &'n Notifiers<A>,
    of: TypeId,
}

impl<A: Address> Drop for Reserved<'_, A> {
    fn drop(&mut self) {
        lock(&self.notifiers.writer).making.retain(|of| *of != self.of);
        self.notifiers.made.notify_all();
    }
}

/// Notifiers that have been told of a start, and are told of the end when this is dropped: oldest first, the reverse of
/// the starts. Those that were removed meanwhile are not.
pub(crate) struct Started<A: Address> {
    members: Arc<Members<A>>,
    /// From here to the end of the list.
    told: usize,
    change: Change<A>,
    space: u64,
}

impl<A: Address> Started<A> {
    fn end(&self, member: &dyn AnyMember<A>) {
        member.call(&mut |kind| {
            if let Kind::Range(notifier) = kind {
                notifier.end(&self.change);
            }
        });
    }
}

impl<A: Address> Drop for Started<A> {
    /// All are told; a panic of one goes on when they have been.
    fn drop(&mut self) {
        let _inside = Holding::new(self.space);
        let panics = Panics::default();
        for member in &self.members[self.told..] {
            panics.catch(|| self.end(&**member));
        }
        panics.resume();
    }
}

/// One more user; under the writer's lock.
fn add_user<N, A: Address>(member: &Member<N, A>) -> Result<(), GetRefused> {
    let more = member.users.load(Relaxed).checked_add(1).ok_or(GetRefused::TooManyUsers)?;
    member.users.store(more, Relaxed);
    Ok(())
}
