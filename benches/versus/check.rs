//! Is the rival `kernel` as fast as the kernel? Its times on one thread, beside those that the kernel's own source reached.

use crate::burst::{Job, interleaved};
use crate::contender::{Contender, Filled, KERNEL, Own, Step, Turn};
use crate::machine;
use crate::options::Pace;
use crate::report::REFERENCE_PAIR;
use crate::rival::Kernel;
use spin::mutex::SpinMutex;
use std::hint::black_box;
use std::process::ExitCode;

/// What the kernel's own source took (perf.md, section 3.1), in nanoseconds at 1e2, 1e4 and 1e6.
const REFERENCE: [(&str, Step, [Option<f64>; 3]); 5] = [
    ("W1", Step::BeginRetry, [Some(6.8), Some(6.8), None]),
    ("W3", Step::Miss, [Some(38.9), Some(106.0), Some(1060.0)]),
    ("W4", Step::Hit, [Some(44.5), Some(124.0), Some(1370.0)]),
    ("W5", Step::Hit100, [None, Some(1430.0), Some(18_900.0)]),
    ("W6", Step::InsertRemove, [Some(43.8), Some(113.0), Some(1384.0)]),
];

/// How much slower it may be.
const SLACK: f64 = 1.3;

/// Lock and unlock of the kernel's lock: the yardstick between two machines.
struct Pair(SpinMutex<u64>);

impl Contender for Pair {
    fn name(&self) -> &'static str {
        "spin lock and unlock"
    }
    fn run(&self, _: Step, _: &mut Turn, times: u64) {
        (0..times).for_each(|_| *black_box(&self.0).lock() += 1);
    }
}

/// In nanoseconds.
pub(crate) fn pair(pace: Pace) -> f64 {
    interleaved(&[Job { contender: &Pair(SpinMutex::new(0)), step: Step::BeginRetry, threads: 1 }], pace)[0]
}

pub(crate) fn run(pace: Pace) -> ExitCode {
    println!(
        "load {}; allowed: {SLACK} times what the kernel's own source took, scaled by the spin lock",
        machine::load()
    );
    println!("{:<4} {:>8} {:>11} {:>11} {:>11} {:>6}", "", "n", "kernel ns", "scaled", "rival ns", "");
    let mut straw = 0;
    for (n, column) in [100, 10_000, 1_000_000].into_iter().zip(0..) {
        let rival = Filled::<Kernel<Own>>::new(KERNEL, n);
        for (workload, step, reference) in REFERENCE {
            let Some(reference) = reference[column] else { continue };
            let yardstick = Pair(SpinMutex::new(0));
            let contenders: [&dyn Contender; 2] = [&yardstick, &rival];
            let times = interleaved(&contenders.map(|contender| Job { contender, step, threads: 1 }), pace);
            let scaled = reference * times[0] / REFERENCE_PAIR;
            let ratio = times[1] / scaled;
            let verdict = if ratio <= SLACK { "" } else { "  too slow" };
            straw += usize::from(ratio > SLACK);
            println!("{workload:<4} {n:>8} {reference:>11.1} {scaled:>11.1} {:>11.1} {ratio:>5.2}x{verdict}", times[1]);
        }
    }
    if straw == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
