//! What a notifier's release means to everybody else: until it has let go it is told of what starts, and when the call
//! that caused it returns, nothing of it runs.

use super::toy::{CLEAR, PAGE};
use super::{explore, spawn, thread};
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, Change, Notifier, Registration, WouldBlock};

/// What a [`Device`] is doing.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct State {
    /// Starts that have been told, and of these those that have returned.
    begun: u64,
    returned: u64,
    letting_go: bool,
    has_let_go: bool,
}

/// Takes its time over everything.
#[derive(Default)]
struct Device(Mutex<State>);

impl Device {
    fn state(&self) -> State {
        *lock(&self.0)
    }
}

impl Notifier for Device {
    fn start(&self, _: &Change) -> Result<(), WouldBlock> {
        lock(&self.0).begun += 1;
        thread::yield_now();
        lock(&self.0).returned += 1;
        Ok(())
    }
    fn release(&self) {
        lock(&self.0).letting_go = true;
        thread::yield_now();
        let mut state = lock(&self.0);
        (state.letting_go, state.has_let_go) = (false, true);
    }
}

fn registered() -> (AddressSpace, Arc<Device>, Registration<Arc<Device>>) {
    let (space, device) = (AddressSpace::new(), Arc::<Device>::default());
    let registration = space.register(device.clone()).expect("nothing is in the way");
    (space, device, registration)
}

/// Starts an invalidation, which must be told to the device if it is letting go all the while.
fn start_meanwhile(space: &AddressSpace, device: &Device) -> &'static str {
    let before = device.state();
    let open = space.invalidate(PAGE, CLEAR);
    let after = device.state();
    drop(open);
    let told = after.begun > before.begun;
    if before.letting_go && after.letting_go {
        assert!(told, "changed behind the back of one that has not let go");
        return "while it let go";
    }
    if told { "told" } else { "not told" }
}

#[test]
fn starts_are_told_while_an_unregistered_notifier_lets_go() {
    explore(&["while it let go", "told", "not told"], |seen| {
        let (space, device, registration) = registered();
        let other = spawn!([] drop(registration));
        seen.note(start_meanwhile(&space, &device));
        other.join().unwrap();
    });
}

#[test]
fn starts_are_told_while_the_notifiers_of_a_released_space_let_go() {
    explore(&["while it let go", "told", "not told"], |seen| {
        let (space, device, _registration) = registered();
        let other = spawn!([space] space.release());
        seen.note(start_meanwhile(&space, &device));
        other.join().unwrap();
    });
}

#[test]
fn a_release_waits_for_one_that_lets_go_because_it_is_unregistered() {
    explore(&[], |_| {
        let (space, device, registration) = registered();
        let other = spawn!([] drop(registration));
        space.release();
        assert!(device.state().has_let_go, "the space is gone, and a notifier has not let go of it");
        other.join().unwrap();
    });
}

#[test]
fn an_unregistration_waits_for_one_that_lets_go_because_the_space_is_released() {
    explore(&[], |_| {
        let (space, device, registration) = registered();
        let other = spawn!([space] space.release());
        drop(registration);
        assert!(device.state().has_let_go, "it is unregistered, and has not let go");
        other.join().unwrap();
    });
}

#[test]
fn no_callback_runs_on_when_a_release_has_returned() {
    explore(&["told", "not told"], |seen| {
        let (space, device, _registration) = registered();
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.release();
        let then = device.state();
        assert_eq!(then.begun, then.returned, "one that began before it is still running");
        other.join().unwrap();
        assert_eq!(device.state(), then, "told afterwards");
        seen.note(if then.begun == 0 { "not told" } else { "told" });
    });
}

