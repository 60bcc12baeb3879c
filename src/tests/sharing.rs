//! Notifiers that are shared by their type: one in a space, there until its last handle is put.

use super::toy::{CLEAR, PAGE, Sub, Toy};
use super::{explore, spawn, thread};
use crate::sync::atomic::{AtomicU64, Ordering::*};
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, Change, Notifier, SharedNotifier, WouldBlock};

/// What became of a [`Driver`]; it outlives it.
#[derive(Default)]
struct Fate {
    starts: AtomicU64,
    ends: AtomicU64,
    releases: AtomicU64,
    drops: AtomicU64,
}

type Last = Box<dyn Fn() + Send + Sync>;

/// One in a space. It does its last deed when it is dropped.
struct Driver {
    fate: Arc<Fate>,
    last: Last,
}

impl Driver {
    fn new(fate: &Arc<Fate>) -> Self {
        Driver { fate: fate.clone(), last: Box::new(|| ()) }
    }
    fn assert_alive(&self) {
        assert_eq!(self.fate.drops.load(Relaxed), 0, "called after it was dropped");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        (self.last)();
        assert_eq!(self.fate.drops.fetch_add(1, Relaxed), 0, "dropped twice");
    }
}

impl Notifier for Driver {
    fn start(&self, _: &Change) -> Result<(), WouldBlock> {
        self.assert_alive();
        self.fate.starts.fetch_add(1, Relaxed);
        Ok(())
    }
    fn end(&self, _: &Change) {
        self.assert_alive();
        self.fate.ends.fetch_add(1, Relaxed);
    }
    fn test_young(&self, _: u64) -> bool {
        self.assert_alive();
        thread::yield_now();
        self.assert_alive();
        false
    }
    fn release(&self) {
        self.fate.releases.fetch_add(1, Relaxed);
    }
}

/// Another type.
struct Other;
impl Notifier for Other {}

fn get(space: &AddressSpace, fate: &Arc<Fate>) -> SharedNotifier<Driver> {
    space.get_or_register(|| Driver::new(fate)).expect("nothing keeps this thread from waiting")
}

fn drops(fate: &Fate) -> u64 {
    fate.drops.load(Relaxed)
}

#[test]
fn two_that_get_it_at_once_get_the_same_one() {
    explore(&[], |_| {
        let (space, fate, made) = (AddressSpace::new(), Arc::<Fate>::default(), Arc::new(AtomicU64::new(0)));
        let make = |space: &AddressSpace, fate: &Arc<Fate>, made: &AtomicU64| {
            let make = || {
                made.fetch_add(1, Relaxed);
                Driver::new(fate)
            };
            space.get_or_register(make).unwrap()
        };
        let other = spawn!([space, fate, made] make(&space, &fate, &made));
        let handles = (make(&space, &fate, &made), other.join().unwrap());
        assert_eq!(made.load(Relaxed), 1);
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!((fate.starts.load(Relaxed), fate.ends.load(Relaxed)), (1, 1));
        drop(handles);
        assert_eq!((drops(&fate), fate.releases.load(Relaxed)), (1, 0), "a put is not a release");
    });
}

#[test]
fn whoever_gets_it_has_waited_for_what_was_active() {
    // The second one too, that finds it there before the first one has waited.
    explore(&["heard", "not heard"], |seen| {
        let (space, fate, inside) = (AddressSpace::new(), Arc::<Fate>::default(), Arc::new(AtomicU64::new(0)));
        let owner = spawn!([space, inside] {
            let open = space.invalidate(PAGE, CLEAR);
            inside.store(1, Release);
            thread::yield_now();
            inside.store(0, Release);
            open.end();
        });
        let wait = |space: &AddressSpace, fate: &Arc<Fate>, inside: &AtomicU64| {
            let handle = get(space, fate);
            let half_way = inside.load(Acquire) == 1 && fate.starts.load(Relaxed) == 0;
            assert!(!half_way, "an invalidation is half-way, and it does not know of it");
            handle
        };
        let other = spawn!([space, fate, inside] wait(&space, &fate, &inside));
        let handles = (wait(&space, &fate, &inside), other.join().unwrap());
        owner.join().unwrap();
        assert_eq!(fate.starts.load(Relaxed), fate.ends.load(Relaxed), "half of an invalidation was heard");
        seen.note(if fate.starts.load(Relaxed) == 1 { "heard" } else { "not heard" });
        drop(handles);
    });
}

/// Puts `handle` inside a callback, at a start that leaves the rest to others, and says so.
fn put_inside(space: &AddressSpace, handle: SharedNotifier<Driver>, put: &Arc<AtomicU64>) {
    let (drawer, put) = (Mutex::new(Some(handle)), put.clone());
    let toy = Toy::meeting(move |_| {
        let handle = lock(&drawer).take();
        drop(handle);
        put.store(1, Release);
        Ok(())
    });
    let _sub = Sub::new(space, PAGE, &toy);
    space.try_invalidate(PAGE, CLEAR).expect("nobody refuses").end();
}

#[test]
fn synchronize_is_a_barrier_for_what_was_put_inside_a_callback() {
    explore(&["put before", "not yet"], |seen| {
        let (space, fate, put) = (AddressSpace::new(), Arc::<Fate>::default(), Arc::new(AtomicU64::new(0)));
        let handle = get(&space, &fate);
        let owner = spawn!([space, put] put_inside(&space, handle, &put));
        let was_put = put.load(Acquire) == 1;
        space.synchronize().unwrap();
        if was_put {
            assert_eq!(drops(&fate), 1, "put, synchronized, and still there");
        }
        owner.join().unwrap();
        space.synchronize().unwrap();
        assert_eq!(drops(&fate), 1);
        seen.note(if was_put { "put before" } else { "not yet" });
    });
}

