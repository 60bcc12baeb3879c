//! What types promise by their auto traits, and errors by theirs. What must *not* compile is in the documentation.

use interval_notifier::*;
use std::cell::Cell;
use std::error::Error;
use std::fmt::Debug;

/// Neither `Debug` nor `Display` nor `Error`.
struct Plain;

impl Invalidate for Plain {
    type Locked = ();
    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        Ok(call.unaffected())
    }
}

impl MirrorState for Plain {
    fn invalidate(&mut self, _: &Change) {}
}

#[test]
fn handles_go_to_other_threads() {
    fn shared<T: Send + Sync + Debug + 'static>() {}
    shared::<AddressSpace>();
    shared::<AddressSpace<u128>>();
    shared::<Subscription<Plain>>();
    shared::<Mirror<Plain>>();
    shared::<OwnedInvalidation>();
    shared::<ReadSeq>();
    shared::<Span>();
    shared::<Event>();
    shared::<Owner>();
    shared::<Retry>();
}

#[test]
fn errors_are_errors_whatever_they_carry() {
    fn error<T: Error + Send + Sync + 'static>() {}
    error::<WouldBlock>();
    error::<Poisoned>();
    error::<BeginError>();
    error::<SubscribeError<Plain>>();
    error::<InsideCallback<Subscription<Plain>>>();
    error::<InsideCallback<Mirror<Plain>>>();
    error::<Collision<Plain>>();
    error::<UpdateError<std::io::Error>>();
}

#[test]
fn a_refused_subscription_gives_back_what_it_took() {
    fn refused(space: &AddressSpace) -> Result<(), Box<dyn Error + Send + Sync>> {
        drop(space.subscribe(5..5, Plain)?);
        Ok(())
    }
    let space = AddressSpace::new();
    let SubscribeError { ops: Plain, kind, .. } = space.subscribe(7..7, Plain).unwrap_err();
    assert_eq!(kind, SubscribeErrorKind::Empty);
    assert_eq!(refused(&space).unwrap_err().to_string(), "the range of the subscription is empty");
    space.release();
    let SubscribeError { ops: Plain, kind, .. } = space.mirror(.., Plain).unwrap_err();
    assert_eq!(kind, SubscribeErrorKind::Released);
}

#[test]
fn an_empty_range_invalidates_nothing() {
    let space = AddressSpace::new();
    let all = space.mirror(.., Plain).unwrap();
    let empty = space.invalidate(9..9, EventKind::Unmap);
    all.read_begin().map(drop).unwrap(); // would be `InsideInvalidation`
    assert_eq!(format!("{empty:?}"), "Invalidation(nothing)");
    empty.into_owned().end();
}

#[test]
#[should_panic(expected = "a ReadSeq must be given back to the subscription it is of")]
fn a_read_seq_of_another_subscription_is_refused() {
    let space = AddressSpace::new();
    let [one, other] = [space.mirror(0..1, Plain).unwrap(), space.mirror(0..1, Plain).unwrap()];
    let seq = one.read_begin().unwrap();
    let _ = other.check_retry(&seq);
}

#[test]
#[should_panic(expected = "a ReadSeq must be given back to the subscription it is of")]
fn a_read_seq_of_another_space_is_refused() {
    let [one, other] = [(); 2].map(|()| AddressSpace::new().mirror(0..1, Plain).unwrap());
    let seq = one.read_begin().unwrap();
    let _ = other.check_retry(&seq);
}

#[test]
#[should_panic(expected = "started over an empty range")]
fn the_range_of_an_empty_invalidation_is_asked_for() {
    AddressSpace::new().invalidate(3..3, EventKind::Unmap).range();
}

std::thread_local! {
    static KEPT: Cell<Option<Ack>> = const { Cell::new(None) };
}

/// Gives the answer that it, or another one, has kept; if there is none, keeps one of the two that it could give.
struct LateAnswer;

impl Invalidate for LateAnswer {
    type Locked = ();
    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        Ok(KEPT.take().unwrap_or_else(|| {
            KEPT.set(Some(call.unaffected()));
            call.unaffected()
        }))
    }
}

#[test]
#[should_panic(expected = "a callback must answer with an Ack of its own Call")]
fn the_answer_of_another_subscription_is_refused() {
    let space = AddressSpace::new();
    let _subs = [0..8, 4..12].map(|range| space.subscribe(range, LateAnswer).unwrap());
    space.invalidate(5..6, EventKind::Clear).end();
}

#[test]
#[should_panic(expected = "a callback must answer with an Ack of its own Call")]
fn the_answer_to_another_invalidation_is_refused() {
    let space = AddressSpace::new();
    let _sub = space.subscribe(0..8, LateAnswer).unwrap();
    space.invalidate(5..6, EventKind::Clear).end();
    space.invalidate(5..6, EventKind::Clear).end();
}
