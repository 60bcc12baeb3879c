//! Is the rival `kernel` as fast as the kernel? Its times on one thread, beside those that the kernel's own source took on
//! the machine where the targets were set.
//!
//! Two yardsticks were measured there, too, and are measured here in the same bursts: lock and unlock of a spin lock, for
//! what atomic operations cost, and a lookup in the standard library's `BTreeMap` of the same size, for what walking a
//! tree costs. A reference time is so many pairs of the one, and the rest is scaled with the other.

use crate::burst::{Job, interleaved};
use crate::contender::{Contender, Filled, KERNEL, Own, Step, Turn};
use crate::options::Pace;
use crate::rival::Kernel;
use crate::{layout, machine};
use spin::mutex::SpinMutex;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;

/// What the yardsticks took there, in nanoseconds: the pair, and the lookup at each size.
pub(crate) const REFERENCE_PAIR: f64 = 5.2;
const REFERENCE_LOOKUP: [(u64, f64); 3] = [(100, 29.0), (10_000, 63.0), (1_000_000, 479.0)];

/// What the kernel's own source took at each size, and how many pairs are in it: the spin lock's, and the user's mutex.
const REFERENCE: [(&str, Step, f64, [Option<f64>; 3]); 5] = [
    ("W1", Step::BeginRetry, 1.0, [Some(6.8), Some(6.8), None]),
    ("W3", Step::Miss, 2.0, [Some(38.9), Some(106.0), Some(1060.0)]),
    ("W4", Step::Hit, 4.0, [Some(44.5), Some(124.0), Some(1370.0)]),
    ("W5", Step::Hit100, 202.0, [None, Some(1430.0), Some(18_900.0)]),
    ("W6", Step::InsertRemove, 2.0, [Some(43.8), Some(113.0), Some(1384.0)]),
];

/// How much slower the rival may be.
const SLACK: f64 = 1.3;

/// Lock and unlock of the kernel's lock.
struct Pair(SpinMutex<u64>);

impl Contender for Pair {
    fn name(&self) -> &'static str {
        "spin lock and unlock"
    }
    fn run(&self, _: Step, _: &mut Turn, times: u64) {
        (0..times).for_each(|_| *black_box(&self.0).lock() += 1);
    }
}

/// From the first address to the end, as a user would look up what overlaps a page, without lock or callback.
struct Lookup(u64, BTreeMap<u64, u64>);

impl Contender for Lookup {
    fn name(&self) -> &'static str {
        "lookup"
    }
    fn run(&self, _: Step, turn: &mut Turn, times: u64) {
        for _ in 0..times {
            let page = layout::miss(&mut turn.random, self.0);
            let before = self.1.range(..page.end).next_back();
            assert!(before.is_some_and(|(_, end)| *end <= page.start));
        }
    }
}

/// In nanoseconds.
pub(crate) fn pair(pace: Pace) -> f64 {
    interleaved(&[Job { contender: &Pair(SpinMutex::new(0)), step: Step::BeginRetry, threads: 1 }], pace)[0]
}

pub(crate) fn run(pace: Pace) -> ExitCode {
    println!(
        "load {}; allowed: {SLACK} times what the kernel's own source takes, scaled to this machine",
        machine::load()
    );
    println!("      n        reference     pair   lookup     scaled  rival kernel");
    let mut straw = 0;
    for (size, (n, lookup)) in REFERENCE_LOOKUP.into_iter().enumerate() {
        let rival = Filled::<Kernel<Own>>::new(KERNEL, n);
        let yardsticks = (
            Pair(SpinMutex::new(0)),
            Lookup(n, layout::slots(n).into_iter().map(|range| (range.start, range.end)).collect()),
        );
        for (workload, step, pairs, reference) in REFERENCE {
            let Some(reference) = reference[size] else { continue };
            let contenders: [&dyn Contender; 3] = [&yardsticks.0, &yardsticks.1, &rival];
            let times = interleaved(&contenders.map(|contender| Job { contender, step, threads: 1 }), pace);
            let [pair, here, time] = [times[0], times[1], times[2]];
            let walk = (reference - pairs * REFERENCE_PAIR).max(0.0);
            let scaled = pairs * pair + walk * here / lookup;
            let verdict = if time / scaled <= SLACK { "" } else { "  too slow" };
            straw += usize::from(time / scaled > SLACK);
            println!(
                "{workload} {n:>8} {reference:>11.1} {pair:>8.2} {here:>8.1} {scaled:>10.1} {time:>10.1} {:>5.2}x{verdict}",
                time / scaled
            );
        }
    }
    if straw == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
