//! The end of a space, for subscriptions and notifiers: in order, exactly once each, whatever races with it.

use super::toy::{Sub, Toy, one};
use super::{explore, spawn, thread};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, Change, Notifier, SecondaryTlb, Span, WouldBlock};

/// Counts what it hears; in order of the whole space if it has a log.
#[derive(Default)]
struct Ear {
    name: usize,
    log: Arc<Mutex<Vec<usize>>>,
    released: AtomicU64,
    starts: AtomicU64,
}

impl Ear {
    fn new(name: usize, log: &Arc<Mutex<Vec<usize>>>) -> Arc<Self> {
        Arc::new(Ear { name, log: log.clone(), ..Ear::default() })
    }

    fn hear_release(&self) {
        lock(&self.log).push(self.name);
        self.released.fetch_add(1, Relaxed);
    }
}

impl Notifier for Ear {
    fn start(&self, _: &Change) -> Result<(), WouldBlock> {
        assert_eq!(self.released.load(Relaxed), 0, "called after its release");
        self.starts.fetch_add(1, Relaxed);
        Ok(())
    }
    fn release(&self) {
        self.hear_release();
    }
}

impl SecondaryTlb for Ear {
    fn invalidate(&self, _: Span) {}
    fn release(&self) {
        self.hear_release();
    }
}

#[test]
fn a_notifier_hears_one_release_when_it_is_unregistered_meanwhile() {
    explore(&[], |_| {
        let (space, ear) = (AddressSpace::new(), Ear::new(1, &Arc::default()));
        let registration = space.register(ear.clone()).unwrap();
        let owner = spawn!([space] space.release());
        let back = registration.unregister().unwrap();
        // Read without a lock: `unregister` has waited for it, whoever called it.
        assert_eq!(back.released.load(Relaxed), 1);
        assert_eq!(Arc::strong_count(&ear), 2, "the library keeps no copy");
        owner.join().unwrap();
        assert_eq!(ear.released.load(Relaxed), 1);
    });
}

#[test]
fn a_shared_notifier_hears_at_most_one_release_when_it_is_put_meanwhile() {
    explore(&["released", "put before"], |seen| {
        let space = AddressSpace::new();
        let ear = Ear::new(1, &Arc::default());
        let shared = space.get_or_register(|| ear.clone()).unwrap();
        let owner = spawn!([space] space.release());
        drop(shared);
        owner.join().unwrap();
        space.synchronize().unwrap();
        assert_eq!(Arc::strong_count(&ear), 1, "it has been dropped");
        let released = ear.released.load(Relaxed);
        seen.note(["put before", "released"][usize::try_from(released).unwrap()]);
    });
}

#[test]
fn a_subscription_hears_one_release_at_most_when_it_is_unsubscribed_meanwhile() {
    explore(&["heard", "unsubscribed before"], |seen| {
        let space = AddressSpace::new();
        let sub = Sub::new(&space, u64::MAX..=u64::MAX, &Toy::new());
        let owner = spawn!([space] space.release());
        let toy = sub.unshared().unsubscribe().unwrap();
        let calls = toy.calls();
        owner.join().unwrap();
        assert_eq!(toy.calls(), calls, "heard after `unsubscribe` had returned");
        seen.note(["unsubscribed before", "heard"][usize::try_from(calls).unwrap()]);
    });
}

