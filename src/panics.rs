//! Several pieces of the user's code, all of which must run although one of them panics.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The first panic of several calls; it goes on when all have run.
#[derive(Default)]
pub(crate) struct Panics {
    first: Cell<Option<Box<dyn Any + Send>>>,
}

impl Panics {
    /// Calls it; `None` if it panics.
    pub(crate) fn catch<R>(&self, call: impl FnOnce() -> R) -> Option<R> {
        let payload = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => return Some(result),
            Err(payload) => payload,
        };
        match self.first.take() {
            None => self.first.set(Some(payload)),
            Some(first) => {
                self.first.set(Some(first));
                discard(payload);
            }
        }
        None
    }

    /// Lets the first panic go on, unless this thread unwinds already.
    pub(crate) fn resume(self) {
        match self.first.into_inner() {
            Some(payload) if std::thread::panicking() => discard(payload),
            Some(payload) => resume_unwind(payload),
            None => {}
        }
    }
}

/// Drops what a panic carries. That is code of the user too, and may panic in its turn, and so may what that carries: a few
/// times are enough.
fn discard(mut payload: Box<dyn Any + Send>) {
    for () in [(); 4] {
        match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(again) => payload = again,
        }
    }
    std::mem::forget(payload);
}
