//! Whole-space notifiers: callbacks that are not tied to a range.
//!
//! A [`Notifier`] hears every start and every end in its space, and answers for the age of pages; a [`SecondaryTlb`] hears
//! where translations must be flushed. They see everything and so cost every invalidation a call; a mirror of a range
//! is better served by [`subscribe`](AddressSpace::subscribe).

use crate::error::{BeginError, InsideCallback, RegisterError, RegisterErrorKind, WouldBlock};
use crate::event::Change;
use crate::held::Holding;
use crate::notifiers::{AnyMember, GetRefused, Kind, Member, Notifiers, OneOfType};
use crate::panics::Panics;
use crate::primary::AddressSpace;
use crate::range::{Address, Span};
use crate::sync::Arc;
use crate::sync::atomic::Ordering::*;
use std::fmt;
use std::ops::RangeBounds;

/// Callbacks for a whole address space.
///
/// They run on the thread that causes them, one after the other for one cause, at the same time for several, and under no
/// lock that anything they may do would wait for. All have an empty body unless you give them one.
///
/// A panic of one goes on when all others have been called, except in a start, which is undone.
///
/// # Order
///
/// A start is told after all subscriptions have been called back, newest notifier first; the end is told in the
/// reverse order, before readers of the subscriptions go on.
///
/// # Rules
///
/// Inside these callbacks nothing may be waited for that waits for them: `unregister`, `unsubscribe` and
/// [`synchronize`](AddressSpace::synchronize) are errors here. Dropping a handle is legal. A notifier that panics is not
/// called any more.
#[doc(alias = "mmu_notifier_ops")]
pub trait Notifier<A: Address = u64>: Send + Sync + 'static {
    /// A range is about to change; until [`end`](Self::end) nothing may be mapped in it.
    ///
    /// # Errors
    ///
    /// [`Change::would_block`], if the invalidation may not block and this would: then it does not happen, and all who
    /// were told of the start are told of the end, this one not.
    #[doc(alias = "invalidate_range_start")]
    fn start(&self, change: &Change<A>) -> Result<(), WouldBlock> {
        let _ = change;
        Ok(())
    }

    /// The range has changed, or the start was refused by somebody else. Told to those who have accepted the start,
    /// once each.
    #[doc(alias = "invalidate_range_end")]
    fn end(&self, change: &Change<A>) {
        let _ = change;
    }

    /// Has the device used the range since it was last asked? Forgets that it has, and flushes the device's TLB.
    fn clear_flush_young(&self, range: Span<A>) -> bool {
        let _ = range;
        false
    }

    /// The same, but the flush may be left out: a page that looks old too early does no harm.
    fn clear_young(&self, range: Span<A>) -> bool {
        let _ = range;
        false
    }

    /// Has the device used the address? Changes nothing.
    fn test_young(&self, address: A) -> bool {
        let _ = address;
        false
    }

    /// The space is released, or this notifier is unregistered: let go of everything.
    ///
    /// Other callbacks may still be called while this runs, and run on when it has returned; they are over when
    /// [`AddressSpace::release`] or [`Registration::unregister`] returns. Afterwards nothing is told any more, nor the
    /// end of what has started before: whoever counts them starts anew. Called exactly once, unless the notifier is
    /// [shared by its type](AddressSpace::get_or_register) and is dropped by its users before, or has panicked.
    fn release(&self) {}
}

/// A device's TLB that shares the owner's page tables, and has only to be flushed where the owner flushes its own.
///
/// A trait of its own: what shares page tables needs no start and end, and what has page tables of its own is not
/// helped by a flush. The kernel refuses a notifier with both at run time.
#[doc(alias = "arch_invalidate_secondary_tlbs")]
pub trait SecondaryTlb<A: Address = u64>: Send + Sync + 'static {
    /// Flushes the range. It must not sleep.
    #[doc(alias = "invalidate_range")]
    fn invalidate(&self, range: Span<A>);

    /// As [`Notifier::release`].
    fn release(&self) {}
}

