//! What the epoch does on the notify path. This is a known limit of the crate, kept here with its bounds.
//!
//! A search pins the epoch, and every 128th pin of a thread collects: it frees what others have retired, up to eight bags
//! of 64 retired things each (nodes of the tree count as one thing by sixteens). So a start frees, now and then, what `subscribe` and `unsubscribe` of other threads have
//! left. And it may allocate: each bag that is taken from the epoch's queue leaves a node of the queue in this thread's own
//! bag, and when 64 of them are there, the bag goes to the queue in a new node. In a space whose subscriptions do not
//! change neither happens (see `no_alloc`).

use super::counting::{Counts, alone, count};
use super::toy::{CLEAR, Counter};
use interval_notifier::*;

/// Subscriptions that come and go while nothing can be freed.
const LEFT: usize = 20_000;
/// Nodes that are retired together, in one block more.
const NODES: usize = 16;
/// Each retires its entry, and a leaf or two.
const RETIRED: usize = LEFT + 2 * LEFT / NODES;
const BAG: usize = 64;
const BAGS_A_COLLECTION: usize = 8;
/// The shelf for free nodes grows up to its limit by doubling.
const SHELF: usize = 8;

/// What `count` says of many calls.
#[derive(Debug, Default)]
struct Sum {
    calls: usize,
    /// How many of them freed something.
    that_freed: usize,
    frees: usize,
    most_frees: usize,
    allocations: usize,
    most_allocations: usize,
}

impl Sum {
    fn add(&mut self, counts: Counts) {
        self.calls += 1;
        self.that_freed += usize::from(counts.frees != 0);
        self.frees += counts.frees;
        self.most_frees = self.most_frees.max(counts.frees);
        self.allocations += counts.allocations;
        self.most_allocations = self.most_allocations.max(counts.allocations);
    }
}

/// Lets another thread subscribe and unsubscribe, while a third one (here: this one) is in the middle of a search and so
/// keeps the epoch from freeing anything.
fn leave_much(space: &AddressSpace) {
    let _search = crossbeam_epoch::pin();
    let churn = || (0..LEFT).for_each(|_| drop(space.subscribe(.., Counter::default()).unwrap()));
    std::thread::scope(|scope| scope.spawn(churn).join().unwrap());
}

#[test]
fn what_others_have_retired_is_freed_by_a_start() {
    alone(|| {
        let space = AddressSpace::new();
        leave_much(&space);
        let mut sum = Sum::default();
        for _ in 0..100_000 {
            sum.add(count(|| space.invalidate(.., CLEAR).end()).1);
        }
        println!("{sum:?}");
        assert!(sum.frees >= LEFT - 2 * BAG, "nearly all that was left has been freed here: {sum:?}");
        assert!(sum.that_freed <= sum.calls / 128 + 1, "at every 128th pin and never otherwise: {sum:?}");
        assert!(sum.most_frees <= BAGS_A_COLLECTION * BAG * (NODES + 1), "{sum:?}");
        assert!(sum.most_allocations <= SHELF && sum.allocations <= RETIRED / BAG / BAG + 1 + SHELF, "{sum:?}");
    });
}

#[test]
fn an_end_frees_nothing() {
    alone(|| {
        let space = AddressSpace::new();
        leave_much(&space);
        for _ in 0..10_000 {
            let open = space.invalidate(.., CLEAR);
            assert_eq!(count(|| open.end()).1, Counts::default());
        }
    });
}

#[test]
fn a_begin_frees_nothing() {
    alone(|| {
        let space = AddressSpace::new();
        leave_much(&space);
        let subscription = space.subscribe(.., Counter::default()).unwrap();
        for _ in 0..10_000 {
            space.invalidate(.., CLEAR).end();
            let (seq, counts) = count(|| subscription.read_begin());
            assert_eq!(counts, Counts::default());
            drop(seq.unwrap());
        }
    });
}
