//! The crate's public interface against the oracle, in one thread: callbacks that drop, subscribe, begin, invalidate,
//! refuse and panic.
//!
//! `cargo +nightly fuzz run protocol -- -detect_leaks=0`; the oracle is `src/model.rs`. (The epoch frees some memory in
//! a later run, so libFuzzer would look for leaks after each one: five times slower.) What fails goes into
//! `corpus/protocol` under a name that says what it was; `cargo test` replays it and prints the program.
#![no_main]

use interval_notifier::model::{ops_from_bytes, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| drop(run(&ops_from_bytes(bytes))));
