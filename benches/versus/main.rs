//! This crate beside the kernel's protocol and what a user would write, on the workloads W1 to W9, in one process.
//!
//! ```text
//! cargo bench --bench versus                        a table, with the targets and the physical limits
//! cargo bench --bench versus -- --json              the same, one object per line
//! cargo bench --bench versus -- --workload W3 --n 10000
//! cargo bench --bench versus -- --check-rival       is the rival `kernel` as fast as the kernel?
//! ```
//!
//! On a machine that others use, too, `chrt -f 10 cargo bench --bench versus` keeps them off in the bursts, where that is
//! permitted; the last line tells how many bursts were disturbed all the same.

mod builder;
mod burst;
mod check;
mod contender;
mod heap;
#[path = "../layout/mod.rs"]
mod layout;
mod line;
mod machine;
mod options;
mod report;
#[path = "../rival/mod.rs"]
mod rival;
mod steps;
mod storm;
mod trees;

use clap::Parser;
use options::{Options, Workload};
use report::Report;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = options.check(machine::cores()) {
        eprintln!("versus: {error}");
        return ExitCode::from(2);
    }
    machine::with_huge_pages();
    let pace = options.pace();
    if options.check_rival {
        return check::run(pace);
    }
    let mut report = Report::new(options.json, check::pair(pace));
    steps::measure(&options, &mut report);
    if options.wants(Workload::W7) {
        builder::measure(&options, &mut report);
    }
    if options.wants(Workload::W8) {
        storm::measure(&options, &mut report);
    }
    if options.wants(Workload::W9) {
        heap::measure(&mut report);
    }
    if options.wants(Workload::Tree) {
        trees::measure(&options, &mut report);
    }
    report.end();
    ExitCode::SUCCESS
}
