//! Whole-space notifiers: in which order, who is undone, and when nobody is called any more.

use super::toy::{CLEAR, PAGE};
use super::{explore, spawn};
use crate::sync::atomic::{AtomicU64, Ordering::*};
use crate::sync::{Arc, Mutex, lock};
use crate::{AddressSpace, Change, Notifier, Registration, SecondaryTlb, Span, WouldBlock};

/// What has happened, in order.
type Log = Arc<Mutex<Vec<(&'static str, usize)>>>;

fn take(log: &Log) -> Vec<(&'static str, usize)> {
    std::mem::take(&mut *lock(log))
}

type Hook = Box<dyn Fn(&Change) -> Result<(), WouldBlock> + Send + Sync>;

/// Writes down what it hears. `start` and `end` run their hooks first.
struct Ear {
    name: usize,
    log: Log,
    start: Hook,
    end: Hook,
    young: bool,
}

impl Ear {
    fn new(name: usize, log: &Log) -> Self {
        Ear { name, log: log.clone(), start: Box::new(|_| Ok(())), end: Box::new(|_| Ok(())), young: false }
    }
    fn at_start(self, start: impl Fn(&Change) -> Result<(), WouldBlock> + Send + Sync + 'static) -> Self {
        Ear { start: Box::new(start), ..self }
    }
    fn at_end(self, end: impl Fn(&Change) -> Result<(), WouldBlock> + Send + Sync + 'static) -> Self {
        Ear { end: Box::new(end), ..self }
    }
    fn hear(&self, what: &'static str) {
        lock(&self.log).push((what, self.name));
    }
}

impl Notifier for Ear {
    fn start(&self, change: &Change) -> Result<(), WouldBlock> {
        self.hear("start");
        (self.start)(change)
    }
    fn end(&self, change: &Change) {
        self.hear("end");
        (self.end)(change).expect("an end is not refused");
    }
    fn clear_flush_young(&self, range: Span) -> bool {
        assert_eq!(range, Span::new(PAGE).unwrap());
        self.hear("flush");
        self.young
    }
    fn clear_young(&self, range: Span) -> bool {
        assert_eq!(range, Span::new(PAGE).unwrap());
        self.hear("clear");
        self.young
    }
    fn test_young(&self, address: u64) -> bool {
        assert_eq!(address, PAGE.start);
        self.hear("test");
        self.young
    }
    fn release(&self) {
        self.hear("release");
    }
}

impl SecondaryTlb for Ear {
    fn invalidate(&self, range: Span) {
        assert_eq!(range, Span::new(PAGE).unwrap());
        self.hear("tlb");
    }
}

fn register(space: &AddressSpace, ear: Ear) -> Registration<Ear> {
    space.register(ear).expect("nothing is waited for")
}

#[test]
fn a_registration_waits_for_what_is_active_and_hears_all_of_the_rest_or_nothing() {
    explore(&["heard", "not heard"], |seen| {
        let (space, inside, log) = (AddressSpace::new(), Arc::new(AtomicU64::new(0)), Log::default());
        let owner = spawn!([space, inside] {
            let open = space.invalidate(PAGE, CLEAR);
            inside.store(1, Release);
            inside.store(0, Release);
            open.end();
        });
        let registration = space.register(Ear::new(1, &log)).unwrap();
        if inside.load(Acquire) == 1 {
            assert!(lock(&log).contains(&("start", 1)), "an invalidation is half-way, and it does not know of it");
        }
        owner.join().unwrap();
        let heard = take(&log);
        assert!(heard.is_empty() || heard == [("start", 1), ("end", 1)], "{heard:?}");
        seen.note(if heard.is_empty() { "not heard" } else { "heard" });
        drop(registration);
    });
}

#[test]
fn after_unregister_nobody_calls() {
    explore(&["start and end", "start", "nothing"], |seen| {
        let (space, log) = (AddressSpace::new(), Log::default());
        let calls = Arc::new(AtomicU64::new(0));
        let count = |calls: &Arc<AtomicU64>| {
            let calls = calls.clone();
            // Not a read-modify-write, which would see the latest value in any case.
            move |_: &Change| {
                calls.store(calls.load(Relaxed) + 1, Relaxed);
                Ok(())
            }
        };
        let ear = Ear::new(1, &log).at_start(count(&calls)).at_end(count(&calls));
        let registration = register(&space, ear);
        let owner = spawn!([space] space.invalidate(PAGE, CLEAR).end());
        drop(registration.unregister().unwrap());
        let called = calls.load(Relaxed);
        owner.join().unwrap();
        assert_eq!(calls.load(Relaxed), called, "called after `unregister` had returned");
        seen.note(["nothing", "start", "start and end"][usize::try_from(called).unwrap()]);
    });
}

/// What one thread can show: there is nothing to explore in it.
#[cfg(not(any(loom, shuttle)))]
mod alone {
    use super::*;
    use crate::tests::toy::{ELSEWHERE, Sub, Toy, one};
    use crate::{BeginError, EventKind, InsideCallback, MirrorState, RegisterErrorKind};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    /// A subscription that writes down when it is called, and refuses what must not block if it `refuses`.
    fn logging(space: &AddressSpace, log: &Log, name: usize, refuses: bool) -> Arc<Sub> {
        let log = log.clone();
        let toy = Toy::meeting(move |call| {
            lock(&log).push(("sub", name));
            if refuses && !call.is_blockable() { Err(call.would_block()) } else { Ok(()) }
        });
        Sub::new(space, PAGE, &toy)
    }

    fn refusing(change: &Change) -> Result<(), WouldBlock> {
        if change.is_blockable() { Ok(()) } else { Err(change.would_block()) }
    }

    /// Not by `panic!`, which would print something.
    fn panicking(_: &Change) -> Result<(), WouldBlock> {
        resume_unwind(Box::new("a notifier panics"))
    }

    fn unwinds<R>(run: impl FnOnce() -> R) -> bool {
        catch_unwind(AssertUnwindSafe(run)).is_err()
    }

    #[test]
    fn starts_go_up_and_then_to_the_newest_first_and_ends_go_back() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let sub = logging(&space, &log, 1, false);
        let upper = Sub::new(&space, PAGE.start + 1.., &{
            let log = log.clone();
            Toy::meeting(move |_| {
                lock(&log).push(("sub", 2));
                Ok(())
            })
        });
        let still_active = {
            let sub = sub.clone();
            move |_: &Change| {
                assert_eq!(sub.try_read_begin().unwrap_err(), BeginError::Active, "let go before the end was told");
                Ok(())
            }
        };
        let _oldest = register(&space, Ear::new(4, &log).at_end(still_active));
        let _newest = register(&space, Ear::new(3, &log));
        let open = space.invalidate(PAGE, CLEAR);
        assert_eq!(take(&log), [("sub", 1), ("sub", 2), ("start", 3), ("start", 4)]);
        open.end();
        assert_eq!(take(&log), [("end", 4), ("end", 3)]);
        assert!(sub.try_read_begin().is_ok() && upper.try_read_begin().is_ok());
    }

    #[test]
    fn all_are_told_of_the_same_change() {
        let (space, log, told) = (AddressSpace::new(), Log::default(), Arc::new(Mutex::new(Vec::new())));
        let tell = |told: &Arc<Mutex<Vec<_>>>| {
            let told = told.clone();
            move |change: &Change| {
                let event = change.event().kind();
                lock(&told).push((change.range(), change.overlap(), event, change.ticket(), change.is_blockable()));
                Ok(())
            }
        };
        let _sub = Sub::new(
            &space,
            PAGE,
            &Toy::meeting({
                let tell = tell(&told);
                move |call| tell(call)
            }),
        );
        let _ear = register(&space, Ear::new(1, &log).at_start(tell(&told)).at_end(tell(&told)));
        let wide = PAGE.start - 1..PAGE.end;
        space.try_invalidate(wide.clone(), EventKind::Migrate).unwrap().end();
        let told = lock(&told);
        let [of_sub, of_start, of_end] = told[..] else { panic!("{told:?}") };
        let (wide, page) = (Span::new(wide).unwrap(), Span::new(PAGE).unwrap());
        assert_eq!((of_sub.0, of_sub.1, of_sub.2, of_sub.4), (wide, page, EventKind::Migrate, false));
        assert_eq!(of_start, (wide, wide, EventKind::Migrate, of_sub.3, false), "the whole, and the same ticket");
        assert_eq!(of_end, of_start);
    }

    #[test]
    fn a_refusal_anywhere_undoes_exactly_what_was_started() {
        const CALLS: [(&str, usize); 4] = [("sub", 0), ("sub", 1), ("start", 2), ("start", 3)];
        for refuser in 0..CALLS.len() {
            let (space, log) = (AddressSpace::new(), Log::default());
            let ear = |name| match name {
                _ if name == refuser => Ear::new(name, &log).at_start(refusing),
                _ => Ear::new(name, &log),
            };
            let registered = [register(&space, ear(3)), register(&space, ear(2))];
            let subs = [0, 1].map(|name| logging(&space, &log, name, name == refuser));
            assert!(space.try_invalidate(PAGE, CLEAR).is_err());
            // Everybody up to the one that refused; then the end for the notifiers before it, in reverse.
            let ended = CALLS[..refuser].iter().skip(2).rev().map(|&(_, name)| ("end", name));
            assert_eq!(take(&log), CALLS[..=refuser].iter().copied().chain(ended).collect::<Vec<_>>());
            assert!(subs.iter().all(|sub| sub.try_read_begin().is_ok()), "something was left open");
            assert!(subs.into_iter().all(|sub| sub.unshared().unsubscribe().is_ok()));
            assert!(registered.into_iter().all(|registration| registration.unregister().is_ok()));
        }
    }

    /// Row 24 of the kernel's behaviour, bug B9, open upstream: when a notifier of the list refuses after the intervals have
    /// been called, their counter stays raised, and nobody may bring it down. Every later begin or removal hangs.
    #[test]
    fn b9_row_24_a_notifier_that_refuses_leaves_no_reader_and_no_remover_waiting() {
        for hit in [true, false] {
            let (space, sub, _) = one();
            let _ear = register(&space, Ear::new(1, &Log::default()).at_start(refusing));
            let range = if hit { PAGE } else { ELSEWHERE };
            assert!(space.try_invalidate(range, CLEAR).is_err());
            assert!(sub.try_read_begin().is_ok(), "a reader would wait for ever");
            let born = Sub::new(&space, .., &Toy::new());
            assert!(born.try_read_begin().is_ok(), "a newcomer would wait for ever");
            assert_eq!(sub.unshared().unsubscribe().unwrap().calls(), u64::from(hit));
            assert_eq!(born.unshared().unsubscribe().unwrap().calls(), 0);
            assert!(format!("{space:?}").contains("invalidations: 0"), "{space:?}");
        }
    }

    #[test]
    fn b30_unregistering_between_start_and_end_leaves_nothing_behind() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let (first, second) = (register(&space, Ear::new(1, &log)), register(&space, Ear::new(2, &log)));
        let open = space.invalidate(PAGE, CLEAR);
        assert!(first.unregister().is_ok(), "the end is not waited for");
        assert_eq!(take(&log), [("start", 2), ("start", 1), ("release", 1)]);
        open.end();
        assert_eq!(take(&log), [("end", 2)]);
        drop(second);
        let again = register(&space, Ear::new(3, &log));
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(take(&log), [("release", 2), ("start", 3), ("end", 3)]);
        drop(again);
    }

    #[test]
    fn all_are_asked_for_the_age_and_any_yes_will_do() {
        let (space, log) = (AddressSpace::new(), Log::default());
        assert!(!space.clear_young(PAGE) && !space.test_young(PAGE.start));
        let ear = |name, young| register(&space, Ear { young, ..Ear::new(name, &log) });
        let _registered = [ear(1, false), ear(2, true), ear(3, false)];
        assert!(space.clear_flush_young(PAGE));
        assert_eq!(take(&log), [("flush", 3), ("flush", 2), ("flush", 1)]);
        assert!(space.clear_young(PAGE));
        assert_eq!(take(&log), [("clear", 3), ("clear", 2), ("clear", 1)]);
        assert!(space.test_young(PAGE.start));
        assert_eq!(take(&log), [("test", 3), ("test", 2)], "it stops at the first yes");
        assert!(!space.clear_flush_young(0..0) && !space.clear_young(0..0), "nothing is never young");
        assert_eq!(take(&log), []);
    }

    #[test]
    fn a_secondary_tlb_hears_of_flushes_and_of_nothing_else() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let _notifier = register(&space, Ear::new(1, &log));
        let _tlb = space.register_tlb(Ear { young: true, ..Ear::new(2, &log) }).unwrap();
        assert!(!space.test_young(PAGE.start) && !space.clear_young(PAGE));
        space.invalidate_while(PAGE, CLEAR, || space.invalidate_tlbs(PAGE));
        space.invalidate_tlbs(0..0);
        assert_eq!(take(&log), [("test", 1), ("clear", 1), ("start", 1), ("tlb", 2), ("end", 1)]);
    }

    struct State;
    impl MirrorState for State {
        fn invalidate(&mut self, _: &Change) {}
    }

    #[test]
    fn waiting_for_oneself_is_an_error() {
        let (space, log) = (AddressSpace::new(), Log::default());
        let kind = || space.register(Ear::new(9, &log)).unwrap_err().kind;
        let open = space.invalidate(PAGE, CLEAR);
        assert_eq!(kind(), RegisterErrorKind::InsideInvalidation);
        drop(open);
        let mirror = space.mirror(PAGE, State).unwrap();
        let own = register(&space, Ear::new(1, &log));
        let guard = mirror.lock().unwrap();
        assert_eq!(kind(), RegisterErrorKind::InsideCallback);
        assert!(space.synchronize().is_err());
        let InsideCallback(own) = own.unregister().err().expect("a callback may want the lock");
        drop(guard);
        drop(own);

        let drawer = Arc::new(Mutex::new(None));
        let ear = Ear::new(2, &log).at_start({
            let (space, log, drawer) = (space.clone(), log.clone(), drawer.clone());
            move |_| {
                let own: Option<Registration<Ear>> = lock(&drawer).take();
                let InsideCallback(own) = own.expect("put there").unregister().err().expect("its own callback");
                assert_eq!(space.register(Ear::new(9, &log)).unwrap_err().kind, RegisterErrorKind::InsideCallback);
                assert!(space.synchronize().is_err());
                drop(own); // Later; it does not hear of the end.
                Ok(())
            }
        });
        *lock(&drawer) = Some(register(&space, ear));
        take(&log);
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(take(&log), [("start", 2), ("release", 2)]);
        assert_eq!(Arc::strong_count(&drawer), 1, "whoever left the callback has dropped it");
    }

    #[test]
    fn a_notifier_that_panics_is_not_called_any_more_and_the_others_are_told_of_the_end() {
        let (space, sub, _) = one();
        let log = Log::default();
        let oldest = register(&space, Ear::new(3, &log));
        let at_start = register(&space, Ear::new(2, &log).at_start(panicking));
        let at_end = register(&space, Ear::new(1, &log).at_end(panicking));
        assert!(unwinds(|| space.invalidate(PAGE, CLEAR).end()));
        assert_eq!(take(&log), [("start", 1), ("start", 2), ("end", 1)], "it had started with that one only");
        assert!(sub.try_read_begin().is_ok(), "something was left open");
        space.invalidate(PAGE, CLEAR).end();
        assert_eq!(take(&log), [("start", 3), ("end", 3)]);
        drop((at_start, at_end));
        assert_eq!(take(&log), [], "not even of a release");
        drop(oldest);
    }

    #[test]
    fn a_panic_in_an_end_keeps_it_from_nobody() {
        let (space, sub, _) = one();
        let log = Log::default();
        let _registered = [
            register(&space, Ear::new(1, &log).at_end(panicking)),
            register(&space, Ear::new(2, &log).at_end(panicking)),
            register(&space, Ear::new(3, &log)),
        ];
        let open = space.invalidate(PAGE, CLEAR);
        assert!(unwinds(|| open.end()));
        assert_eq!(take(&log)[3..], [("end", 1), ("end", 2), ("end", 3)]);
        assert!(sub.try_read_begin().is_ok(), "readers go on");
    }
}
