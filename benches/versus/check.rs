//! Is the rival `kernel` as fast as the kernel? Its times on one thread, beside those that the kernel's own source took on
//! the machine where the targets were set.
//!
//! Two yardsticks are measured in the same bursts: lock and unlock of a spin lock, for what atomic operations cost, and
//! following pointers at random through as much memory as the nodes take, for what walking a tree costs. A reference time
//! is so many pairs of the one, and the rest is scaled with the other.

use crate::burst::{Job, interleaved};
use crate::contender::{Contender, Filled, KERNEL, Own, Step, Turn};
use crate::layout::SplitMix64;
use crate::machine;
use crate::options::Pace;
use crate::rival::Kernel;
use spin::mutex::SpinMutex;
use std::hint::black_box;
use std::process::ExitCode;

/// What the yardsticks took there, in nanoseconds: the pair, and a step through so many nodes.
pub(crate) const REFERENCE_PAIR: f64 = 5.2;
const REFERENCE_STEP: [(u64, f64); 3] = [(100, 1.0), (10_000, 11.0), (1_000_000, 170.0)];

/// What the kernel's own source took at each size, and how many pairs are in it: the spin lock's, and two for the user's
/// mutex. Not so the hundred mutexes of W5: a walk of a hundred dependent steps hides them.
const REFERENCE: [(&str, Step, f64, [Option<f64>; 3]); 5] = [
    ("W1", Step::BeginRetry, 1.0, [Some(6.8), Some(6.8), None]),
    ("W3", Step::Miss, 2.0, [Some(38.9), Some(106.0), Some(1060.0)]),
    ("W4", Step::Hit, 4.0, [Some(44.5), Some(124.0), Some(1370.0)]),
    ("W5", Step::Hit100, 2.0, [None, Some(1430.0), Some(18_900.0)]),
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

/// As large as a node.
#[derive(Clone)]
#[repr(align(128))]
struct Stop(usize);

/// One cycle through all of them in a random order.
struct Chase(Vec<Stop>);

impl Chase {
    fn new(n: u64) -> Self {
        let mut order: Vec<usize> = (0..n as usize).collect();
        SplitMix64(42).shuffle(&mut order);
        let mut stops = vec![Stop(0); order.len()];
        order.iter().zip(order.iter().cycle().skip(1)).for_each(|(from, to)| stops[*from] = Stop(*to));
        Chase(stops)
    }
}

impl Contender for Chase {
    fn name(&self) -> &'static str {
        "step"
    }
    fn run(&self, _: Step, turn: &mut Turn, times: u64) {
        let start = turn.random.below(self.0.len() as u64) as usize;
        black_box((0..times).fold(start, |at, _| self.0[at].0));
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
    println!("          n   reference     pair     step     scaled     kernel");
    let mut straw = 0;
    for (size, (n, reference_step)) in REFERENCE_STEP.into_iter().enumerate() {
        let (pair, chase, rival) = (Pair(SpinMutex::new(0)), Chase::new(n), Filled::<Kernel<Own>>::new(KERNEL, n));
        for (workload, step, pairs, reference) in REFERENCE {
            let Some(reference) = reference[size] else { continue };
            let contenders: [&dyn Contender; 3] = [&pair, &chase, &rival];
            let times = interleaved(&contenders.map(|contender| Job { contender, step, threads: 1 }), pace);
            let walk = (reference - pairs * REFERENCE_PAIR).max(0.0);
            let scaled = pairs * times[0] + walk * times[1] / reference_step;
            let ratio = times[2] / scaled;
            straw += usize::from(ratio > SLACK);
            println!(
                "{workload} {n:>8} {reference:>11.1} {:>8.2} {:>8.2} {scaled:>10.1} {:>10.1} {ratio:>5.2}x{}",
                times[0],
                times[1],
                times[2],
                if ratio > SLACK { "  too slow" } else { "" }
            );
        }
    }
    if straw == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
