//! What callbacks do wrong, and what is done to them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use interval_notifier::{
    Ack, AddressSpace, BeginError, Call, Change, Collision, EventKind, Invalidate, MirrorState, Notifier, Retry,
    WouldBlock,
};

use super::super::sim::device::Device;
use super::super::{PAGES, process};
use super::{Ear, One, panic_of};

/// Counts starts and ends, and refuses if it is told to and may.
#[derive(Default)]
struct Counts {
    starts: AtomicU64,
    ends: AtomicU64,
    refuses: AtomicBool,
}

impl Counts {
    fn get(&self) -> (u64, u64) {
        (self.starts.load(Relaxed), self.ends.load(Relaxed))
    }
}

impl Notifier for Counts {
    fn start(&self, change: &Change) -> Result<(), WouldBlock> {
        if self.refuses.load(Relaxed) && !change.is_blockable() {
            return Err(change.would_block());
        }
        self.starts.fetch_add(1, Relaxed);
        Ok(())
    }
    fn end(&self, _: &Change) {
        self.ends.fetch_add(1, Relaxed);
    }
}

/// c2655835fd8c: one notifier refused, and those before it waited for an end that never came.
#[test]
fn b08_who_was_told_of_a_refused_start_is_told_of_its_end() {
    let space = AddressSpace::new();
    let [refusing, told] = [(); 2].map(|()| Arc::new(Counts::default()));
    refusing.refuses.store(true, Relaxed);
    // The newest is told first.
    let _registrations = [&refusing, &told].map(|counts| space.register(Arc::clone(counts)).unwrap());
    assert!(space.try_invalidate(0..8, EventKind::Clear).is_err());
    assert_eq!((told.get(), refusing.get()), ((1, 1), (0, 0)));
    space.invalidate(0..8, EventKind::Clear).end();
    assert_eq!((told.get(), refusing.get()), ((2, 2), (1, 1)));
}

/// Open in the kernel (row 24): a notifier refused after the intervals had agreed, whose counter was never taken back.
#[test]
fn b09_a_notifier_that_refuses_leaves_no_reader_and_no_remover_waiting() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let counts = Arc::new(Counts::default());
    counts.refuses.store(true, Relaxed);
    let _registration = space.register(counts).unwrap();
    let seq = mirror.read_begin().unwrap();
    for range in [0..8, 100..200] {
        assert!(space.try_invalidate(range, EventKind::Clear).is_err());
    }
    assert!(mirror.check_retry(&seq), "it was told, so it builds once more");
    mirror.try_read_begin().map(drop).unwrap();
    space.mirror(0..8, One::default()).unwrap().try_read_begin().map(drop).unwrap();
    mirror.unsubscribe().unwrap();
}

/// The series of 4a42d848db95: a fault was outside of what was being invalidated, its prefetched neighbours were inside.
#[test]
fn b11_a_ticket_is_good_for_its_own_range_only() {
    let space = AddressSpace::new();
    let [page, neighbour] = [0..1, 1..2].map(|range| space.mirror(range, One::default()).unwrap());
    let _active = space.invalidate(1..2, EventKind::Clear);
    let seq = page.try_read_begin().unwrap();
    let prefetch = panic_of(|| drop(neighbour.commit(seq, 7, |one, frame| one.0 = Some(frame)))).unwrap();
    assert_eq!(prefetch, "a ReadSeq must be given back to the subscription it is of");
    assert_eq!(neighbour.with(|one| one.0).unwrap(), None);
}

/// NUMA balancing starts an invalidation that then changes nothing, and everybody builds again. A start cannot be
/// cancelled here either; a mirror that can tell says so itself.
#[test]
fn b14_a_mirror_that_is_not_concerned_makes_nobody_build_again() {
    struct Unmaps(One);
    impl MirrorState for Unmaps {
        fn invalidate(&mut self, change: &Change) {
            self.0.invalidate(change);
        }
        fn concerns(&self, change: &Change) -> bool {
            change.event().kind() == EventKind::Unmap
        }
    }

    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, Unmaps(One(None))).unwrap();
    let seq = mirror.read_begin().unwrap();
    let _active = space.invalidate(0..8, EventKind::ProtectPage);
    assert!(!mirror.check_retry(&seq));
    mirror.try_read_begin().map(drop).unwrap();
    mirror.commit(seq, 7, |state, frame| state.0.0 = Some(frame)).unwrap();
    assert_eq!(mirror.with(|state| state.0.0).unwrap(), Some(7));
}

/// b3deec25847b, hfi1: pages were invalidated between being pinned and being programmed.
#[test]
fn b15_an_invalidation_at_any_step_of_the_setup_fails_it_cleanly() {
    for step in 0..3 {
        let space = AddressSpace::new();
        let cover = space.mirror(0..8, One::default()).unwrap();
        let pinned = Arc::new(());
        let unmap_at = |now| (step == now).then(|| space.invalidate(3..4, EventKind::Unmap).end());
        unmap_at(0); // Before the begin it does no harm.
        let seq = cover.read_begin().unwrap();
        unmap_at(1);
        let pin = Arc::clone(&pinned);
        unmap_at(2);
        let programmed = cover.commit(seq, pin, |one, _| one.0 = Some(7));
        match (step, programmed) {
            (0, Ok(())) => assert_eq!(cover.with(|one| one.0).unwrap(), Some(7)),
            (1 | 2, Err(Collision(pin))) => drop(pin),
            (_, programmed) => panic!("step {step}: {programmed:?}"),
        }
        assert_eq!(cover.with(|one| one.0.is_some()).unwrap(), step == 0);
        assert_eq!(Arc::strong_count(&pinned), 1, "nothing stays pinned");
    }
}

