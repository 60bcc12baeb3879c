//! The notify path allocates nothing: start, end, begin and retry.
//!
//! A hook that allocates is the classic bug of registration caches: it runs inside the very `munmap` that the allocator
//! calls, under the allocator's own lock.
//!
//! # What is warmed, and why
//!
//! Each test starts and ends one invalidation before it counts. On the first one of a thread the epoch registers the
//! thread, and with notifiers arc-swap does; both do it once in the life of a thread. What that costs, and the other two
//! things that allocate (many invalidations in flight, many over one subscription), are counted in tests of their own.

use super::counting::{Counts, alone, count};
use super::toy::{CLEAR, Counter, Listener, State};
use interval_notifier::*;

const NOTHING: Counts = Counts { allocations: 0, frees: 0 };

/// How many subscriptions an invalidation hits: none, one, a whole batch, and many batches.
const HITS: [u64; 4] = [0, 1, 32, 1000];

/// A page for each subscription.
const PAGE: u64 = 0x1000;

/// What is subscribed, one a page.
fn subscriptions(space: &AddressSpace) -> Vec<Subscription<Counter>> {
    (0..1000).map(|n| space.subscribe(n * PAGE..(n + 1) * PAGE, Counter::default()).unwrap()).collect()
}

fn mirrors(space: &AddressSpace) -> Vec<Mirror<State>> {
    (0..1000).map(|n| space.mirror(n * PAGE..(n + 1) * PAGE, State::default()).unwrap()).collect()
}

/// Warms up this thread, and lets the epoch free what is left of earlier tests and of setting up this one.
fn warm(space: &AddressSpace) {
    let mut quiet = 0;
    for _ in 0..100_000 {
        let ((), counts) = count(|| space.invalidate(u64::MAX.., CLEAR).end());
        quiet = if counts == NOTHING { quiet + 1 } else { 0 };
        if quiet == 1000 {
            return;
        }
    }
    panic!("invalidations that hit nothing do not stop allocating or freeing");
}

/// Starts and ends invalidations of every size, in both ways, and expects that nothing is allocated and nothing freed.
fn start_and_end_in_silence(space: &AddressSpace) {
    for hits in HITS {
        let range = 0..hits * PAGE;
        for _ in 0..3 {
            let (open, start) = count(|| space.invalidate(range.clone(), CLEAR));
            let ((), end) = count(|| open.end());
            let (tried, try_start) = count(|| space.try_invalidate(range.clone(), CLEAR));
            let ((), try_end) = count(|| tried.unwrap().end());
            assert_eq!([start, end, try_start, try_end], [NOTHING; 4], "{hits} hits");
        }
    }
}

#[test]
fn start_and_end_over_subscriptions() {
    alone(|| {
        let space = AddressSpace::new();
        let subscriptions = subscriptions(&space);
        warm(&space);
        start_and_end_in_silence(&space);
        assert_eq!(*subscriptions[0].ops().0.lock().unwrap(), 18, "3 rounds of 2 starts of the 3 sizes that hit it");
    });
}

#[test]
fn start_and_end_over_mirrors() {
    alone(|| {
        let space = AddressSpace::new();
        let mirrors = mirrors(&space);
        warm(&space);
        start_and_end_in_silence(&space);
        assert_eq!(mirrors[0].with(|state| state.0).unwrap(), 18);
    });
}

#[test]
fn start_and_end_with_a_notifier() {
    alone(|| {
        let space = AddressSpace::new();
        let _subscriptions = subscriptions(&space);
        let _mirrors = mirrors(&space);
        let _heard = space.register(Listener::default()).unwrap();
        warm(&space);
        start_and_end_in_silence(&space);
    });
}

#[test]
fn a_refusal() {
    alone(|| {
        let space = AddressSpace::new();
        let subscriptions = subscriptions(&space);
        warm(&space);
        let _held = subscriptions[999].ops().0.lock().unwrap(); // 999 are told before, and told of the end
        let (refused, counts) = count(|| space.try_invalidate(.., CLEAR).is_err());
        assert!(refused);
        assert_eq!(counts, NOTHING);
    });
}

#[test]
fn begin_and_retry_of_a_subscription() {
    alone(|| {
        let space = AddressSpace::new();
        warm(&space);
        let round = |subscription: &Subscription<Counter>| {
            let locked = subscription.ops().0.lock().unwrap();
            let ((), counts) = count(|| {
                let seq = subscription.read_begin().unwrap();
                assert!(!subscription.check_retry(&seq));
                assert!(!subscription.read_retry(seq, &locked));
            });
            assert_eq!(counts, NOTHING);
        };
        let active = space.invalidate(..PAGE, CLEAR);
        let subscription = space.subscribe(..PAGE, Counter::default()).unwrap();
        let (refused, counts) = count(|| subscription.read_begin().unwrap_err());
        assert_eq!(
            (refused, counts),
            (BeginError::InsideInvalidation, NOTHING),
            "it would wait for what it was born into"
        );
        active.end();
        round(&subscription); // after its birth
        round(&subscription); // idle
        space.invalidate(..PAGE, CLEAR).end();
        round(&subscription); // after a collision
        let seq = subscription.read_begin().unwrap();
        space.invalidate(..PAGE, CLEAR).end();
        let (stale, counts) = count(|| subscription.check_retry(&seq));
        assert_eq!((stale, counts), (true, NOTHING));
    });
}

