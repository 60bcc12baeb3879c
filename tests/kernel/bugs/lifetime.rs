//! Insertion, removal, and the ends of the address range.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread;

use interval_notifier::{AddressSpace, Change, EventKind, Notifier, Span, SubscribeErrorKind, WouldBlock};

use super::{Ear, One};

/// 319561669a59, use after free in remove: the waiter left while the last end was still busy with the subscription.
#[test]
fn b01_a_subscription_outlives_every_callback_and_every_end() {
    struct Canary(Arc<AtomicBool>);
    impl Drop for Canary {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }

    let space = AddressSpace::new();
    let is_on = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while is_on.load(Acquire) {
                space.invalidate_while(0..8, EventKind::Unmap, thread::yield_now);
            }
        });
        for _ in 0..1_000 {
            let is_dead = Arc::new(AtomicBool::new(false));
            let canary = Canary(Arc::clone(&is_dead));
            let hear = move |_: &Change| {
                assert!(!canary.0.load(SeqCst), "called after its end");
                Ok(())
            };
            let subscription = space.subscribe(0..8, Ear(hear)).unwrap();
            thread::yield_now();
            let value = subscription.unsubscribe().unwrap();
            assert!(!is_dead.load(SeqCst));
            drop(value);
            assert!(is_dead.load(SeqCst));
        }
        is_on.store(false, Release);
    });
}

/// CVE-2024-26656, 970655aa9b42: drivers removed what could not be inserted.
#[test]
fn b02_what_could_not_be_inserted_cannot_be_removed() {
    let space = AddressSpace::new();
    let alive = Arc::new(());
    let ops = |alive: &Arc<()>| {
        let alive = Arc::clone(alive);
        Ear(move |_: &Change| {
            let _ = &alive;
            Ok(())
        })
    };
    let error = space.subscribe(7..7, ops(&alive)).unwrap_err();
    assert_eq!((error.kind, Arc::strong_count(&alive)), (SubscribeErrorKind::Empty, 2));
    drop(error); // with what it gave back; there is no handle
    assert_eq!(Arc::strong_count(&alive), 1);
    space.release();
    let error = space.subscribe(.., ops(&alive)).unwrap_err();
    assert_eq!(error.kind, SubscribeErrorKind::Released);
    drop(error.ops);
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// gntdev, kfd: a range that changes is another subscription, and in between nobody listened.
#[test]
fn b25_a_new_range_is_subscribed_before_the_old_one_is_removed() {
    let space = AddressSpace::new();
    let heard = Arc::new(AtomicU64::new(0));
    let ops = || {
        let heard = Arc::clone(&heard);
        Ear(move |_: &Change| {
            heard.fetch_add(1, Relaxed);
            Ok(())
        })
    };
    let whole = space.subscribe(0..8, ops()).unwrap();
    let active = space.invalidate(0..8, EventKind::Unmap); // The split happens inside of it, as a split of a VMA does.
    let halves = [0..4, 4..8].map(|range| space.subscribe(range, ops()).unwrap());
    assert!(halves.iter().all(|half| half.try_read_begin().is_err()), "what is active is known to the new ones");
    whole.unsubscribe().map_err(|_| "inside a callback").unwrap();
    active.end();
    space.invalidate(3..5, EventKind::Unmap).end();
    assert_eq!(heard.load(Relaxed), 3); // the whole once, each half once
}

/// Rows 18 and 33: an empty range hit everything, an inverted one nothing, and the last byte heard no release.
#[test]
fn b27_odd_ranges_do_what_they_say() {
    let space = AddressSpace::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listen = |at: u64| {
        let heard = Arc::clone(&heard);
        let hear = move |_: &Change| {
            heard.lock().unwrap().push(at);
            Ok(())
        };
        space.subscribe(at..=at, Ear(hear)).unwrap()
    };
    let edges = [0, 1, u64::MAX - 1, u64::MAX];
    let _subscriptions = edges.map(listen);
    let heard_of = |range: &dyn Fn()| {
        range();
        std::mem::take(&mut *heard.lock().unwrap())
    };
    assert_eq!(heard_of(&|| space.invalidate(0..0, EventKind::Unmap).end()), []);
    #[expect(clippy::reversed_empty_ranges, reason = "a reversed range is bad input on purpose")]
    let reversed = || space.invalidate(u64::MAX..0, EventKind::Unmap).end();
    assert_eq!(heard_of(&reversed), []);
    assert_eq!(heard_of(&|| space.invalidate(1..u64::MAX, EventKind::Unmap).end()), [1, u64::MAX - 1]);
    assert_eq!(heard_of(&|| space.invalidate(u64::MAX.., EventKind::Unmap).end()), [u64::MAX]);
    assert_eq!(heard_of(&|| space.invalidate(.., EventKind::Unmap).end()), edges);
    assert_eq!(heard_of(&|| space.release()), edges);
    assert_eq!(Span::<u64>::new(u64::MAX..u64::MAX), None);
}

/// KFD, KVM: who unregisters between start and end never hears the end, and had to repair its counts by hand.
#[test]
fn b30_unregistering_between_start_and_end_leaves_nothing_behind() {
    #[derive(Default)]
    struct Active(AtomicU64);
    impl Notifier for Active {
        fn start(&self, _: &Change) -> Result<(), WouldBlock> {
            self.0.fetch_add(1, Relaxed);
            Ok(())
        }
        fn end(&self, _: &Change) {
            self.0.fetch_sub(1, Relaxed);
        }
    }

    let space = AddressSpace::new();
    let leaving = space.register(Active::default()).unwrap();
    let staying = Arc::new(Active::default());
    let _staying = space.register(Arc::clone(&staying)).unwrap();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let active = space.invalidate(0..8, EventKind::Unmap);
    let left = leaving.unregister().unwrap();
    active.end();
    // The one that left is the caller's again, as it was; everybody else is where they were before.
    assert_eq!((left.0.into_inner(), staying.0.load(Relaxed)), (1, 0));
    mirror.try_read_begin().map(drop).unwrap();
    assert_eq!(mirror.unsubscribe().unwrap(), One(None));
}
