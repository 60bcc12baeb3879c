//! The crate's public interface in one thread: against the oracle, with callbacks that drop, subscribe, begin, invalidate,
//! refuse and panic; notifiers of every kind against theirs; and against the kernel's state machine, from which it may differ
//! only as was decided.
//!
//! `cargo +nightly fuzz run protocol -- -detect_leaks=0`; the oracle is `src/model.rs`, that of notifiers `src/model/notified`,
//! the third `src/model/differential`. (The epoch frees some memory in
//! a later run, so libFuzzer would look for leaks after each one: five times slower.) What fails goes into
//! `corpus/protocol` under a name that says what it was; `cargo test` replays it and prints the program.
#![no_main]

use interval_notifier::model::{ops_from_bytes, run, run_beside_the_kernel, run_notified};
use libfuzzer_sys::fuzz_target;

// The same bytes are three programs.
fuzz_target!(|bytes: &[u8]| {
    run(&ops_from_bytes(bytes));
    run_notified(bytes);
    run_beside_the_kernel(bytes);
});
