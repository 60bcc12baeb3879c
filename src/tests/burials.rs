//! Notifiers that were put or dropped where nobody could wait: who drops them, when, and who waits for that.

use super::toy::CLEAR;
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, Change, Notifier, RegisterErrorKind, SecondaryTlb, Span};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that does not wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// Its drop says that it has come to it, and waits until it may go on.
struct Slow(Sender<()>, Mutex<Receiver<()>>);

impl Slow {
    fn new() -> (Self, Receiver<()>, Sender<()>) {
        let ((told, begun), (go_on, may)) = (channel(), channel());
        (Slow(told, Mutex::new(may)), begun, go_on)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.send(()).expect("somebody listens");
        lock(&self.1).recv_timeout(PATIENCE).expect("somebody lets it go on");
    }
}

struct Early(#[expect(dead_code, reason = "it is owned")] Slow);
impl Notifier for Early {}
struct Late(#[expect(dead_code, reason = "it is owned")] Slow);
impl Notifier for Late {}

#[test]
fn synchronize_does_not_wait_for_what_is_put_after_it() {
    let space = AddressSpace::new();
    let ((early, early_begun, early_go_on), (late, late_begun, late_go_on)) = (Slow::new(), Slow::new());
    let early = space.get_or_register(|| Early(early)).unwrap();
    let late = space.get_or_register(|| Late(late)).unwrap();
    let dropping_early = thread::spawn(|| drop(early));
    early_begun.recv().unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let waiter = thread::spawn({
        let (space, done) = (space.clone(), done.clone());
        move || {
            space.synchronize().unwrap();
            done.store(true, Release);
        }
    });
    thread::sleep(Duration::from_millis(50)); // So that it is inside; if it is not, the test shows less, and passes.
    assert!(!done.load(Acquire), "the early one is not dropped yet");
    let dropping_late = thread::spawn(|| drop(late));
    late_begun.recv().unwrap();
    early_go_on.send(()).unwrap();
    dropping_early.join().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !done.load(Acquire) && Instant::now() < deadline {
        thread::yield_now();
    }
    let in_time = done.load(Acquire);
    late_go_on.send(()).unwrap();
    dropping_late.join().unwrap();
    waiter.join().unwrap();
    assert!(in_time, "it has waited for one that was put later");
}

/// Owns something, like a handle of its own space.
struct Owner<T>(T);
impl<T: Send + Sync + 'static> Notifier for Owner<T> {}

/// Drops what it is given at the next end.
struct Dropper(Mutex<Option<Box<dyn Any + Send>>>);
impl Notifier for Dropper {
    fn end(&self, _: &Change) {
        let prey = lock(&self.0).take();
        drop(prey);
    }
}

fn dropper(prey: impl Any + Send) -> Dropper {
    Dropper(Mutex::new(Some(Box::new(prey))))
}

#[test]
fn one_that_owns_its_space_and_is_dropped_in_an_end_goes_with_the_next_registration_that_does() {
    let alive = Arc::new(());
    let space = AddressSpace::new();
    let owner = || Owner((space.clone(), alive.clone()));
    let registration = space.register(owner()).unwrap();
    let dropping = space.register(dropper(registration)).unwrap();
    space.invalidate(0..1, CLEAR).end();
    assert_eq!(Arc::strong_count(&alive), 2, "not in the end");
    drop(dropping);
    assert_eq!(Arc::strong_count(&alive), 1);

    let shared = space.get_or_register(owner).unwrap();
    let dropping = space.register(dropper(shared)).unwrap();
    space.invalidate(0..1, CLEAR).end();
    assert_eq!(Arc::strong_count(&alive), 2, "not in the end");
    let _another = space.register(dropper(())).unwrap();
    assert_eq!(Arc::strong_count(&alive), 1);
    drop(dropping);
    assert_eq!(space.shared.notifiers.len(), 1, "what is gone is not counted");
}

/// When it is asked it says so, and answers when it may.
struct Busy(Sender<()>, Mutex<Receiver<()>>);
impl Notifier for Busy {
    fn test_young(&self, _: u64) -> bool {
        self.0.send(()).expect("somebody listens");
        lock(&self.1).recv().is_ok()
    }
}

#[test]
fn synchronize_does_not_wait_for_what_is_put_by_what_it_drops() {
    let space = AddressSpace::new();
    let ((told, asked), (go_on, may)) = (channel(), channel());
    let busy = space.get_or_register(|| Busy(told, Mutex::new(may))).unwrap();
    let owner = space.register(Owner(busy)).unwrap();
    let _dropping = space.register(dropper(owner)).unwrap();
    space.invalidate(0..1, CLEAR).end();
    let asking = thread::spawn({
        let space = space.clone();
        move || space.test_young(0)
    });
    asked.recv().unwrap();

    let (done, returned) = channel();
    let waiter = thread::spawn(move || {
        space.synchronize().unwrap();
        done.send(()).unwrap();
    });
    let in_time = returned.recv_timeout(PATIENCE).is_ok();
    go_on.send(()).unwrap();
    assert!(asking.join().unwrap());
    waiter.join().unwrap();
    assert!(in_time, "it has waited for one that was put later");
}

struct First;
impl Notifier for First {}
struct Second;
impl Notifier for Second {}

#[test]
fn whoever_makes_a_shared_notifier_holds_nobody_up_and_is_told_when_it_would_wait() {
    let space = AddressSpace::new();
    let put = Mutex::new(Some(space.get_or_register(|| Second).unwrap()));
    let toy = super::toy::Toy::meeting(move |_| {
        let handle = lock(&put).take();
        drop(handle);
        Ok(())
    });
    let _sub = super::toy::Sub::new(&space, 0..=0, &toy);
    let first = space.get_or_register(|| {
        assert_eq!(space.get_or_register(|| First).unwrap_err(), RegisterErrorKind::InsideCallback, "its own type");
        assert_eq!(space.get_or_register(|| Second).unwrap_err(), RegisterErrorKind::InsideCallback, "another");
        assert_eq!(space.register(Second).unwrap_err().kind, RegisterErrorKind::InsideCallback);
        space.invalidate(0..1, CLEAR).end(); // Whose callback puts a handle.
        First
    });
    drop(first.unwrap());
    space.synchronize().unwrap();
    assert_eq!(space.shared.notifiers.len(), 0);
}

#[test]
fn whoever_panics_over_making_one_leaves_it_to_the_next() {
    let space = AddressSpace::new();
    let made = catch_unwind(AssertUnwindSafe(|| space.get_or_register::<First>(|| panic_any("cannot"))));
    assert!(made.is_err());
    drop(space.get_or_register(|| First).unwrap());
}

/// Is asked, and may panic.
struct Asked {
    calls: AtomicU64,
    panics: bool,
}

impl Asked {
    fn count(&self) {
        self.calls.fetch_add(1, Relaxed);
        if self.panics {
            panic_any("asked");
        }
    }
}

impl Notifier for Asked {
    fn clear_young(&self, _: Span) -> bool {
        self.count();
        true
    }
}

impl SecondaryTlb for Asked {
    fn invalidate(&self, _: Span) {
        self.count();
    }
}

#[test]
fn a_panic_of_one_keeps_no_other_from_being_flushed_or_asked() {
    let space = AddressSpace::new();
    let asked = |panics| Arc::new(Asked { calls: AtomicU64::new(0), panics });
    let (tlb, notifier) = (asked(false), asked(false));
    let _old = (space.register_tlb(tlb.clone()).unwrap(), space.register(notifier.clone()).unwrap());
    let _new = (space.register_tlb(asked(true)).unwrap(), space.register(asked(true)).unwrap());
    assert!(catch_unwind(AssertUnwindSafe(|| space.invalidate_tlbs(0..8))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| space.clear_young(0..8))).is_err());
    assert_eq!((tlb.calls.load(Relaxed), notifier.calls.load(Relaxed)), (1, 1));
    assert!(space.clear_young(0..8), "whoever has panicked is not asked again");
}
