//! The oracle: the promises of the crate as one thread can check them, for unit tests and for the fuzzer.
//!
//! A run drives an [`AddressSpace`](crate::AddressSpace) through its public interface with toy mirrors on one side
//! and a toy primary on the other: a table of pages, each with a generation. Callbacks drop, subscribe, begin,
//! invalidate and panic as their scripts say. After each step the crate's answer is compared with the oracle's,
//! which is made of plain lists and knows nothing of the protocol:
//!
//! - **P1 no stale commit**: a build is accepted only if nothing that overlaps its subscription called back since the
//!   begin, and no page that a mirror holds is older than the last change that concerned it;
//! - **P2 nothing mapped inside**: no mirror holds a page of an invalidation that is active and concerns it;
//! - **P3 no false alarm**: nobody else is called back, waited for or retried;
//! - **P4 removal is final**: whoever is removed is not called again, and its value is dropped once;
//! - **P5 insertion is total**: whoever is subscribed is called back by every start that overlaps, ascending by
//!   `(first, last)` and then in the order of subscribing; whatever was active before is waited for;
//! - **P6 refusals leave nothing**: a start that was refused has ended for everybody it had reached;
//! - **P7 no silent hang**: what would wait for its own caller says so, and a panicking callback poisons its
//!   subscription, and nothing else.
//!
//! Whole-space notifiers have programs and an oracle of their own, [`notified`].
//!
//! What several threads can show is asserted by [`concurrent`], and scenario by scenario in `tests`.

#[cfg(any(shuttle, all(test, not(loom))))]
mod concurrent;
#[cfg(not(any(loom, shuttle)))]
pub(crate) mod differential;
mod mirror;
#[cfg(not(any(loom, shuttle)))]
mod notified;
mod op;
mod oracle;
mod primary;
mod toy;
mod tree;
mod world;

use std::collections::BTreeMap;

#[cfg(shuttle)]
pub use concurrent::run_scheduled;
#[cfg(all(test, not(loom)))]
pub(crate) use concurrent::{program, run as run_threads};
#[cfg(not(any(loom, shuttle)))]
pub use differential::run_beside_the_kernel;
#[cfg(not(any(loom, shuttle)))]
pub use notified::{notified_from_bytes, run_notified};
pub use op::{Op, ops_from_bytes};
pub use tree::run_tree;

/// Runs a program against the crate and the oracle, and panics where they disagree. It tells how often each outcome was
/// reached, so that a test can tell that it was not vacuous.
pub fn run(ops: &[Op]) -> BTreeMap<String, u64> {
    let world = world::World::new();
    ops.iter().for_each(|op| world.step_and_rest(op));
    world.tear_down();
    std::mem::take(&mut world.oracle().reached)
}
