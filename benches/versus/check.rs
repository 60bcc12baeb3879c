//! Is the rival `kernel` as fast as the kernel? Its times on one thread, beside those that the kernel's own source took on
//! the machine where the targets were set.
//!
//! Lock and unlock of a spin lock are measured in the same bursts, and a reference time is scaled by what that pair takes
//! here and took there. Everything is the least of its bursts: neighbours only ever add to it. The verdicts:
//!
//! - `met`: within 1.3 of the scaled reference.
//! - `as it stands`: not that, but within 1.3 of the reference without scaling. The pair measures what atomic operations
//!   cost, and a walk through a tree is loads. Where atomics are 2.4 times faster than there and memory is not, no walk
//!   can meet the scaled bound, the kernel's own neither, and this bound is the one that passes.
//! - `TOO SLOW`: neither. The rival is a straw man, and the exit code is 1.
//! - `noisy`: more than a quarter of the bursts were disturbed; or the median of a yardstick or the rival is 1.3 times its
//!   least, as where neighbours take the memory and not the core; or a yardstick took less than a third or more than
//!   three times what it took there, which is another class of machine. No verdict; the exit code is 3 unless another row
//!   is too slow.
//!
//! The column `step` is for the reader alone and scales nothing: following pointers at random through as many nodes.

use crate::burst::{Job, Kept, Time, interleaved};
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

/// What the kernel's own source took at each size.
const REFERENCE: [(&str, Step, [Option<f64>; 3]); 5] = [
    ("W1", Step::BeginRetry, [Some(6.8), Some(6.8), None]),
    ("W3", Step::Miss, [Some(38.9), Some(106.0), Some(1060.0)]),
    ("W4", Step::Hit, [Some(44.5), Some(124.0), Some(1370.0)]),
    ("W5", Step::Hit100, [None, Some(1430.0), Some(18_900.0)]),
    ("W6", Step::InsertRemove, [Some(43.8), Some(113.0), Some(1384.0)]),
];

/// How much slower the rival may be.
const SLACK: f64 = 1.3;
/// How far a yardstick may be from what it took there.
const BAND: f64 = 3.0;
/// How far a median may be from the least.
const SPREAD: f64 = 1.3;
/// For a verdict at most one burst in so many may be disturbed.
const DISTURBED_ONE_IN: usize = 4;
const NO_VERDICT: u8 = 3;

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
    interleaved(&[Job { contender: &Pair(SpinMutex::new(0)), step: Step::BeginRetry, threads: 1 }], pace)[0].least
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    AsItStands,
    TooSlow,
    Noisy,
}

/// One workload at one size: what the yardsticks and the rival took, and what they took there.
struct Row {
    reference: f64,
    reference_step: f64,
    pair: Time,
    step: Time,
    rival: Time,
}

impl Row {
    fn scaled(&self) -> f64 {
        self.reference * self.pair.least / REFERENCE_PAIR
    }

    fn kept(&self) -> Kept {
        self.pair.kept.and(self.step.kept).and(self.rival.kept)
    }

    fn is_noise(&self) -> bool {
        let is_off = |time: Time, reference: f64| !(1.0 / BAND..=BAND).contains(&(time.least / reference));
        let is_spread = |time: &Time| time.median > SPREAD * time.least;
        self.kept().exceeds_one_in(DISTURBED_ONE_IN)
            || [self.pair, self.step, self.rival].iter().any(is_spread)
            || is_off(self.pair, REFERENCE_PAIR)
            || is_off(self.step, self.reference_step)
    }

    fn verdict(&self) -> Verdict {
        let within = |bound: f64| self.rival.least <= SLACK * bound;
        match self.is_noise() {
            true => Verdict::Noisy,
            false if within(self.scaled()) => Verdict::Met,
            false if within(self.reference) => Verdict::AsItStands,
            false => Verdict::TooSlow,
        }
    }

    fn print(&self, workload: &str, n: u64) {
        let (Row { reference, pair, step, rival, .. }, scaled) = (self, self.scaled());
        let words = match self.verdict() {
            Verdict::Met => "met",
            Verdict::AsItStands => "as it stands",
            Verdict::TooSlow => "TOO SLOW",
            Verdict::Noisy => "noisy",
        };
        println!(
            "{workload} {n:>8} {:>7.2} {:>7.2} {:>10.1} {scaled:>10.1} {:>6.2}x {reference:>10.1} {:>6.2}x {:>9}  {words}",
            pair.least,
            step.least,
            rival.least,
            rival.least / scaled,
            rival.least / reference,
            self.kept().disturbed,
        );
    }
}

pub(crate) fn run(pace: Pace) -> ExitCode {
    println!("load {}; the least of {} bursts, in nanoseconds", machine::load(), pace.repetitions);
    println!("allowed: {SLACK} times what the kernel's own source takes, scaled by the pair, or else as it stands");
    println!("          n    pair    step     kernel     scaled   ratio  reference   ratio disturbed");
    let mut verdicts = Vec::new();
    for (size, (n, reference_step)) in REFERENCE_STEP.into_iter().enumerate() {
        let (pair, chase, rival) = (Pair(SpinMutex::new(0)), Chase::new(n), Filled::<Kernel<Own>>::new(KERNEL, n));
        for (workload, step, references) in REFERENCE {
            let Some(reference) = references[size] else { continue };
            let contenders: [&dyn Contender; 3] = [&pair, &chase, &rival];
            let times = interleaved(&contenders.map(|contender| Job { contender, step, threads: 1 }), pace);
            let row = Row { reference, reference_step, pair: times[0], step: times[1], rival: times[2] };
            row.print(workload, n);
            verdicts.push(row.verdict());
        }
    }
    conclude(&verdicts)
}

fn conclude(verdicts: &[Verdict]) -> ExitCode {
    let count = |wanted| verdicts.iter().filter(|&&verdict| verdict == wanted).count();
    let [met, as_it_stands, too_slow, noisy] =
        [Verdict::Met, Verdict::AsItStands, Verdict::TooSlow, Verdict::Noisy].map(count);
    println!("{met} met, {as_it_stands} met as it stands only, {too_slow} too slow, {noisy} too noisy for a verdict");
    match (too_slow, noisy) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(NO_VERDICT),
        _ => ExitCode::FAILURE,
    }
}
