//! Memory returns to its base after subscriptions have come and gone, with invalidations running.

use super::counting::{Live, alone, live};
use super::toy::{CLEAR, Counter, Listener, State};
use interval_notifier::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// Threads that subscribe and unsubscribe.
const SUBSCRIBERS: u64 = 2;
/// Pages that they choose from, one after the other.
const PAGES: u64 = 64;
const PAGE: u64 = 0x1000;

/// Subscriptions of each thread's that live at the same time, so that removals happen everywhere in the tree.
const ALIVE: usize = 100;

/// How much may stay behind: what the epoch has in hand. Its queue has one node that is empty; and a thread's own bag of
/// 64 things to free is handed on only when it is full, or when the thread ends. All threads of these tests have ended but
/// one, which only invalidates: the bag of that one has in it such nodes and records of threads that have ended, each of
/// some 2,300 bytes.
const MAY_STAY: Live = Live { blocks: 66, bytes: 66 * 2_500 };

/// How many subscriptions come and go: the million is for optimised builds.
fn rounds() -> u64 {
    let default = if cfg!(debug_assertions) { 40_000 } else { 1_000_000 };
    std::env::var("INTERVAL_CHURN").map_or(default, |n| n.parse().expect("INTERVAL_CHURN is a number"))
}

/// Subscribes and unsubscribes `n` times, every other time by way of a mirror that is also used.
fn subscribe_and_unsubscribe(space: &AddressSpace, n: u64) {
    let (mut subscriptions, mut mirrors) = (Vec::new(), Vec::new());
    for round in 0..n {
        let first = round * 7 % PAGES * PAGE;
        if round % 2 == 0 {
            let subscription = space.subscribe(first..first + 3 * PAGE, Counter::default()).unwrap();
            drop(subscription.try_read_begin());
            subscriptions.push(subscription);
        } else {
            let mirror = space.mirror(first..first + PAGE, State::default()).unwrap();
            let _ = mirror.update(Retry::times(1), |_| Ok::<_, ()>(round), |state, built| state.0 = built);
            mirrors.push(mirror);
        }
        // From the middle, so that neighbours differ in age.
        if subscriptions.len() + mirrors.len() > ALIVE {
            drop(subscriptions.swap_remove(subscriptions.len() / 2));
            mirrors.swap_remove(mirrors.len() / 2).unsubscribe().unwrap();
        }
    }
}

/// Invalidates this and that until it is told to stop.
fn invalidate(space: &AddressSpace, stop: &AtomicBool, step: u64) -> u64 {
    let mut n = 0;
    while !stop.load(Relaxed) {
        let first = n * step % PAGES * PAGE;
        space.invalidate(first..first + 2 * PAGE, CLEAR).end();
        drop(space.try_invalidate(first..=first, CLEAR));
        n += 2;
    }
    n
}

/// The churn, on threads that have ended when this returns. How many invalidations ran beside it?
fn churn(n: u64) -> u64 {
    let space = AddressSpace::new();
    let _heard = space.register(Listener::default()).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let owners = [3, 5].map(|step| {
            let (space, stop) = (&space, &stop);
            scope.spawn(move || invalidate(space, stop, step))
        });
        let subscribers =
            [(); SUBSCRIBERS as usize].map(|()| scope.spawn(|| subscribe_and_unsubscribe(&space, n / SUBSCRIBERS)));
        subscribers.into_iter().for_each(|subscriber| subscriber.join().unwrap());
        stop.store(true, Relaxed);
        owners.into_iter().map(|owner| owner.join().unwrap()).sum()
    })
}

/// What is alive when the epoch has nothing more to free. Every 128th invalidation of a thread lets it free some.
fn settled() -> Live {
    let space = AddressSpace::new();
    let mut before = live();
    for _ in 0..1000 {
        (0..10 * 128).for_each(|_| space.invalidate(.., CLEAR).end());
        let now = live();
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("memory does not come to rest: {before:?}");
}

#[test]
fn memory_returns_to_its_base() {
    alone(|| {
        let rounds = rounds();
        churn(rounds / 100);
        let base = settled();
        let invalidations = churn(rounds);
        let most = live();
        let after = settled();
        println!("{rounds} subscriptions came and went beside {invalidations} invalidations");
        println!("base {base:?}\nwhen the threads had ended {most:?}\nwhen nothing more was freed {after:?}");
        assert!(after.blocks <= base.blocks + MAY_STAY.blocks, "{base:?} {after:?}");
        assert!(after.bytes <= base.bytes + MAY_STAY.bytes, "{base:?} {after:?}");
    });
}

#[test]
fn notifiers_that_come_and_go_leave_nothing_behind() {
    alone(|| {
        let space = AddressSpace::new();
        let come_and_go = |times| {
            for _ in 0..times {
                let _listener: Listener = space.register(Listener::default()).unwrap().unregister().unwrap();
                drop(space.register(Listener::default()).unwrap());
                drop(space.get_or_register(Listener::default).unwrap());
                space.synchronize().unwrap();
            }
        };
        come_and_go(10);
        let base = settled();
        come_and_go(1000);
        let after = settled();
        // Not exactly: what prints the results of tests allocates meanwhile.
        assert!(after.blocks <= base.blocks + MAY_STAY.blocks, "{base:?} {after:?}");
        assert!(after.bytes <= base.bytes + MAY_STAY.bytes, "{base:?} {after:?}");
    });
}