/// What is pointed to is called.
macro_rules! call_through {
    ($($pointer:ident),*) => {$(
        impl<A: Address, N: Notifier<A> + ?Sized> Notifier<A> for $pointer<N> {
            fn start(&self, change: &Change<A>) -> Result<(), WouldBlock> {
                (**self).start(change)
            }
            fn end(&self, change: &Change<A>) {
                (**self).end(change);
            }
            fn clear_flush_young(&self, range: Span<A>) -> bool {
                (**self).clear_flush_young(range)
            }
            fn clear_young(&self, range: Span<A>) -> bool {
                (**self).clear_young(range)
            }
            fn test_young(&self, address: A) -> bool {
                (**self).test_young(address)
            }
            fn release(&self) {
                (**self).release();
            }
        }

        impl<A: Address, N: SecondaryTlb<A> + ?Sized> SecondaryTlb<A> for $pointer<N> {
            fn invalidate(&self, range: Span<A>) {
                (**self).invalidate(range);
            }
            fn release(&self) {
                (**self).release();
            }
        }
    )*};
}
call_through!(Arc, Box);

impl From<GetRefused> for RegisterErrorKind {
    fn from(refused: GetRefused) -> Self {
        match refused {
            GetRefused::Released => RegisterErrorKind::Released,
            GetRefused::TooManyUsers => RegisterErrorKind::TooManyHandles,
        }
    }
}

impl From<BeginError> for RegisterErrorKind {
    fn from(refused: BeginError) -> Self {
        match refused {
            BeginError::InsideInvalidation => RegisterErrorKind::InsideInvalidation,
            _ => RegisterErrorKind::InsideCallback,
        }
    }
}

impl<A: Address> AddressSpace<A> {
    /// Registers a notifier. Every invalidation that starts after this has returned is told to it.
    ///
    /// # Blocking
    ///
    /// Waits for the invalidations that are active: it hears no end of what it has not heard the start of, and nothing is
    /// half-way when this returns.
    ///
    /// # Errors
    ///
    /// If the space is released, or if this would wait for itself; the notifier is given back.
    #[doc(alias = "mmu_notifier_register")]
    pub fn register<N: Notifier<A>>(&self, notifier: N) -> Result<Registration<N, A>, RegisterError<N>> {
        self.add(notifier, |notifier| Kind::Range(notifier))
    }

    /// Registers a secondary TLB; otherwise as [`register`](Self::register).
    ///
    /// # Errors
    ///
    /// As `register`.
    pub fn register_tlb<N: SecondaryTlb<A>>(&self, tlb: N) -> Result<Registration<N, A>, RegisterError<N>> {
        self.add(tlb, |tlb| Kind::Tlb(tlb))
    }

