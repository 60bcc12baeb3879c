//! Two passes: all callbacks start, then all finish, and a subscription is there until it has.

use super::toy::{CLEAR, PAGE, Word};
use super::{explore, spawn, thread};
use crate::slots::BATCH;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, lock};
use crate::{Ack, AddressSpace, Call, Finish, Invalidate, Subscription, WouldBlock};

/// What has happened, in order.
type Log = Arc<Mutex<Vec<(&'static str, usize)>>>;

type Answers = dyn Fn(&Call<'_, ()>, &mut ()) -> Result<Ack, WouldBlock> + Send + Sync;

/// A mirror that has its answer from a closure.
struct Device {
    lock: Mutex<()>,
    answer: Box<Answers>,
}

impl Invalidate for Device {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        (self.answer)(call, &mut lock(&self.lock))
    }
}

fn device(
    space: &AddressSpace,
    answer: impl Fn(&Call<'_, ()>, &mut ()) -> Result<Ack, WouldBlock> + Send + Sync + 'static,
) -> Subscription<Device> {
    let device = Device { lock: Mutex::new(()), answer: Box::new(answer) };
    space.subscribe(PAGE, device).expect("the space is not released")
}

/// A mirror that answers in two passes, the second of which is `finish`.
fn two_pass(space: &AddressSpace, finish: impl Fn() + Send + Sync + Clone + 'static) -> Subscription<Device> {
    device(space, move |call, locked| Ok(call.set_seq(locked).with_finish(Box::new(finish.clone()))))
}

/// Writes down its start and its finish.
fn logging(space: &AddressSpace, log: &Log, number: usize) -> Subscription<Device> {
    let log = log.clone();
    device(space, move |call, locked| {
        lock(&log).push(("start", number));
        let log = log.clone();
        Ok(call.set_seq(locked).with_finish(Box::new(move || lock(&log).push(("finish", number)))))
    })
}

#[test]
fn unsubscribe_waits_for_the_finish() {
    // What the finish did is read without a lock: `unsubscribe` makes it visible.
    explore(&["finished", "not called"], |seen| {
        let (space, finished) = (AddressSpace::new(), Arc::new(AtomicU64::new(0)));
        let called = Arc::new(AtomicU64::new(0));
        let sub = device(&space, {
            let (called, finished) = (called.clone(), finished.clone());
            move |call, locked| {
                called.store(1, Relaxed);
                let finished = finished.clone();
                Ok(call.set_seq(locked).with_finish(Box::new(move || finished.store(1, Relaxed))))
            }
        });
        let remover = spawn!([called, finished] {
            drop(sub);
            (called.load(Relaxed), finished.load(Relaxed))
        });
        space.invalidate(PAGE, CLEAR).end();
        let (called, finished) = remover.join().unwrap();
        assert_eq!(called, finished, "removed between its start and its finish");
        seen.note(if called == 1 { "finished" } else { "not called" });
    });
}

#[test]
fn unsubscribe_waits_for_a_finish_of_a_batch_that_another_has_replaced() {
    // Where the remover would find its subscription there is another one by now.
    explore(&["finished", "not called"], |seen| {
        let (space, state) = (AddressSpace::new(), Arc::new([(); 2].map(|()| AtomicU64::new(0))));
        let sub = device(&space, {
            let state = state.clone();
            move |call, locked| {
                state[0].store(1, Relaxed);
                let state = state.clone();
                Ok(call.set_seq(locked).with_finish(Box::new(move || state[1].store(1, Relaxed))))
            }
        });
        let _others: Vec<_> = (0..BATCH).map(|_| device(&space, |call, _| Ok(call.unaffected()))).collect();
        let remover = spawn!([state] {
            drop(sub);
            state.each_ref().map(|state| state.load(Relaxed))
        });
        space.invalidate(PAGE, CLEAR).end();
        let [called, finished] = remover.join().unwrap();
        assert_eq!(called, finished, "removed between its start and its finish");
        seen.note(if called == 1 { "finished" } else { "not called" });
    });
}

#[test]
fn unsubscribe_waits_for_a_finish_while_the_invalidation_stays_open() {
    explore(&["finished", "not called"], |seen| {
        let space = AddressSpace::new();
        let finished = Arc::new(AtomicU64::new(0));
        let sub = two_pass(&space, {
            let finished = finished.clone();
            move || finished.store(1, Relaxed)
        });
        let remover = thread::spawn(move || drop(sub));
        let open = space.invalidate(PAGE, CLEAR);
        remover.join().unwrap(); // Woken by the finish, not by the end.
        open.end();
        seen.note(if finished.load(Relaxed) == 1 { "finished" } else { "not called" });
    });
}

#[test]
fn calls_at_the_same_time_have_a_finish_each() {
    explore(&[], |_| {
        let (space, log) = (AddressSpace::new(), Log::default());
        let sub = logging(&space, &log, 1);
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        let count = |wanted| lock(&log).iter().filter(|(what, _)| *what == wanted).count();
        assert_eq!((count("start"), count("finish")), (2, 2));
        assert!(sub.try_read_begin().is_ok());
    });
}

/// The one finish of a mirror that must not allocate; it returns to its drawer.
struct Lent(Arc<Mutex<Option<Box<Lent>>>>);

impl Finish for Lent {
    fn finish(self: Box<Self>) -> Option<Box<dyn Finish>> {
        let drawer = self.0.clone();
        *lock(&drawer) = Some(self);
        None
    }
}

#[test]
fn a_finish_that_is_lent_out_leaves_one_pass_to_the_next_call() {
    explore(&["both in two passes", "one in one pass"], |seen| {
        let (space, drawer) = (AddressSpace::new(), Arc::new(Mutex::new(None)));
        *lock(&drawer) = Some(Box::new(Lent(drawer.clone())));
        let single = Arc::new(AtomicU64::new(0));
        let _sub = device(&space, {
            let (drawer, single) = (drawer.clone(), single.clone());
            move |call, locked| {
                let ack = call.set_seq(locked);
                let finish = lock(&drawer).take();
                Ok(match finish {
                    Some(finish) => ack.with_finish(finish),
                    None => {
                        single.fetch_add(1, Relaxed);
                        ack
                    }
                })
            }
        });
        let other = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        space.invalidate(PAGE, CLEAR).end();
        other.join().unwrap();
        let finish = lock(&drawer).take();
        assert!(finish.is_some(), "it is back");
        seen.note(["both in two passes", "one in one pass"][usize::try_from(single.load(Relaxed)).unwrap()]);
    });
}

#[test]
fn readers_stay_out_between_the_passes() {
    // The finish is in the middle of the change, as far as readers can tell.
    explore(&["before", "after", "thrown away"], |seen| {
        let (space, word) = (AddressSpace::new(), Word::new(10));
        let sub = two_pass(&space, {
            let word = word.clone();
            move || word.set(11)
        });
        let sub = Arc::new(sub);
        let reader = spawn!([sub, word] {
            let seq = sub.read_begin().unwrap();
            let value = word.get();
            let locked = lock(&sub.ops().lock);
            (!sub.read_retry(seq, &locked)).then_some(value)
        });
        let open = space.invalidate(PAGE, CLEAR);
        word.set(20);
        open.end();
        seen.note(match reader.join().unwrap() {
            Some(10) => "before",
            Some(20) => "after",
            None => "thrown away",
            Some(value) => panic!("a build from the middle of a change was accepted: {value}"),
        });
    });
}

/// What one thread can show: there is nothing to explore in it.
#[cfg(not(any(loom, shuttle)))]
mod alone {
    use super::*;
    use crate::tests::toy::ELSEWHERE;
    use crate::{BeginError, Change, Notifier};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::time::Duration;

    fn take(log: &Log) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut *lock(log))
    }

    /// Not by `panic!`, which would print something.
    fn panic() -> ! {
        resume_unwind(Box::new("a toy panics"))
    }

    fn caught<R>(run: impl FnOnce() -> R) -> Result<R, String> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|panic| match panic.downcast::<&str>() {
            Ok(text) => (*text).to_owned(),
            Err(panic) => *panic.downcast::<String>().expect("a text"),
        })
    }

    #[test]
    fn all_starts_come_before_all_finishes_and_those_in_the_order_of_the_starts() {
        // More than two batches of callbacks.
        let (space, log) = (AddressSpace::new(), Log::default());
        let subs: Vec<_> = (0..2 * BATCH + 1).map(|number| logging(&space, &log, number)).collect();
        let open = space.invalidate(PAGE, CLEAR);
        let of = |what| (0..subs.len()).map(move |number| (what, number));
        assert_eq!(take(&log), of("start").chain(of("finish")).collect::<Vec<_>>());
        open.end();
        space.release();
        assert_eq!(take(&log).len(), 2 * subs.len(), "the release has two passes too");
    }

    #[test]
    fn the_finishes_of_others_are_not_waited_for() {
        let (space, ended) = (AddressSpace::new(), Arc::new(Mutex::new(false)));
        let (inside, finishing) = std::sync::mpsc::channel();
        let _finishes = two_pass(&space, {
            let ended = ended.clone();
            move || {
                inside.send(()).expect("it is waited for");
                let in_time = (0..500).any(|_| {
                    thread::sleep(Duration::from_millis(10));
                    *lock(&ended)
                });
                assert!(in_time, "unsubscribe waits for a finish that is not its own");
            }
        });
        let answer = Box::new(|call: &Call<'_, ()>, _: &mut ()| Ok(call.unaffected()));
        let elsewhere = space.subscribe(ELSEWHERE, Device { lock: Mutex::new(()), answer }).expect("not released");
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        finishing.recv().expect("it finishes");
        assert!(elsewhere.unsubscribe().is_ok());
        *lock(&ended) = true;
        owner.join().expect("in time");
    }

    /// A finish that returns `more` further ones.
    struct Chained {
        log: Log,
        number: usize,
        more: usize,
    }

    impl Finish for Chained {
        fn finish(self: Box<Self>) -> Option<Box<dyn Finish>> {
            let Chained { log, number, more } = *self;
            lock(&log).push(("finish", number));
            more.checked_sub(1).map(|more| Box::new(Chained { log, number, more }) as _)
        }
    }

    #[test]
    fn a_further_finish_runs_after_all_others_of_the_pass() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let _subs = [2, 0, 1].map(|more| {
            let log = log.clone();
            device(&space, move |call, locked| {
                Ok(call.set_seq(locked).with_finish(Box::new(Chained { log: log.clone(), number: more, more })))
            })
        });
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(take(&log).iter().map(|(_, number)| *number).collect::<Vec<_>>(), [2, 0, 1, 2, 1, 2]);
    }

    #[test]
    fn a_refusal_still_finishes_the_earlier_ones_and_tells_no_later_one() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let first = logging(&space, &log, 1);
        let _middle = device(&space, |call, _| Err(call.would_block()));
        let _last = logging(&space, &log, 3);
        assert!(space.try_invalidate(PAGE, CLEAR).is_err());
        assert_eq!(take(&log), [("start", 1), ("finish", 1)]);
        assert!(first.try_read_begin().is_ok(), "something was left open");
        assert!(first.unsubscribe().is_ok());
    }

    struct Refusing(Log);
    impl Notifier for Refusing {
        fn start(&self, change: &Change) -> Result<(), WouldBlock> {
            lock(&self.0).push(("asked", 0));
            Err(change.would_block())
        }
    }

    #[test]
    fn all_finishes_have_run_when_the_first_notifier_is_asked() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let _notifier = space.register(Refusing(log.clone())).unwrap();
        let sub = logging(&space, &log, 1);
        assert!(space.try_invalidate(PAGE, CLEAR).is_err());
        assert_eq!(take(&log), [("start", 1), ("finish", 1), ("asked", 0)]);
        assert!(sub.try_read_begin().is_ok(), "something was left open");
    }

    #[test]
    fn a_panic_in_a_finish_poisons_its_subscription_and_nothing_else() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let first = logging(&space, &log, 1);
        let middle = two_pass(&space, || panic());
        let last = logging(&space, &log, 3);
        assert_eq!(caught(|| space.invalidate(PAGE, CLEAR).end()), Err("a toy panics".to_owned()));
        assert_eq!(take(&log), [("start", 1), ("start", 3), ("finish", 1), ("finish", 3)], "the others still run");
        assert!(first.try_read_begin().is_ok() && last.try_read_begin().is_ok(), "the invalidation has ended");
        assert_eq!(middle.try_read_begin().unwrap_err(), BeginError::Poisoned);
        assert!(caught(|| space.invalidate(PAGE, CLEAR).end()).is_ok(), "a poisoned one is not called again");
        assert!(middle.unsubscribe().is_ok(), "nobody holds it any more");
    }

    #[test]
    fn a_panic_in_a_start_still_finishes_the_earlier_ones() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let first = logging(&space, &log, 1);
        let second = two_pass(&space, || panic());
        let third = device(&space, |_, _| panic());
        assert!(caught(|| space.invalidate(PAGE, CLEAR).end()).is_err());
        assert_eq!(take(&log), [("start", 1), ("finish", 1)]);
        assert!(first.try_read_begin().is_ok(), "the invalidation has ended");
        for poisoned in [second, third] {
            assert_eq!(poisoned.try_read_begin().unwrap_err(), BeginError::Poisoned);
            assert!(poisoned.unsubscribe().is_ok(), "nobody holds it any more");
        }
    }

    #[test]
    fn a_finish_without_a_sequence_or_beside_another_panics_naming_the_rule() {
        let space = AddressSpace::new();
        let _sub = device(&space, |call, locked| {
            let late = caught(|| call.unaffected().with_finish(Box::new(|| ())));
            assert!(late.unwrap_err().contains("set_seq must be called in the first pass"));
            let twice = caught(|| call.set_seq(locked).with_finish(Box::new(|| ())).with_finish(Box::new(|| ())));
            assert!(twice.unwrap_err().contains("a call has one finish"));
            Ok(call.unaffected())
        });
        space.invalidate(PAGE, CLEAR).end();
    }

    /// A finish that uses its own subscription, as far as that is legal.
    fn using_itself(space: &AddressSpace, own: &Arc<Mutex<Option<Subscription<Device>>>>) -> Subscription<Device> {
        let own = own.clone();
        two_pass(space, move || {
            let sub = lock(&own).take().expect("put there");
            assert_eq!(sub.read_begin().unwrap_err(), BeginError::InsideCallback);
            let sub = sub.unsubscribe().err().expect("it would wait for itself").0;
            drop(sub); // Later.
        })
    }

    #[test]
    fn a_finish_that_would_wait_for_itself_is_told_so() {
        let (space, own) = (AddressSpace::new(), Arc::default());
        let sub = using_itself(&space, &own);
        *lock(&own) = Some(sub);
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(Arc::strong_count(&own), 1, "the value went when the finish had run");
    }

    /// k devices that take d each take about d together.
    #[test]
    fn b23_many_devices_are_waited_for_together() {
        use std::time::{Duration, Instant};
        const DEVICES: u32 = 16;
        const FLUSH: Duration = Duration::from_millis(20);
        let take_time = |two_passes| {
            let space = AddressSpace::new();
            let flushing = move |call: &Call<'_, ()>, locked: &mut ()| {
                let flushed = Instant::now() + FLUSH;
                let wait = move || thread::sleep(flushed.saturating_duration_since(Instant::now()));
                let ack = call.set_seq(locked);
                Ok(if two_passes {
                    ack.with_finish(Box::new(wait))
                } else {
                    wait();
                    ack
                })
            };
            let _devices: Vec<_> = (0..DEVICES).map(|_| device(&space, flushing)).collect();
            let before = Instant::now();
            space.invalidate(PAGE, CLEAR).end();
            before.elapsed()
        };
        let (one, two) = (take_time(false), take_time(true));
        eprintln!("{DEVICES} devices that flush in {FLUSH:?}: {one:?} in one pass, {two:?} in two");
        assert!(one >= DEVICES * FLUSH && two >= FLUSH);
        assert!(two < DEVICES * FLUSH / 3, "they were waited for one after the other: {two:?}");
    }
}
