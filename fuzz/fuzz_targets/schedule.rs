//! Two to four threads over overlapping ranges: the input is both what they do and how they interleave.
//!
//! `cargo +nightly fuzz run schedule`; the oracle is `src/model/concurrent`. What fails is printed, goes into
//! `corpus/schedule` under a name that says what it was, and is replayed, schedule and all, by
//! `RUSTFLAGS='--cfg shuttle' cargo test --release --lib kept_schedules`.
#![no_main]

use interval_notifier_under_shuttle::model::run_scheduled;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run_scheduled(bytes));