/// An allocation under the mirror lock reclaims, and so invalidates, and so wants the mirror lock.
#[test]
fn b17_invalidating_under_the_own_mirror_lock_says_so() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let guard = mirror.lock().unwrap();
    assert!(space.try_invalidate(0..8, EventKind::Clear).is_err(), "whoever may not block is refused");
    let recursion = panic_of(|| space.invalidate(0..8, EventKind::Clear).end()).unwrap();
    assert!(recursion.contains("this thread holds the lock of this Mirror already"), "{recursion}");
    drop(guard);
    assert!(matches!(mirror.read_begin(), Err(BeginError::Poisoned)));
}

/// amd/xdna-driver 611: a callback took a signal for the end of its wait, and the device went on using the memory.
#[test]
fn b21_a_callback_that_may_block_has_no_early_exit() {
    let space = AddressSpace::new();
    let hasty = space.subscribe(0..8, Ear(|change: &Change| Err(change.would_block()))).unwrap();
    let seq = hasty.read_begin().unwrap();
    assert!(space.try_invalidate(0..8, EventKind::Unmap).is_err());
    let exit = panic_of(|| space.invalidate(0..8, EventKind::Unmap).end()).unwrap();
    assert!(exit.contains("an invalidation that may block must not be refused"), "{exit}");
    assert!(hasty.read_retry(seq, &()));
    assert!(matches!(hasty.read_begin(), Err(BeginError::Poisoned)));
}

/// nouveau: what the failed attempt had put out was taken for the next one's input.
#[test]
fn b22_every_attempt_starts_from_nothing() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let mut attempts = Vec::new();
    let build = |attempt: interval_notifier::Attempt<'_>| {
        let pages = vec![attempt.number()]; // There is no way to find the last attempt's.
        attempts.push(pages.clone());
        if attempt.number() < 3 {
            space.invalidate(0..1, EventKind::Unmap).end();
        }
        Ok::<_, Infallible>(pages)
    };
    let installed = mirror.update(Retry::forever(), build, |_, pages| pages).unwrap();
    assert_eq!((attempts, installed), (vec![vec![1], vec![2], vec![3]], vec![3]));
}

/// The two-pass series: waits for many devices, one after the other.
#[test]
fn b23_devices_let_go_at_the_same_time() {
    const DEVICES: u32 = 6;
    const FLUSH: Duration = Duration::from_millis(20);
    let (_, primary) = process();
    let devices = [(); DEVICES as usize].map(|()| Device::open_slow(&primary, FLUSH));
    let flushed_in = || {
        devices.iter().for_each(|device| drop(device.read(0..PAGES).unwrap()));
        let start = Instant::now();
        primary.space.invalidate(0..PAGES, EventKind::Unmap).end();
        start.elapsed()
    };
    let together = flushed_in();
    assert!(together >= FLUSH && together < FLUSH * DEVICES / 2, "{together:?}");
    // Without memory for the second pass a callback does all of it in the first.
    devices.iter().for_each(|device| device.mirror.out_of_memory.store(true, Relaxed));
    let one_by_one = flushed_in();
    assert!(one_by_one >= FLUSH * DEVICES, "{one_by_one:?}");
}

/// nouveau works only because list notifiers come after interval ones, which nobody had promised.
#[test]
fn b26_the_order_is_promised() {
    struct Log(Arc<Mutex<Vec<u64>>>, u64);
    impl Log {
        fn note(&self) {
            self.0.lock().unwrap().push(self.1);
        }
    }
    impl Invalidate for Log {
        type Locked = ();
        fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
            self.note();
            Ok(call.set_seq(&mut ()))
        }
    }
    impl Notifier for Log {
        fn start(&self, _: &Change) -> Result<(), WouldBlock> {
            self.note();
            Ok(())
        }
        fn end(&self, _: &Change) {
            self.note();
        }
    }

    let space = AddressSpace::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let _notifiers = [10, 11].map(|n| space.register(Log(Arc::clone(&log), n)).unwrap());
    let _subscriptions = [(4, 2), (0, 0), (0, 1)].map(|(first, n)| {
        space.subscribe(first..8, Log(Arc::clone(&log), n)).unwrap() // (0, 1) is the younger of two equal ranges
    });
    let active = space.invalidate(.., EventKind::Unmap);
    assert_eq!(*log.lock().unwrap(), [0, 1, 2, 11, 10]);
    active.end();
    assert_eq!(*log.lock().unwrap(), [0, 1, 2, 11, 10, 10, 11]);
}

/// mshv: the failure path of a callback left the lock locked, and had no way to say that the device had failed.
#[test]
fn b31_a_device_that_fails_in_a_callback_is_poisoned_and_nobody_else_is() {
    struct Broken;
    impl MirrorState for Broken {
        fn invalidate(&mut self, _: &Change) {
            panic!("the device does not answer");
        }
    }

    let space = AddressSpace::new();
    let healthy = space.mirror(0..8, One::default()).unwrap();
    let broken = space.mirror(0..8, Broken).unwrap();
    let failure = panic_of(|| space.invalidate_while(0..8, EventKind::Unmap, || unreachable!("the pages stay")));
    assert_eq!(failure.unwrap(), "the device does not answer");
    assert!(matches!(broken.read_begin(), Err(BeginError::Poisoned)));
    assert!(broken.lock().is_err());
    // The lock is free, the healthy one is waited for by nobody, and the owner can go on without the broken one.
    broken.unsubscribe().unwrap();
    healthy.try_read_begin().map(drop).unwrap();
    space.invalidate(0..8, EventKind::Unmap).end();
}