    fn add<N: Send + Sync + 'static>(
        &self,
        notifier: N,
        kind: for<'a> fn(&'a N) -> Kind<'a, A>,
    ) -> Result<Registration<N, A>, RegisterError<N>> {
        if let Err(refused) = self.shared.may_wait_for_all() {
            return Err(RegisterError { notifier, kind: refused.into() });
        }
        let member = Arc::new(Member::new(notifier, kind));
        if !self.shared.notifiers.add(Arc::clone(&member) as _) {
            let notifier = member.take().expect("nobody has seen it");
            return Err(RegisterError { notifier, kind: RegisterErrorKind::Released });
        }
        self.shared.wait_for_all();
        self.shared.sweep_notifiers();
        Ok(Registration { member: Some(member), space: self.clone() })
    }

    /// The one notifier of type `N` in this space: the one that is there, or the one that `make` makes.
    ///
    /// Cloning the handle is a further *get*, dropping it is a *put*; the last put takes the notifier out, and it is dropped
    /// when nobody calls it any more, without its `release` being called. Notifiers that were
    /// [registered](Self::register) are not found by this. Its `Drop` keeps the rules of callbacks: it may drop handles, but
    /// not wait.
    ///
    /// # Blocking
    ///
    /// As [`register`](Self::register), for the first. Others who ask for this type wait until `make` has returned. It runs
    /// as if in a callback: what waits is an error there, so it cannot ask for another type.
    ///
    /// # Errors
    ///
    /// As `register`; and if there are too many handles.
    #[doc(alias = "mmu_notifier_get")]
    pub fn get_or_register<N: Notifier<A>>(
        &self,
        make: impl FnOnce() -> N,
    ) -> Result<SharedNotifier<N, A>, RegisterErrorKind> {
        self.shared.may_wait_for_all()?;
        let handle = SharedNotifier::new(self.shared.notifiers.get_or_add(self.shared.id, make)?, self);
        // Acquire, Release: whoever finds it ready need not wait for what the first one has waited for.
        if !handle.member.ready.load(Acquire) {
            self.shared.wait_for_all();
            handle.member.ready.store(true, Release);
        }
        Ok(handle)
    }

    /// Waits until every notifier whose last handle was dropped before this call has been dropped itself.
    ///
    /// The kernel's waits for a grace period only; this is a barrier: afterwards no code of such a notifier will run, and
    /// what it owned is gone.
    ///
    /// # Blocking
    ///
    /// Waits for callbacks that run just now.
    ///
    /// # Errors
    ///
    /// Inside a callback of the space, or under a mirror lock of it: it might wait for itself.
    #[doc(alias = "mmu_notifier_synchronize")]
    pub fn synchronize(&self) -> Result<(), InsideCallback<()>> {
        if !self.shared.may_wait() {
            return Err(InsideCallback(()));
        }
        self.shared.notifiers.synchronize(self.shared.id);
        self.shared.sweep();
        Ok(())
    }

    /// Has any device used the range? All are asked, forget it, and flush. An empty range is not young.
    #[doc(alias = "mmu_notifier_clear_flush_young")]
    pub fn clear_flush_young(&self, range: impl RangeBounds<A>) -> bool {
        self.ask_all(range, |notifier, span| notifier.clear_flush_young(span))
    }

    /// Has any device used the range? All are asked, and forget it.
    #[doc(alias = "mmu_notifier_clear_young")]
    pub fn clear_young(&self, range: impl RangeBounds<A>) -> bool {
        self.ask_all(range, |notifier, span| notifier.clear_young(span))
    }

    fn ask_all(&self, range: impl RangeBounds<A>, ask: impl Fn(&dyn Notifier<A>, Span<A>) -> bool) -> bool {
        let Some(span) = Span::new(range) else { return false };
        let mut young = false;
        self.shared.visit(|kind| {
            if let Kind::Range(notifier) = kind {
                young |= ask(notifier, span);
            }
            false
        });
        young
    }

    /// Has any device used the address? Asks until one says yes.
    #[doc(alias = "mmu_notifier_test_young")]
    pub fn test_young(&self, address: A) -> bool {
        self.shared.visit(|kind| match kind {
            Kind::Range(notifier) => notifier.test_young(address),
            Kind::Tlb(_) => false,
        })
    }

    /// Flushes the secondary TLBs: to be called where the owner flushes its own, between the change and its end.
    #[doc(alias = "mmu_notifier_arch_invalidate_secondary_tlbs")]
    pub fn invalidate_tlbs(&self, range: impl RangeBounds<A>) {
        let Some(span) = Span::new(range) else { return };
        self.shared.visit(|kind| {
            if let Kind::Tlb(tlb) = kind {
                tlb.invalidate(span);
            }
            false
        });
    }
}

/// A registered notifier. Dropping it unregisters it.
///
/// # Blocking
///
/// Dropping it waits as [`unregister`](Self::unregister) does; inside a callback of the space it does not, and the notifier
/// is dropped later.
#[must_use = "dropping it unregisters the notifier"]
pub struct Registration<N: Send + Sync + 'static, A: Address = u64> {
    /// There until it ends.
    member: Option<Arc<Member<N, A>>>,
    space: AddressSpace<A>,
}

