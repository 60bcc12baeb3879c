//! The right mirror of `examples/conformance` in the hands of the conformance harness, as a user would write it: whatever
//! fails is a false alarm of the harness, or a fault of the protocol.
//!
//! `RUSTFLAGS='--cfg shuttle' cargo +nightly fuzz run -s none --target-dir fuzz/target-shuttle conformance`; without the
//! cfg it runs on plain threads, and the bytes are no schedule.
#![no_main]

#[path = "../../examples/conformance/right.rs"]
mod right;

use interval_notifier::conformance::Harness;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| Harness::new().check_bytes::<right::Right>(bytes).unwrap());