#[test]
fn begin_and_commit_of_a_mirror() {
    alone(|| {
        let space = AddressSpace::new();
        warm(&space);
        let mirror = space.mirror(..PAGE, State::default()).unwrap();
        for _ in 0..3 {
            let ((), counts) = count(|| {
                let seq = mirror.read_begin().unwrap();
                mirror.commit(seq, 7, |state, built| state.0 = built).unwrap();
            });
            assert_eq!(counts, NOTHING);
            space.invalidate(..PAGE, CLEAR).end();
        }
    });
}

#[test]
fn a_begin_that_waits_on_a_thread_that_is_new() {
    alone(|| {
        let space = AddressSpace::new();
        let subscription = space.subscribe(..PAGE, Counter::default()).unwrap();
        let active = space.invalidate(..PAGE, CLEAR);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| count(|| subscription.read_begin().unwrap()).1);
            std::thread::sleep(std::time::Duration::from_millis(20)); // Beyond the spinning.
            active.end();
            let counts = reader.join().unwrap();
            // In a debug build it writes down who waits for what, for the report of a circle.
            assert!(counts == NOTHING || cfg!(debug_assertions), "{counts:?}");
        });
    });
}

/// Counts the first three invalidations of a thread.
fn first_three(space: &AddressSpace) -> [Counts; 3] {
    let one = || count(|| space.invalidate(..PAGE, CLEAR).end()).1;
    std::thread::scope(|scope| scope.spawn(|| [one(), one(), one()]).join().unwrap())
}

#[test]
fn the_first_start_of_a_thread_registers_it() {
    alone(|| {
        let space = AddressSpace::new();
        let _subscription = space.subscribe(..PAGE, Counter::default()).unwrap();
        warm(&space);
        let [first, rest @ ..] = first_three(&space);
        println!("first start and end of a thread: {first:?}");
        assert_eq!((first.allocations, rest), (1, [NOTHING; 2]), "the epoch's record of the thread");

        let _heard = space.register(Listener::default()).unwrap();
        let [first, rest @ ..] = first_three(&space);
        println!("the same with a notifier: {first:?}");
        assert!(first.allocations <= 2, "and arc-swap's, unless it has one of a thread that is gone");
        assert_eq!(rest, [NOTHING; 2]);
    });
}

/// Opens `n` invalidations of one page at once, by one thread. How much does each of them allocate?
fn open_at_once(space: &AddressSpace, n: usize) -> Vec<usize> {
    let mut open = Vec::with_capacity(n);
    let start = |_| {
        let (invalidation, counts) = count(|| space.invalidate(..PAGE, CLEAR));
        open.push(invalidation);
        assert_eq!(counts.frees, 0);
        counts.allocations
    };
    let allocations = (0..n).map(start).collect();
    for invalidation in open {
        assert_eq!(count(|| invalidation.end()).1, NOTHING);
    }
    allocations
}

#[test]
fn more_in_flight_than_ever_before_allocate_slots() {
    alone(|| {
        let space = AddressSpace::new();
        warm(&space);
        let allocations = open_at_once(&space, 200);
        let at: Vec<_> = (0..200).filter(|&nth| allocations[nth] != 0).collect();
        println!("slots were allocated by numbers {at:?}, counted from 0");
        assert_eq!(at, [16, 48, 112], "a block twice as long as the last one");
        assert_eq!(allocations.iter().sum::<usize>(), 3, "one allocation each");
        assert_eq!(open_at_once(&space, 200), [0; 200], "the space keeps them");
    });
}

#[test]
fn more_over_one_subscription_than_ever_before_allocate_cells() {
    alone(|| {
        let space = AddressSpace::new();
        let subscription = space.subscribe(..PAGE, Counter::default()).unwrap();
        warm(&space);
        // Two words of the subscription name one invalidation each, every block of cells seven more.
        let allocations = open_at_once(&space, 16);
        let at: Vec<_> = (0..16).filter(|&nth| allocations[nth] != 0).collect();
        println!("cells were allocated by numbers {at:?}, counted from 0");
        assert_eq!(at, [2, 9], "the third that is active at once, and then every seventh");
        assert_eq!(allocations.iter().sum::<usize>(), 2, "one allocation each");
        assert_eq!(open_at_once(&space, 16), [0; 16], "the subscription keeps them");
        let (seq, counts) = count(|| subscription.read_begin());
        assert!(seq.is_ok());
        assert_eq!(counts, NOTHING);
    });
}