impl<N: Send + Sync + 'static, A: Address> Registration<N, A> {
    /// Unregisters the notifier and gives it back. When it returns no callback of it runs, and none will. If it has not
    /// been told of a release yet, it is told now.
    ///
    /// # Blocking
    ///
    /// Waits for its callbacks that run just now; not for the end of any invalidation. Between start and end it is
    /// legal; the end is then not told.
    ///
    /// # Errors
    ///
    /// Inside a callback of the space, or under a mirror lock of it: it might wait for itself. It is given back.
    #[doc(alias = "mmu_notifier_unregister")]
    pub fn unregister(mut self) -> Result<N, InsideCallback<Self>> {
        match self.member.take_if(|_| self.space.shared.may_wait()) {
            Some(member) => Ok(self.remove(&member)),
            None => Err(InsideCallback(self)),
        }
    }

    /// Takes the notifier out, which is given back when nobody calls it any more. The caller `may_wait`.
    fn remove(&self, member: &Arc<Member<N, A>>) -> N {
        let panics = Panics::default();
        panics.catch(|| self.unlink(member, true));
        let notifier = member.take().expect("only the registration takes the notifier out");
        self.space.shared.notifiers.forget_one();
        panics.catch(|| self.space.shared.sweep_notifiers());
        panics.resume();
        notifier
    }

    /// Tells the notifier that it is released, and takes it out of the list.
    fn unlink(&self, member: &Arc<Member<N, A>>, may_wait: bool) {
        let shared = &self.space.shared;
        // It is told of starts until it has let go: as long as it is in the list. It leaves the list in any case.
        let _listed = Listed { notifiers: &shared.notifiers, member };
        let _inside = Holding::new(shared.id);
        member.release(may_wait);
    }
}

/// Takes a member out of the list when it is dropped.
struct Listed<'a, N, A: Address> {
    notifiers: &'a Notifiers<A>,
    member: &'a Arc<Member<N, A>>,
}

impl<N, A: Address> Drop for Listed<'_, N, A> {
    fn drop(&mut self) {
        self.notifiers.remove(self.member);
    }
}

impl<N: Send + Sync + 'static, A: Address> Drop for Registration<N, A> {
    fn drop(&mut self) {
        let Some(member) = self.member.take() else { return };
        if self.space.shared.may_wait() {
            drop(self.remove(&member));
        } else {
            let panics = Panics::default();
            panics.catch(|| self.unlink(&member, false));
            self.space.shared.notifiers.bury(member);
            panics.resume();
        }
    }
}

impl<N: Send + Sync + 'static, A: Address> fmt::Debug for Registration<N, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("space", &self.space).finish_non_exhaustive()
    }
}

/// A handle of the one notifier of its type in a space.
#[doc(alias = "mmu_notifier_put")]
#[must_use = "dropping the last handle takes the notifier out"]
pub struct SharedNotifier<N: Notifier<A>, A: Address = u64> {
    /// There until it is put.
    notifier: Option<Arc<N>>,
    member: Arc<Member<Arc<N>, A>>,
    space: AddressSpace<A>,
}

impl<N: Notifier<A>, A: Address> SharedNotifier<N, A> {
    fn new(one: OneOfType<N, A>, space: &AddressSpace<A>) -> Self {
        SharedNotifier { notifier: Some(one.notifier), member: one.member, space: space.clone() }
    }

    /// A further handle.
    ///
    /// # Errors
    ///
    /// [`RegisterErrorKind::TooManyHandles`]. (`clone` panics then.)
    #[doc(alias = "mmu_notifier_get")]
    pub fn get(&self) -> Result<Self, RegisterErrorKind> {
        self.space.shared.notifiers.get(&self.member)?;
        let SharedNotifier { notifier, member, space } = self;
        Ok(SharedNotifier { notifier: notifier.clone(), member: Arc::clone(member), space: space.clone() })
    }

    /// Shows the notifier to `look`. Blocks nobody and waits for nobody.
    pub fn with<R>(&self, look: impl FnOnce(&N) -> R) -> R {
        look(self.notifier.as_ref().expect("it is there until it is put"))
    }
}

impl<N: Notifier<A>, A: Address> Clone for SharedNotifier<N, A> {
    /// # Panics
    ///
    /// If there are too many handles; see [`get`](Self::get).
    fn clone(&self) -> Self {
        self.get().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl<N: Notifier<A>, A: Address> Drop for SharedNotifier<N, A> {
    fn drop(&mut self) {
        let shared = &self.space.shared;
        // Before it is put: whoever takes it out then has the last one, and drops it.
        self.notifier = None;
        if shared.notifiers.put(&self.member) {
            shared.notifiers.bury(Arc::clone(&self.member) as _);
            shared.sweep_notifiers();
        }
    }
}

impl<N: Notifier<A>, A: Address> fmt::Debug for SharedNotifier<N, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedNotifier").field("space", &self.space).finish_non_exhaustive()
    }
}
