//! Who waits for what, for how long, and at whose cost.

use std::convert::Infallible;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use interval_notifier::{AddressSpace, BeginError, EventKind, Retry, UpdateError};

use super::super::sim::device::Device;
use super::super::sim::pages::Fault;
use super::super::{PAGES, process};
use super::{A_WHILE, One};

/// 144ba981783f and its revert: with the begin outside of the loop a stale sequence never became fresh, for a second.
#[test]
fn b03_a_stale_begin_is_never_retried_forever() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let seq = mirror.read_begin().unwrap();
    space.invalidate(0..8, EventKind::Unmap).end();
    assert!(mirror.commit(seq, 7, |one, frame| one.0 = Some(frame)).is_err()); // It fails at once, and is used up.
    for collisions in 0..5 {
        let mut builds = 0;
        let build = |attempt: interval_notifier::Attempt<'_>| {
            builds += 1;
            if attempt.number() <= collisions {
                space.invalidate(0..8, EventKind::Unmap).end();
            }
            Ok::<_, Infallible>(7)
        };
        mirror.update(Retry::forever(), build, |one, frame| one.0 = Some(frame)).unwrap();
        assert_eq!(builds, collisions + 1);
    }
}

/// "60G always gets retry": the longer the walk, the surer the collision, and all of it starts again.
#[test]
fn b04_a_large_range_makes_progress_in_pieces() {
    const SIZE: u64 = 256;
    const PIECE: u64 = 16;
    let space = AddressSpace::new();
    let walked = AtomicU64::new(0);
    // Every 32 pages that anybody walks, the owner changes one page somewhere.
    let walk = |pages: u64| {
        for _ in 0..pages {
            let walked = walked.fetch_add(1, Relaxed);
            if walked % 32 == 0 {
                let page = walked * 7 % SIZE;
                space.invalidate(page..page + 1, EventKind::Clear).end();
            }
        }
        Ok::<_, Infallible>(pages)
    };
    let whole = space.mirror(0..SIZE, One::default()).unwrap();
    let result = whole.update(Retry::times(20), |_| walk(SIZE), |one, pages| one.0 = Some(pages));
    assert!(matches!(result, Err(UpdateError::Exhausted { attempts: 20, .. })));

    let pieces =
        (0..SIZE).step_by(PIECE as usize).map(|first| space.mirror(first..first + PIECE, One::default()).unwrap());
    walked.store(0, Relaxed);
    for piece in pieces {
        piece.update(Retry::times(20), |_| walk(PIECE), |one, pages| one.0 = Some(pages)).unwrap();
    }
    assert!(walked.load(Relaxed) < 2 * SIZE, "{walked:?} pages walked for {SIZE}");
}

/// amd/xdna-driver 1517: a fixed limit was wrong both ways, and half of the loops had none.
#[test]
fn b05_a_limit_is_a_parameter_and_every_exit_honours_it() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let collide = |_: interval_notifier::Attempt<'_>| {
        space.invalidate(0..8, EventKind::Unmap).end();
        Ok::<_, Infallible>(7)
    };
    let start = Instant::now();
    let retried = mirror.update(Retry::within(A_WHILE), collide, |one, frame| one.0 = Some(frame));
    assert!(matches!(retried, Err(UpdateError::Exhausted { attempts: 2.., .. })));
    assert!(start.elapsed() >= A_WHILE);

    let active = space.invalidate(0..8, EventKind::Unmap).into_owned();
    let start = Instant::now();
    let waited = mirror.update(Retry::within(A_WHILE), collide, |one, frame| one.0 = Some(frame));
    assert!(matches!(waited, Err(UpdateError::Exhausted { attempts: 0, .. })));
    assert!(start.elapsed() >= A_WHILE);
    assert!(matches!(mirror.read_begin_timeout(Duration::ZERO), Err(BeginError::Active)));
    active.end();
}

/// 52ac8b358b0c: as long as anything at all was being invalidated, a reader waited, perhaps for ever.
#[test]
fn b06_invalidations_elsewhere_starve_nobody() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    space.invalidate(0..8, EventKind::Clear).end();
    let is_on = AtomicBool::new(true);
    thread::scope(|scope| {
        let storm = [8, 16].map(|first| {
            let (space, is_on) = (&space, &is_on);
            scope.spawn(move || {
                let mut active = space.invalidate(first..32, EventKind::Clear);
                while is_on.load(Acquire) {
                    let next = space.invalidate(first..32, EventKind::Clear);
                    active.end(); // never without one
                    active = next;
                }
            })
        });
        for _ in 0..1_000 {
            mirror.try_read_begin().map(drop).unwrap();
        }
        is_on.store(false, Release);
        storm.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// The same commit: a fair lock, which queues starts behind a waiter, deadlocks with a nested start.
#[test]
fn b07_no_waiting_reader_delays_a_start() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let outer = space.invalidate(0..8, EventKind::Clear);
    thread::scope(|scope| {
        let reader = scope.spawn(|| mirror.read_begin().map(drop));
        let remover = scope.spawn(|| space.mirror(0..8, One::default()).unwrap().unsubscribe().map(drop));
        thread::sleep(A_WHILE);
        space.invalidate(0..8, EventKind::Clear).end(); // nested, with a waiter in between
        remover.join().unwrap().unwrap();
        outer.end();
        reader.join().unwrap().unwrap();
    });
}

/// 4a42d848db95: a thread was preempted inside its invalidation, and page faults elsewhere took as long.
#[test]
fn b10_a_long_invalidation_delays_nobody_elsewhere() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let _long = space.invalidate(8..16, EventKind::Clear);
    let build = |attempt: interval_notifier::Attempt<'_>| Ok::<_, Infallible>(attempt.number());
    let attempts = mirror.update(Retry::within(A_WHILE), build, |_, attempts| attempts);
    assert_eq!(attempts.unwrap(), 1);
}