#[test]
fn two_releases_at_once_are_heard_once() {
    explore(&[], |_| {
        let (space, sub, _) = one();
        let ear = Ear::new(1, &Arc::default());
        let _registration = space.register(ear.clone()).unwrap();
        let other = spawn!([space] space.release());
        space.release();
        other.join().unwrap();
        assert_eq!((sub.ops().calls(), ear.released.load(Relaxed)), (1, 1));
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "three threads: too slow with the real epoch")]
fn release_and_unregister_and_unsubscribe_at_once() {
    explore(&["heard", "unsubscribed before"], |seen| {
        let (space, sub, _) = one();
        let ear = Ear::new(1, &Arc::default());
        let registration = space.register(ear.clone()).unwrap();
        let (toy, sub) = (sub.ops().clone(), sub.unshared());
        let unsubscriber = thread::spawn(move || drop(sub));
        let unregisterer = thread::spawn(move || drop(registration));
        space.release();
        unsubscriber.join().unwrap();
        unregisterer.join().unwrap();
        assert_eq!(ear.released.load(Relaxed), 1);
        assert_eq!((Arc::strong_count(&toy), Arc::strong_count(&ear)), (1, 1), "nothing is left behind");
        seen.note(["unsubscribed before", "heard"][usize::try_from(toy.calls()).unwrap()]);
    });
}

#[test]
fn a_registration_during_a_release_hears_it_or_is_refused() {
    explore(&["refused", "heard"], |seen| {
        let (space, ear) = (AddressSpace::new(), Ear::new(1, &Arc::default()));
        let owner = spawn!([space] space.release());
        let registered = space.register(ear.clone());
        owner.join().unwrap();
        assert_eq!(ear.released.load(Relaxed), u64::from(registered.is_ok()));
        seen.note(if registered.is_ok() { "heard" } else { "refused" });
    });
}

/// What one thread can show: there is nothing to explore in it.
#[cfg(not(any(loom, shuttle)))]
mod alone {
    use super::*;
    use crate::tests::toy::{CLEAR, PAGE};
    use crate::{BeginError, EventKind, RegisterErrorKind, SubscribeErrorKind};

    #[test]
    fn subscriptions_hear_it_ascending_then_notifiers_newest_first() {
        let (space, log) = (AddressSpace::new(), Arc::default());
        let sub = |name, range: std::ops::RangeInclusive<u64>| {
            let log: Arc<Mutex<Vec<usize>>> = Arc::clone(&log);
            let toy = Toy::meeting(move |call| {
                assert_eq!((call.event().kind(), call.range()), (EventKind::Release, Span::new(..).unwrap()));
                lock(&log).push(name);
                Ok(())
            });
            Sub::new(&space, range, &toy)
        };
        let _subs = [sub(3, u64::MAX..=u64::MAX), sub(1, 0..=0), sub(2, 1..=u64::MAX - 1)];
        let _registered = (space.register(Ear::new(6, &log)), space.register_tlb(Ear::new(5, &log)));
        let _newest = space.register(Ear::new(4, &log));
        space.release();
        // Kernel row 33: there, the last address hears nothing.
        assert_eq!(*lock(&log), [1, 2, 3, 4, 5, 6]);
        space.release();
        assert_eq!(lock(&log).len(), 6, "once");
    }

    #[test]
    fn afterwards_newcomers_are_refused_and_keep_what_they_brought() {
        let (space, sub, _) = one();
        let shared = space.get_or_register(Ear::default).unwrap();
        space.release();
        let (ear, toy) = (Ear::new(1, &Arc::default()), Toy::new());
        let error = space.register(ear.clone()).unwrap_err();
        assert_eq!((error.kind, Arc::strong_count(&ear)), (RegisterErrorKind::Released, 2));
        assert!(Arc::ptr_eq(&error.notifier, &ear));
        assert_eq!(space.register_tlb(ear.clone()).unwrap_err().kind, RegisterErrorKind::Released);
        assert_eq!(space.get_or_register(Ear::default).unwrap_err(), RegisterErrorKind::Released, "nor found again");
        let error = space.subscribe(PAGE, toy.clone()).unwrap_err();
        assert!(error.kind == SubscribeErrorKind::Released && Arc::ptr_eq(&error.ops, &toy));
        assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Released);
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(shared.with(|ear| (ear.released.load(Relaxed), ear.starts.load(Relaxed))), (1, 0));
        assert_eq!(sub.ops().calls(), 2, "a subscription is still called, as in the kernel");
    }
}
