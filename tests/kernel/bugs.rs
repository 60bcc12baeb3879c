//! The kernel's known bugs and pains, B1 to B31: each that could exist here has a test named after it.
//!
//! Those without one, and why:
//!
//! - B16, a commit that takes a lock under which somebody else invalidates: such locks belong to the caller, the library
//!   cannot see them. What it can see, its own mirror locks, is `b17`.
//! - B24, tracking each range was never got right in eight drivers: this whole crate is that attempt. It is compared with
//!   the kernel's single sequence, operation by operation, in `src/tests/differential.rs`.
//!
//! Partly here: B1, B9, B23 and B30 also with the insides in view, under loom and Shuttle where threads matter, in
//! `src/tests/{removal,notifiers,two_pass}.rs`. B14 asks for a start that can be cancelled, which does not exist yet; what
//! a mirror can do about it does. B29 asks for waits that can be cancelled: there are time limits, and no async begin yet.

mod callbacks;
mod lifetime;
mod waiting;

use std::time::Duration;

use interval_notifier::{Ack, Call, Change, Invalidate, MirrorState, WouldBlock};

/// Long enough to see that somebody does not wait, or is not woken.
const A_WHILE: Duration = Duration::from_millis(30);

/// A mirror with one entry.
#[derive(Debug, Default, PartialEq)]
struct One(Option<u64>);

impl MirrorState for One {
    fn invalidate(&mut self, _: &Change) {
        self.0 = None;
    }
}

/// Calls `hear`, then answers with `set_seq`. Its lock protects nothing.
struct Ear<F>(F);

impl<F: Fn(&Change) -> Result<(), WouldBlock> + Send + Sync + 'static> Invalidate for Ear<F> {
    type Locked = ();

    fn invalidate(&self, call: &Call<'_, ()>) -> Result<Ack, WouldBlock> {
        (self.0)(call)?;
        Ok(call.set_seq(&mut ()))
    }
}

/// What `run` panics with, if it does.
fn panic_of(run: impl FnOnce()) -> Option<String> {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    Some(text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("panics carry a text"))
}
