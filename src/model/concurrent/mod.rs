//! Programs of several threads over a few overlapping ranges, against the concurrent form of the oracle.
//!
//! The owner has pages, each with a generation that every change raises. What is asserted, whatever the schedule:
//!
//! - at commit, every page that was built has the generation that it has now (P1: a change since would have collided);
//! - from start to end, no mirror holds a page of the range (P2);
//! - no value is dropped while it is called or is to be finished, and nobody is called twice for one change (P4);
//! - whoever is registered has heard the start of every change that it sees under way (P5);
//! - at rest, every page that a mirror holds has its last generation, and every value was dropped exactly once (P4).
//!
//! A program is made of bytes: of a seed's in the tests, of the fuzzer's in [`scheduled`], where the rest of the input is
//! the schedule.

mod program;
#[cfg(shuttle)]
mod scheduled;
mod world;

#[cfg(shuttle)]
pub use scheduled::run_scheduled;
pub(crate) use world::run;

#[cfg(test)]
use arbitrary::Unstructured;

/// Steps of a thread.
const STEPS: usize = 4;

/// The program of a test: two threads that meet, and one to three more of which `bytes` tells.
#[cfg(test)]
pub(crate) fn program(bytes: &[u8]) -> program::Program {
    let mut bytes = Unstructured::new(bytes);
    let more = bytes.int_in_range(1..=3).and_then(|more| program::threads(&mut bytes, more, STEPS));
    let mut all = program::that_meet();
    all.extend(more.expect("what the bytes do not tell is the first of its kind"));
    all
}
