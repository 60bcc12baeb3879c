//! W8: what somebody notices of a storm of invalidations that has nothing to do with them.
//!
//! Each invalidator starts on a subscription of its own, holds it for 25 to 75 us, ends, pauses, and again. Beside them one
//! thread, on a core of its own where there are two, invalidates its own range once and then times its first begin; a
//! subscription until its first begin; and the end of that subscription. A probe in which the scheduler took that thread's
//! core away counts as disturbed and is kept all the same: to run it again would hide waits.

use crate::burst::Kept;
use crate::contender::{Filled, KERNEL, Own};
use crate::layout::{self, SplitMix64};
use crate::line::Line;
use crate::machine;
use crate::options::{Options, Workload};
use crate::report::Report;
use crate::rival::{Engine, Interval, Kernel, RwLockIset};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

const N: u64 = 100;
const MEASURES: [&str; 3] = ["read_begin", "usable", "unsubscribe"];

/// So many invalidators, and how long each pauses.
#[derive(Clone, Copy)]
struct Storm {
    invalidators: usize,
    gap: Duration,
}

const STORMS: [Storm; 4] = [
    Storm { invalidators: 2, gap: Duration::from_micros(200) },
    Storm { invalidators: 4, gap: Duration::from_micros(100) },
    Storm { invalidators: 8, gap: Duration::from_micros(50) },
    Storm { invalidators: 8, gap: Duration::ZERO },
];

/// For each of the measures; and for the probes, each of which takes one sample of each.
#[derive(Default)]
struct Samples {
    times: [Vec<u64>; 3],
    kept: Kept,
}

/// Runs one, for so long, and adds to the samples. A wait that ends only with the storm is as long as the storm was.
type Run = fn(Storm, Duration, &mut Samples);

fn run<E: Engine<Own>>(storm: Storm, length: Duration, samples: &mut Samples) {
    let filled = Filled::<E>::new("", N);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        for i in 0..storm.invalidators {
            let (filled, done) = (&filled, &done);
            s.spawn(move || invalidate(filled, i, storm.gap, done));
        }
        s.spawn(|| {
            machine::pin(0);
            while !done.load(Relaxed) {
                let before = machine::preemptions();
                probe(&filled, &mut samples.times);
                samples.kept.count(machine::preemptions() != before);
                sleep(Duration::from_micros(20));
            }
        });
        sleep(length);
        done.store(true, Relaxed);
    });
}

fn invalidate<E: Engine<Own>>(filled: &Filled<E>, i: usize, gap: Duration, done: &AtomicBool) {
    machine::pin(1 + i % (machine::cores() - 1).max(1));
    let (range, mut random) = (layout::slots(N).swap_remove(i), SplitMix64(i as u64));
    while !done.load(Relaxed) {
        let open = filled.space.start(range.clone());
        sleep(Duration::from_micros(25 + random.below(50)));
        drop(open);
        if !gap.is_zero() {
            sleep(gap);
        }
    }
}

fn probe<E: Engine<Own>>(filled: &Filled<E>, samples: &mut [Vec<u64>; 3]) {
    const MINE: usize = 50;
    let space = &filled.space;
    let nobodys = layout::in_gap(&mut SplitMix64(1), N, 0, 1);
    drop(space.start(layout::slots(N).swap_remove(MINE)));
    timed(&mut samples[0], || space.read_begin(&filled.subs[MINE]));
    let sub = timed(&mut samples[1], || {
        let sub = space.subscribe(nobodys, Own::default());
        space.read_begin(&sub);
        sub
    });
    timed(&mut samples[2], || space.unsubscribe(sub));
}

fn timed<R>(samples: &mut Vec<u64>, run: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = run();
    samples.push(start.elapsed().as_nanos() as u64);
    result
}

pub(crate) fn measure(options: &Options, report: &mut Report) {
    let engines: [(&str, Run); 3] =
        [("ours", run::<Interval>), (KERNEL, run::<Kernel<Own>>), ("rwlock-iset", run::<RwLockIset<Own>>)];
    for storm in STORMS {
        let mut samples = [(); 3].map(|()| Samples::default());
        // In turn, in two halves, as everywhere.
        for _ in 0..2 {
            for ((_, run), samples) in engines.iter().zip(&mut samples) {
                run(storm, options.pace().storm / 2, samples);
            }
        }
        let [ours, rivals @ ..] = samples.map(|samples| (samples.times.map(summary), samples.kept));
        for ((rival, _), theirs) in engines.iter().skip(1).zip(rivals) {
            for ((measure, our_times), their_times) in MEASURES.iter().zip(ours.0).zip(theirs.0) {
                let line = line(storm, rival, measure, our_times, their_times);
                report.line(line.kept(ours.1.and(theirs.1)));
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Summary {
    p50: u64,
    p99: u64,
    max: u64,
    samples: usize,
}

fn summary(mut samples: Vec<u64>) -> Summary {
    samples.sort_unstable();
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
    Summary { p50: at(0.5), p99: at(0.99), max: at(1.0), samples: samples.len() }
}

fn line(storm: Storm, rival: &'static str, measure: &str, ours: Summary, theirs: Summary) -> Line {
    let mut line = Line::new(Workload::W8, N, storm.invalidators + 1, rival)
        .times(ours.p50 as f64, theirs.p50 as f64)
        .with("measure", measure)
        .with("invalidators", storm.invalidators)
        .with("gap_us", storm.gap.as_micros() as u64);
    for (whose, summary) in [("ours", ours), ("rival", theirs)] {
        let values = [("p50_ns", summary.p50), ("p99_ns", summary.p99), ("max_ns", summary.max)];
        for (name, value) in values.into_iter().chain([("samples", summary.samples as u64)]) {
            line = line.with(format!("{whose}_{name}"), value);
        }
    }
    line
}