/// d02c357e5bfa: readers that try again and again took the lock that the invalidation needed.
#[test]
fn b12_readers_that_wait_do_not_touch_the_mirror_lock() {
    const READERS: u64 = 8;
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let builds = AtomicU64::new(0);
    let active = space.invalidate(0..8, EventKind::Clear);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let build = |_: interval_notifier::Attempt<'_>| Ok::<_, Infallible>(builds.fetch_add(1, Relaxed));
                mirror.update(Retry::forever(), build, |one, frame| one.0 = Some(frame)).unwrap();
            });
        }
        thread::sleep(A_WHILE);
        for _ in 0..100 {
            // The lock is free for every callback: non-blocking ones are not refused.
            space.try_invalidate(0..8, EventKind::Clear).unwrap().end();
        }
        assert_eq!(builds.load(Relaxed), 0);
        active.end();
    });
    assert!(builds.load(Relaxed) >= READERS);
}

/// D. Woodhouse, 2024: pfncache spun through the whole invalidation.
#[test]
#[cfg(target_os = "linux")]
fn b13_a_reader_that_waits_consumes_no_time() {
    /// Clock ticks (10 ms) that this thread has run, in user mode and in the kernel.
    fn ticks() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields = stat.rsplit_once(')').expect("the name is in parentheses").1;
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let active = space.invalidate(0..8, EventKind::Clear);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let before = ticks();
            mirror.read_begin().map(drop).unwrap();
            ticks() - before
        });
        thread::sleep(Duration::from_millis(300));
        active.end();
        let spent = reader.join().unwrap();
        assert!(spent <= 5, "{spent} of 30 ticks were spent waiting");
    });
}

/// DEPT v18: no lock checker sees that start to end is held, nor who waits for it.
#[test]
fn b18_waiting_for_the_own_invalidation_is_an_error() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let other = space.mirror(0..8, One::default()).unwrap();
    let active = space.invalidate(0..8, EventKind::Clear);
    assert!(matches!(mirror.read_begin(), Err(BeginError::InsideInvalidation)));
    other.unsubscribe().unwrap(); // waits for no end, so it is legal
    active.end();
    mirror.read_begin().map(drop).unwrap();
}

/// b570f37a2ce4: a spin on a trylock kept the owner of the lock off the only processor.
#[test]
#[cfg(target_os = "linux")]
fn b19_a_race_comes_to_its_end_on_one_processor() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = allowed.split([',', '-']).next().unwrap();
    let mut race = Command::new("taskset");
    race.args(["-c", first]).arg(std::env::current_exe().unwrap()).args(["--exact", "races::anon_teardown"]);
    match race.output() {
        Err(error) => eprintln!("not tested: taskset: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
    }
}

/// Documentation/gpu/rfc/gpusvm.rst: devices that want the same page took it from each other before either had used it.
/// So they did here, until the device backed off by a random time; the library itself is not fair between readers.
#[test]
fn b20_devices_that_want_the_same_page_both_make_progress() {
    const TURNS: u64 = 200;
    let (_, primary) = process();
    primary.store_all(0..PAGES, 0).unwrap();
    let devices = [(); 2].map(|()| Device::open(&primary));
    thread::scope(|scope| {
        for (device, page) in devices.iter().zip(0..) {
            scope.spawn(move || {
                for turn in 1..=TURNS {
                    while device.make_exclusive(0..2) == Err(Fault::Busy) {}
                    while device.write(page, &[turn]) == Err(Fault::Busy) {}
                }
            });
        }
    });
    assert_eq!(primary.load_all(0..2), Ok(vec![TURNS; 2]));
}

/// 8931a454aea0: one lock and one wake-up for all, whoever is concerned.
#[test]
fn b28_an_end_wakes_only_those_who_wait_for_it() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let active = space.invalidate(0..8, EventKind::Clear);
    let elsewhere = space.invalidate(8..16, EventKind::Clear);
    let (done, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            mirror.read_begin().map(drop).unwrap();
            done.send(()).unwrap();
        });
        thread::sleep(A_WHILE);
        elsewhere.end();
        assert!(wait.recv_timeout(A_WHILE).is_err());
        active.end();
        wait.recv().unwrap();
    });
}

/// C. König, 2026: a wait that cannot be left keeps signals from being handled.
#[test]
fn b29_a_wait_can_be_left_and_taken_up_again() {
    let space = AddressSpace::new();
    let mirror = space.mirror(0..8, One::default()).unwrap();
    let active = space.invalidate(0..8, EventKind::Clear).into_owned();
    for _ in 0..3 {
        assert!(matches!(mirror.read_begin_timeout(Duration::from_millis(1)), Err(BeginError::Active)));
    }
    thread::scope(|scope| {
        let reader = scope.spawn(|| mirror.read_begin_timeout(Duration::from_secs(60)).map(drop));
        active.end();
        reader.join().unwrap().unwrap();
    });
}
