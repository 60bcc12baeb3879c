//! One mirror that keeps the protocol, and four that nearly do, in the hands of the conformance harness.
//!
//! `cargo run --example conformance --features conformance`; under Shuttle, with schedules instead of luck:
//! `RUSTFLAGS='--cfg shuttle' cargo run --target-dir target/shuttle --example conformance --features conformance`

mod right;
mod wrong;

use std::time::Duration;

use interval_notifier::conformance::{Broken, Failure, Harness, Subject};
use right::Right;
use wrong::{AnotherLock, NoRetry, OffByOne, Waits, Wrong};

fn main() -> Result<(), Failure> {
    let harness = Harness::new().runs(1_000).within(Duration::from_secs(20));
    println!("a right mirror: {}\n", harness.check::<Right>()?);
    show::<Wrong<NoRetry>>(&harness, "it installs without a retry", &[Broken::StaleCommit, Broken::MappedInside]);
    show::<Wrong<AnotherLock>>(
        &harness,
        "its callback takes another lock",
        &[Broken::LockNotTaken, Broken::MappedInside],
    );
    show::<Wrong<OffByOne>>(&harness, "its callback drops one page too few", &[Broken::NotDropped]);
    show::<Wrong<Waits>>(&harness, "its callback waits when it may not", &[Broken::Blocked]);
    Ok(())
}

fn show<S: Subject>(harness: &Harness, mistake: &str, expected: &[Broken]) {
    let failure = harness.check::<S>().expect_err("it is wrong");
    assert!(expected.contains(&failure.broken()), "{failure}");
    println!("{mistake}: {failure}\n");
}