/// What one thread can show: there is nothing to explore in it.
#[cfg(not(any(loom, shuttle)))]
mod alone {
    use super::*;
    use crate::tests::toy::{Sub, Toy};
    use crate::{Ack, Call, Finish, Invalidate, SecondaryTlb, Span};
    use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// What `call` panics with.
    fn panic_of(call: impl FnOnce()) -> &'static str {
        let payload = catch_unwind(AssertUnwindSafe(call)).expect_err("it panics");
        payload.downcast_ref::<&str>().expect("a string")
    }

    struct Panicky(&'static str);
    impl Notifier for Panicky {
        fn release(&self) {
            panic_any(self.0);
        }
    }
    impl SecondaryTlb for Panicky {
        fn invalidate(&self, _: Span) {}
        fn release(&self) {
            panic_any(self.0);
        }
    }

    #[test]
    fn a_panic_keeps_nobody_from_hearing_of_the_release() {
        let (space, device, _oldest) = registered();
        let first = Toy::meeting(|_| panic_any("the first"));
        let other = Toy::new();
        let subs = [Sub::new(&space, 0..=0, &first), Sub::new(&space, PAGE, &other), Sub::new(&space, 1..=1, &other)];
        let _tlb = space.register_tlb(Panicky("a secondary TLB")).unwrap();
        let _newest = space.register(Panicky("the newest")).unwrap();
        assert_eq!(panic_of(|| space.release()), "the first", "and none of the later ones");
        assert_eq!((first.calls(), other.calls()), (1, 2));
        assert!(device.state().has_let_go);
        assert!(subs.iter().all(|sub| sub.try_read_begin().is_err()), "poisoned or released");
        space.release();
        assert!(space.invalidate(5..6, CLEAR).range() == Span::new(5..6).unwrap(), "it is not wedged");
    }

    #[test]
    fn a_notifier_that_panics_when_it_is_unregistered_is_gone() {
        let space = AddressSpace::new();
        let alive = Arc::new(());
        struct Owner(Panicky, #[expect(dead_code, reason = "it is owned")] Arc<()>);
        impl Notifier for Owner {
            fn release(&self) {
                Notifier::release(&self.0);
            }
        }
        let owner = || Owner(Panicky("let go"), alive.clone());
        let registration = space.register(owner()).unwrap();
        assert_eq!(panic_of(|| drop(registration.unregister())), "let go");
        assert_eq!((Arc::strong_count(&alive), space.shared.notifiers.len()), (1, 0));
        let registration = space.register(owner()).unwrap();
        assert_eq!(panic_of(|| drop(registration)), "let go");
        assert_eq!((Arc::strong_count(&alive), space.shared.notifiers.len()), (1, 0));
    }

    #[test]
    fn one_that_was_dropped_in_a_callback_is_dropped_by_a_blocking_start_and_not_by_an_end_or_an_age_hook() {
        let (space, alive) = (AddressSpace::new(), Arc::new(()));
        struct Quiet(#[expect(dead_code, reason = "it is owned")] Arc<()>);
        impl Notifier for Quiet {}
        let drawer = Mutex::new(Some(space.register(Quiet(alive.clone())).unwrap()));
        let toy = Toy::meeting(move |_| {
            let registration = lock(&drawer).take();
            drop(registration);
            Ok(())
        });
        let _sub = Sub::new(&space, PAGE, &toy);
        space.try_invalidate(PAGE, CLEAR).expect("nobody refuses").end();
        space.test_young(0);
        space.clear_young(..);
        space.invalidate_tlbs(..);
        assert_eq!(Arc::strong_count(&alive), 2, "user code ran where the owner may hold its own locks");
        space.invalidate(.., CLEAR).end();
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    /// Panics when it is dropped, while `left` says so.
    struct Payload(&'static AtomicUsize);
    impl Drop for Payload {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
            panic_any("the payload itself");
        }
    }

    #[test]
    fn only_the_first_panic_of_many_finishes_goes_on_and_the_others_panic_no_more() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        struct Finisher(u64);
        struct Step(u64);
        impl Finish for Step {
            fn finish(self: Box<Self>) -> Option<Box<dyn Finish>> {
                if self.0 == 0 { panic_any("the first") } else { panic_any(Payload(&DROPPED)) }
            }
        }
        impl Invalidate for Finisher {
            type Locked = ();
            fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
                Ok(call.set_seq(&mut ()).with_finish(Box::new(Step(self.0))))
            }
        }
        let space = AddressSpace::new();
        let _subs: Vec<_> = (0..3).map(|n| space.subscribe(PAGE, Finisher(n)).unwrap()).collect();
        assert_eq!(panic_of(|| drop(space.invalidate(PAGE, CLEAR))), "the first");
        assert_eq!(DROPPED.load(Relaxed), 2);
    }
}
