//! Searches in batches: who is called, in which order, and that it ends, while the tree changes.

use super::toy::{CLEAR, ELSEWHERE, PAGE, Sub, Toy};
use super::{explore, spawn, thread};
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, BeginError};

#[test]
#[cfg_attr(loom, ignore = "five subscriptions are too many states for loom; the orderings show with one")]
fn whoever_was_there_is_called_and_whoever_comes_meanwhile_waits() {
    // Two subscriptions make a batch under a checker. The ranges go up, so that each has its place in the search.
    explore(&["newcomer called", "newcomer waits", "removed in time", "removed too late"], |seen| {
        let space = AddressSpace::new();
        let toys: [_; 5] = std::array::from_fn(|_| Toy::new());
        let subscribe = |k: usize| Sub::new(&space, PAGE.start + k as u64..PAGE.end, &toys[k]);
        let (first, removed, last) = (subscribe(0), subscribe(2).unshared(), subscribe(4));
        let changer = spawn!([space, toys] {
            let ahead = Sub::new(&space, PAGE.start + 3..PAGE.end, &toys[3]);
            removed.unsubscribe().unwrap();
            let behind = Sub::new(&space, PAGE.start + 1..PAGE.end, &toys[1]);
            [ahead, behind]
        });
        let open = space.invalidate(PAGE, CLEAR);
        let newcomers = changer.join().unwrap();
        for present in [first, last] {
            assert_eq!(present.ops().calls(), 1, "one that was there is called once");
        }
        for newcomer in &newcomers {
            let called = newcomer.ops().calls();
            assert!(called <= 1);
            assert_eq!(newcomer.try_read_begin().unwrap_err(), BeginError::Active, "neither called nor waited for");
            seen.note(if called == 1 { "newcomer called" } else { "newcomer waits" });
        }
        seen.note(if toys[2].calls() == 0 { "removed in time" } else { "removed too late" });
        open.end();
        assert!(newcomers.iter().all(|newcomer| newcomer.try_read_begin().is_ok()));
    });
}

#[test]
#[cfg_attr(loom, ignore = "about the order of calls and not of memory; too many states")]
fn callbacks_run_in_ascending_order_and_equal_ranges_in_order_of_subscription() {
    explore(&["with the removed one", "without it"], |seen| {
        let space = AddressSpace::new();
        let order: Arc<Mutex<Vec<u64>>> = Arc::default();
        // Subscribed in this order; called in the order of `want`.
        let ranges = [PAGE.start + 8..PAGE.end, PAGE, PAGE.start..PAGE.start + 4, ELSEWHERE, PAGE];
        let mut subs: Vec<_> = (0..)
            .zip(ranges)
            .map(|(k, range)| {
                let order = order.clone();
                let toy = Toy::meeting(move |_| {
                    lock(&order).push(k);
                    Ok(())
                });
                Sub::new(&space, range, &toy)
            })
            .collect();
        let removed = subs.remove(1).unshared();
        let remover = thread::spawn(move || drop(removed));
        space.invalidate(PAGE, CLEAR).end();
        remover.join().unwrap();
        let order = lock(&order).clone();
        let with = order.contains(&1);
        let want: &[u64] = if with { &[2, 1, 4, 0] } else { &[2, 4, 0] };
        assert_eq!(order, want);
        seen.note(if with { "with the removed one" } else { "without it" });
    });
}
