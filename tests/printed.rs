//! What errors say, and what handles and guards print as.

use interval_notifier::*;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::io;
use std::sync::Mutex;

/// Prints what it is told.
#[derive(Default)]
struct Scribe(Mutex<Vec<String>>);

impl Invalidate for Scribe {
    type Locked = ();
    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        let ack = call.unaffected();
        *self.0.lock().unwrap() = vec![format!("{call:?}"), format!("{ack:?}")];
        Ok(ack)
    }
}

/// Neither `Debug` nor anything else.
struct Plain;

impl Notifier for Plain {}

#[derive(Debug)]
struct State;

impl MirrorState for State {
    fn invalidate(&mut self, _: &Change) {}
}

fn printed(what: impl Debug) -> String {
    format!("{what:?}")
}

#[test]
fn handles_and_guards_say_what_they_are_of() {
    let space = AddressSpace::new();
    let sub = space.subscribe(1..=4, Scribe::default()).unwrap();
    let mirror = space.mirror(0..9, State).unwrap();
    assert_eq!(printed(&sub), "Subscription { range: 1..=4, .. }");
    assert_eq!(printed(&mirror), "Mirror { range: 0..=8, .. }");
    assert_eq!(printed(mirror.lock().unwrap()), "MirrorGuard(State)");
    let build = |attempt: Attempt<'_>| Ok::<_, BeginError>(printed(attempt));
    let attempt = mirror.update(Retry::forever(), build, |_, printed| printed).unwrap();
    assert_eq!(attempt, "Attempt { number: 1, collided_with: None, is_stale: false }");

    let open = space.invalidate(2..3, EventKind::Unmap);
    assert_eq!(
        *sub.ops().0.lock().unwrap(),
        [
            "Call { change: Change { range: 2..=2, overlap: 2..=2, event: Event { kind: Unmap, owner: None }, ticket: 1, \
             blockable: true }, collided: false }",
            "Ack { collided: false, finish: false }",
        ]
    );
    let of_space = |subscriptions, invalidations, notifiers| {
        format!(
            "AddressSpace {{ subscriptions: {subscriptions}, invalidations: {invalidations}, notifiers: {notifiers}, .. }}"
        )
    };
    assert_eq!(printed(&space), of_space(2, 1, 0));
    assert_eq!(printed(&open), "Invalidation(2..=2)");
    let open = open.into_owned();
    assert_eq!(printed(&open), "OwnedInvalidation(2..=2)");
    open.end();
    let notifier = space.register(Plain).unwrap();
    assert_eq!(printed(&notifier), format!("Registration {{ space: {}, .. }}", of_space(2, 0, 1)));
    let shared = space.get_or_register(|| Plain).unwrap();
    assert_eq!(printed(&shared), format!("SharedNotifier {{ space: {}, .. }}", of_space(2, 0, 2)));
}

#[test]
fn a_table_and_its_cache_print_what_is_mapped() {
    let mut table = TranslationTable::<u64, u64>::new();
    let cache = table.device_cache();
    assert_eq!((printed(&table), printed(&cache)), ("{}".into(), "{}".into()));
    table.map(0x1000..0x3000, 7).unwrap();
    assert_eq!(printed(&table), "{4096..=12287: 7}");
    assert_eq!((table.translate(0x1001), cache.lookup(0x1001)), (Some(8), Some(8)));
    assert_eq!(printed(&cache), "{4096..=12287: 7}");
}

#[test]
fn errors_say_what_was_wrong_and_name_the_cause() {
    fn message(error: impl Display) -> String {
        error.to_string()
    }
    assert_eq!(message(BeginError::Active), "an overlapping invalidation is active");
    assert_eq!(
        message(BeginError::InsideCallback),
        "a begin inside the subscription's own callback, or under a mirror lock, would wait for itself"
    );
    assert_eq!(
        message(BeginError::InsideInvalidation),
        "this thread holds the overlapping invalidation open: it would wait for itself"
    );
    assert_eq!(message(BeginError::Poisoned), "a callback of the subscription panicked");
    assert_eq!(message(BeginError::Released), "the address space has been released");

    let space = AddressSpace::new();
    let mirror = space.mirror(0..9, State).unwrap();
    let failed =
        mirror.update(Retry::forever(), |_| Err::<(), _>(io::Error::other("no frame")), |_, ()| ()).unwrap_err();
    assert_eq!(message(&failed), "the build failed: no frame");
    assert_eq!(failed.source().unwrap().to_string(), "no frame");
    let overtaken = mirror.update(
        Retry::times(2),
        |_| {
            space.invalidate(.., EventKind::Clear).end();
            Ok::<_, io::Error>(())
        },
        |_, ()| (),
    );
    let exhausted = overtaken.unwrap_err();
    assert_eq!(message(&exhausted), "gave up, after 2 builds that invalidations overtook");
    assert!(exhausted.source().is_none());

    space.release();
    let late = mirror.update(Retry::forever(), |_| Ok::<_, io::Error>(()), |_, ()| ()).unwrap_err();
    assert_eq!(message(&late), "the build could not begin: the address space has been released");
    assert_eq!(late.source().unwrap().to_string(), "the address space has been released");
    let refused = space.subscribe(0..1, Scribe::default()).unwrap_err();
    assert_eq!(message(&refused), "the address space has been released");
    assert_eq!(printed(&refused), "SubscribeError { kind: Released, .. }");
    let refused = space.register(Plain).unwrap_err();
    assert_eq!(message(&refused), "the address space has been released");
    assert_eq!(printed(&refused), "RegisterError { kind: Released, .. }");
    assert_eq!(message(RegisterErrorKind::InsideCallback), "registering inside a callback would wait for itself");
    assert_eq!(
        message(RegisterErrorKind::InsideInvalidation),
        "registering inside an own open invalidation would wait for itself"
    );
    assert_eq!(message(RegisterErrorKind::TooManyHandles), "there are too many handles of this notifier");
    let overflow = TranslationTable::<u64, u32>::default().map(0..8, u32::MAX).unwrap_err();
    assert_eq!(message(overflow), "cannot map 0..=7 to 4294967295 and on: the last target does not fit its type");
}

#[test]
fn a_notifier_that_says_nothing_accepts_everything_and_has_seen_no_use() {
    let space = AddressSpace::new();
    let _plain = space.register(Plain).unwrap();
    space.try_invalidate(0..9, EventKind::Clear).unwrap().end();
    assert!(!space.clear_flush_young(0..9) && !space.clear_young(0..9) && !space.test_young(5));
}
