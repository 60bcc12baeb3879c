//! Small things that users write and that must compile: literals that infer, trait objects, `?`, left-out types.

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};

use interval_notifier::{
    Ack, Address, AddressSpace, Call, Change, EventKind, Invalidate, Mirror, MirrorState, Retry, Subscription,
    WouldBlock,
};

/// Callbacks for any address type.
struct Ops;

impl<A: Address> Invalidate<A> for Ops {
    type Locked = u8;

    fn invalidate(&self, call: &Call<'_, u8, A>) -> Result<Ack, WouldBlock> {
        Ok(call.unaffected())
    }
}

/// A mirror of a list.
struct List(Vec<u64>);

impl MirrorState for List {
    fn invalidate(&mut self, _: &Change) {
        self.0.clear();
    }
}

#[test]
fn literals_infer_u64() {
    let space = AddressSpace::new();
    let first = space.invalidate(0x1000..0x2000, EventKind::Unmap);
    let _sub = space.subscribe(0x1000..=0x1fff, Ops).unwrap();
    let all = space.invalidate(.., EventKind::Clear);
    assert_eq!((first.range().last(), all.range().last()), (0x1fff, u64::MAX));
}

#[test]
fn literals_infer_another_type_of_the_space() {
    let space = AddressSpace::<u32>::default();
    let change = space.invalidate(0x1000.., EventKind::Unmap);
    assert_eq!(change.range().last(), u32::MAX);
}

/// Drops its own subscription when it is called.
struct Once {
    lock: Mutex<()>,
    sub: Mutex<Option<Subscription<Arc<Once>>>>,
}

impl Invalidate for Once {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        drop(self.sub.lock().unwrap().take());
        Ok(call.set_seq(&mut self.lock.lock().unwrap()))
    }
}

#[test]
fn a_callback_may_drop_its_own_subscription() {
    let space = AddressSpace::new();
    let once = Arc::new(Once { lock: Mutex::new(()), sub: Mutex::new(None) });
    *once.sub.lock().unwrap() = Some(space.subscribe(.., Arc::clone(&once)).unwrap());
    assert_eq!(Arc::strong_count(&once), 2);
    space.invalidate_while(0..1, EventKind::Clear, || {});
    space.invalidate_while(0..1, EventKind::Clear, || {});
    assert_eq!(Arc::strong_count(&once), 1, "the removal was deferred, and done");
}

#[test]
fn errors_work_with_the_question_mark_whatever_they_give_back() -> Result<(), Box<dyn Error + Send + Sync>> {
    let space = AddressSpace::new();
    let sub = space.subscribe(.., Ops)?;
    let Ops = sub.unsubscribe()?;
    Ok(())
}

#[test]
fn subscriptions_of_several_types_live_in_one_list() {
    let space = AddressSpace::new();
    let subs: Vec<Subscription<Box<dyn Invalidate<Locked = u8>>>> = vec![
        space.subscribe(..0x1000, Box::new(Ops) as _).unwrap(),
        space.subscribe(0x1000.., Box::new(Arc::new(Ops)) as _).unwrap(),
    ];
    assert_eq!(subs[0].range().last() + 1, subs[1].range().first());
}

#[test]
fn the_address_type_may_be_left_out() {
    let space = AddressSpace::new();
    let mirror: Mirror<List> = space.mirror(0..4096, List(vec![])).unwrap();
    mirror.update(Retry::forever(), |_| Ok::<_, Infallible>(1), |list, built| list.0.push(built)).unwrap();
    let _another = space.mirror(8..16, List(vec![])).unwrap();
    assert_eq!(mirror.unsubscribe().unwrap().0, [1]);
}
