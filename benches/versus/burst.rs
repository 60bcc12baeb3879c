//! How time is measured: in short bursts, everybody in turn, again and again, and the median of each.
//!
//! On a shared machine the clock and the neighbours change within seconds; whoever is measured in the same seconds is
//! changed alike, so ratios hold where times do not. A burst in which the scheduler took a core away from one of its
//! threads is thrown away and run again, a few times at most; the last is kept as it is, and counted.

use crate::contender::{Contender, Step, Turn};
use crate::layout::SplitMix64;
use crate::machine;
use crate::options::Pace;
use serde::Serialize;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often a burst that was disturbed is run again.
const AGAIN: usize = 4;

/// Bursts that were kept, and how many of them though they were disturbed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Kept {
    pub(crate) bursts: usize,
    pub(crate) disturbed: usize,
}

impl Kept {
    pub(crate) fn count(&mut self, disturbed: bool) {
        self.bursts += 1;
        self.disturbed += usize::from(disturbed);
    }

    pub(crate) fn and(self, other: Kept) -> Kept {
        Kept { bursts: self.bursts + other.bursts, disturbed: self.disturbed + other.disturbed }
    }

    /// More than one in so many is disturbed.
    pub(crate) fn exceeds_one_in(self, many: usize) -> bool {
        self.disturbed * many > self.bursts
    }
}

/// What one job took, in nanoseconds a step.
#[derive(Clone, Copy)]
pub(crate) struct Time {
    pub(crate) median: f64,
    /// Neighbours only ever make a burst longer, so this is the steadier figure between runs.
    pub(crate) least: f64,
    pub(crate) kept: Kept,
}

/// One that is measured in turn with others.
pub(crate) struct Job<'a> {
    pub(crate) contender: &'a dyn Contender,
    pub(crate) step: Step,
    pub(crate) threads: usize,
}

/// The time of one step on one thread, for each job.
pub(crate) fn interleaved(jobs: &[Job<'_>], pace: Pace) -> Vec<Time> {
    let chunks: Vec<u64> = jobs.iter().map(|job| chunk(job, pace)).collect();
    let mut samples = vec![(Vec::with_capacity(pace.repetitions), Kept::default()); jobs.len()];
    for repetition in 0..pace.repetitions {
        for turn in 0..jobs.len() {
            let who = (turn + repetition) % jobs.len();
            let (times, kept) = &mut samples[who];
            times.push(undisturbed(kept, || burst(&jobs[who], chunks[who], pace)));
        }
    }
    samples.into_iter().map(|(mut times, kept)| Time { median: median(&mut times), least: times[0], kept }).collect()
}

/// Runs a burst until it was not disturbed, or too often.
pub(crate) fn undisturbed<R>(kept: &mut Kept, mut burst: impl FnMut() -> (R, bool)) -> R {
    let mut last = burst();
    for _ in 0..AGAIN {
        if !last.1 {
            break;
        }
        last = burst();
    }
    kept.count(last.1);
    last.0
}

/// Sorts them.
pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// So many steps that looking at the clock between them does not count.
fn chunk(job: &Job<'_>, pace: Pace) -> u64 {
    let mut turn = Turn { thread: 0, threads: job.threads as u64, random: SplitMix64(1) };
    let mut times = 1;
    loop {
        let start = Instant::now();
        job.contender.run(job.step, &mut turn, times);
        if start.elapsed() > pace.warm_up / 40 {
            return times;
        }
        times *= 2;
    }
}

/// The mean over the threads, and was any of them disturbed?
fn burst(job: &Job<'_>, chunk: u64, pace: Pace) -> (f64, bool) {
    let together = Barrier::new(job.threads);
    let run = |thread| one_thread(job, chunk, pace, thread, &together);
    let results: Vec<(f64, bool)> = match job.threads {
        1 => vec![run(0)],
        threads => on_threads(threads, run),
    };
    let mean = results.iter().map(|result| result.0).sum::<f64>() / results.len() as f64;
    (mean, results.iter().any(|result| result.1))
}

/// On a core each.
pub(crate) fn on_threads<R: Send>(threads: usize, run: impl Fn(usize) -> R + Sync) -> Vec<R> {
    std::thread::scope(|s| {
        let run = &run;
        let start = |thread| {
            s.spawn(move || {
                machine::pin(thread);
                run(thread)
            })
        };
        let threads: Vec<_> = (0..threads).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn one_thread(job: &Job<'_>, chunk: u64, pace: Pace, thread: usize, together: &Barrier) -> (f64, bool) {
    static SEED: AtomicUsize = AtomicUsize::new(7);
    let random = SplitMix64(SEED.fetch_add(1, Relaxed) as u64);
    let mut turn = Turn { thread: thread as u64, threads: job.threads as u64, random };
    repeat(pace.warm_up, || job.contender.run(job.step, &mut turn, chunk));
    together.wait();
    let before = machine::preemptions();
    let (chunks, elapsed) = repeat(pace.burst, || job.contender.run(job.step, &mut turn, chunk));
    (elapsed.as_nanos() as f64 / (chunks * chunk) as f64, machine::preemptions() != before)
}

/// Until the time is over: how often, and how long it really took.
pub(crate) fn repeat(time: Duration, mut run: impl FnMut()) -> (u64, Duration) {
    let (start, mut times) = (Instant::now(), 0);
    loop {
        run();
        times += 1;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return (times, elapsed);
        }
    }
}