#[test]
fn synchronize_waits_for_another_thread_that_is_dropping_it() {
    explore(&[], |_| {
        let (space, fate) = (AddressSpace::new(), Arc::<Fate>::default());
        let (buried, also) = (get(&space, &fate), space.get_or_register(|| Other).unwrap());
        put_inside(&space, buried, &Arc::default());
        assert_eq!(drops(&fate), 0, "a start that may not block drops nobody");
        // It sweeps before it returns.
        let sweeper = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.synchronize().unwrap();
        assert_eq!(drops(&fate), 1, "put, synchronized, and still there");
        sweeper.join().unwrap();
        drop(also);
    });
}

#[test]
fn synchronize_waits_for_a_callback_that_still_runs() {
    // Whoever sweeps meanwhile cannot drop it, and must not leave it to nobody.
    explore(&[], |_| {
        let (space, fate) = (AddressSpace::new(), Arc::<Fate>::default());
        let (handle, _also) = (get(&space, &fate), space.get_or_register(|| Other).unwrap());
        let caller = spawn!([space] space.test_young(0));
        let sweeper = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        drop(handle);
        space.synchronize().unwrap();
        assert_eq!(drops(&fate), 1, "put, synchronized, and still there");
        caller.join().unwrap();
        sweeper.join().unwrap();
    });
}

/// What one thread can show: there is nothing to explore in it.
#[cfg(not(any(loom, shuttle)))]
mod alone {
    use super::*;
    use crate::RegisterErrorKind;

    #[test]
    fn there_is_one_for_each_space_and_type() {
        let (space, other) = (AddressSpace::new(), AddressSpace::new());
        let fates = [(); 3].map(|()| Arc::<Fate>::default());
        let [first, second, elsewhere] =
            [(&space, 0), (&space, 1), (&other, 2)].map(|(space, n)| get(space, &fates[n]));
        let _unlike = space.get_or_register(|| Other).unwrap();
        let _registered = space.register(Driver::new(&fates[1])).unwrap(); // Not found by its type, nor in its way.
        let which = |handle: &SharedNotifier<Driver>| handle.with(|driver| Arc::as_ptr(&driver.fate));
        assert_eq!([which(&first), which(&second), which(&elsewhere)], [0, 0, 2].map(|n| Arc::as_ptr(&fates[n])));
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(fates.each_ref().map(|fate| fate.starts.load(Relaxed)), [1, 1, 0]);
    }

    #[test]
    fn it_is_there_until_the_last_handle_is_put_and_then_comes_a_new_one() {
        let (space, fate, next) = (AddressSpace::new(), Arc::<Fate>::default(), Arc::<Fate>::default());
        let first = get(&space, &fate);
        let second = first.clone();
        drop(first);
        assert_eq!(drops(&fate), 0);
        drop(second);
        assert_eq!((drops(&fate), fate.releases.load(Relaxed)), (1, 0));
        let third = get(&space, &next);
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!((fate.starts.load(Relaxed), next.starts.load(Relaxed)), (0, 1));
        drop(third);
    }

    #[test]
    fn more_handles_than_can_be_counted_are_an_error() {
        let (space, fate) = (AddressSpace::new(), Arc::<Fate>::default());
        let handle = get(&space, &fate);
        let member =
            space.shared.notifiers.get_or_add::<Driver>(space.shared.id, || unreachable!("it is there")).unwrap();
        member.member.users.store(usize::MAX, Relaxed);
        assert_eq!(handle.get().unwrap_err(), RegisterErrorKind::TooManyHandles);
        let found = space.get_or_register(|| Driver::new(&fate));
        assert_eq!(found.unwrap_err(), RegisterErrorKind::TooManyHandles);
        assert_eq!(member.member.users.load(Relaxed), usize::MAX);
        member.member.users.store(1, Relaxed);
        drop((member, handle));
        assert_eq!((drops(&fate), space.shared.notifiers.len()), (1, 0), "no start pays for it any more");
    }

    #[test]
    fn a_put_inside_a_callback_of_a_subscription_drops_nothing_there() {
        let (space, fate) = (AddressSpace::new(), Arc::<Fate>::default());
        let drawer = Mutex::new(Some(get(&space, &fate)));
        let _sub = Sub::new(
            &space,
            PAGE,
            &Toy::meeting({
                let fate = fate.clone();
                move |_| {
                    let handle = lock(&drawer).take();
                    drop(handle);
                    assert_eq!(drops(&fate), 0, "code of the user was run where it may wait for itself");
                    Ok(())
                }
            }),
        );
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(drops(&fate), 1, "whoever leaves the callback drops what was left");
    }

    #[test]
    fn what_a_notifier_does_when_it_is_dropped_may_not_wait_for_itself() {
        let (space, fate) = (AddressSpace::new(), Arc::<Fate>::default());
        let toy = Toy::new();
        let sub = Mutex::new(Some(Sub::new(&space, PAGE, &toy)));
        let last = {
            let space = space.clone();
            move || {
                assert!(space.synchronize().is_err());
                let sub = lock(&sub).take();
                drop(sub); // Later, but not much.
            }
        };
        let driver = Driver { fate: fate.clone(), last: Box::new(last) };
        drop(space.get_or_register(|| driver).unwrap());
        assert_eq!((drops(&fate), Arc::strong_count(&toy)), (1, 1), "what it owned is gone too");
    }

    #[test]
    fn what_nobody_swept_goes_with_the_space() {
        let (space, fate) = (AddressSpace::new(), Arc::<Fate>::default());
        put_inside(&space, get(&space, &fate), &Arc::default());
        assert_eq!(drops(&fate), 0);
        drop(space);
        assert_eq!(drops(&fate), 1);
    }
}
