//! Mirrors, a notifier and their space. None of their callbacks allocates.

use interval_notifier::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The event of an invalidation whose kind does not matter.
pub(crate) const CLEAR: EventKind = EventKind::Clear;

/// A mirror with a lock of its own, that counts its callbacks.
#[derive(Default)]
pub(crate) struct Counter(pub(crate) Mutex<u64>);

impl Invalidate for Counter {
    type Locked = u64;

    fn invalidate(&self, call: &Call<'_, u64>) -> Result<Ack, WouldBlock> {
        let mut calls = match self.0.try_lock() {
            Ok(calls) => calls,
            Err(_) if !call.is_blockable() => return Err(call.would_block()),
            Err(_) => self.0.lock().unwrap(),
        };
        *calls += 1;
        Ok(call.set_seq(&mut calls))
    }
}

/// The same behind the library's lock.
#[derive(Default)]
pub(crate) struct State(pub(crate) u64);

impl MirrorState for State {
    fn invalidate(&mut self, _: &Change) {
        self.0 += 1;
    }
}

/// A notifier that counts what it hears.
#[derive(Default)]
pub(crate) struct Listener(AtomicU64);

impl Notifier for Listener {
    fn start(&self, _: &Change) -> Result<(), WouldBlock> {
        self.0.fetch_add(1, Relaxed);
        Ok(())
    }
    fn end(&self, _: &Change) {
        self.0.fetch_add(1, Relaxed);
    }
}
