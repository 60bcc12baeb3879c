//! What waits for itself in a circle says so; locks that are declared are watched; rare events can be forced.
//!
//! Needs feature `checked`: `cargo test --features checked --test checked`.

mod circles;
mod faults;
mod locks;

use interval_notifier::{Ack, AddressSpace, Call, Change, Invalidate, MirrorState, Subscription, WouldBlock};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// A mirror whose callback runs `hook` under no lock.
struct Toy {
    copy: Arc<Mutex<u64>>,
    hook: Box<dyn Fn() + Send + Sync>,
}

impl Invalidate for Toy {
    type Locked = u64;
    fn invalidate(&self, call: &Call<'_, u64>) -> Result<Ack, WouldBlock> {
        (self.hook)();
        Ok(call.set_seq(&mut self.copy.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

fn subscribe(space: &AddressSpace, page: u64, hook: impl Fn() + Send + Sync + 'static) -> Subscription<Toy> {
    space.subscribe(page..=page, Toy { copy: Arc::default(), hook: Box::new(hook) }).expect("the space is not released")
}

/// A mirror whose lock is the library's.
struct State;

impl MirrorState for State {
    fn invalidate(&mut self, _: &Change) {}
}

/// What `call` panics with.
fn panic_of<R>(call: impl FnOnce() -> R) -> Option<String> {
    let text = |payload: Box<dyn Any + Send>| match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("a text")).to_owned(),
    };
    catch_unwind(AssertUnwindSafe(call)).err().map(text)
}
