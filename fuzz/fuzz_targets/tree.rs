//! The interval tree against a sorted list, every invariant of every node checked after each step.
//!
//! `cargo +nightly fuzz run tree`; the oracle is `src/model/tree.rs`. What fails goes into `corpus/tree` under a name
//! that says what it was; `cargo test` replays it.
#![no_main]

use interval_notifier::model::run_tree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run_tree(bytes));
