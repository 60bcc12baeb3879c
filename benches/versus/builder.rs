//! W7: a builder beside an invalidator of another subscription, on a core each.
//!
//! What counts is how many builds are useful, and how much slower each is because of somebody it has nothing to do with.

use crate::burst::{Kept, median, repeat, undisturbed};
use crate::contender::{Filled, KERNEL, Own};
use crate::layout;
use crate::line::{Line, rounded};
use crate::machine;
use crate::options::{Options, Pace, Workload};
use crate::report::Report;
use crate::rival::{Engine, HastyRwLockIset, Interval, Kernel, ParkingLotIset, RwLockBTreeMap, RwLockIset};
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

const N: u64 = 10_000;
const BUILD: Duration = Duration::from_nanos(200);
/// Builds between two looks at the clock.
const CHUNK: u64 = 256;

/// A chain of dependent steps: what the processor cannot do at the same time as anything before or after.
fn chain(steps: u64, seed: u64) -> u64 {
    (0..steps).fold(seed, |x, _| black_box(x).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// How many take as long as a build.
fn calibrate() -> u64 {
    let steps = 1 << 16;
    let time = (0..20).map(|_| {
        let start = Instant::now();
        black_box(chain(steps, 1));
        start.elapsed()
    });
    (steps as f64 * BUILD.as_nanos() as f64 / time.min().unwrap().as_nanos() as f64) as u64
}

struct Builds {
    ns: f64,
    useful: f64,
}

/// Who can be measured, whatever engine is inside.
trait Builder {
    fn alone(&self, steps: u64, pace: Pace) -> (Builds, bool);
    fn beside(&self, steps: u64, pace: Pace) -> (Builds, bool);
}

/// What the builder is at, for the other thread.
const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const DONE: u8 = 2;

/// With the range that the other thread invalidates, of its second subscription.
struct Pair<E: Engine<Own>>(Filled<E>, Range<u64>);

impl<E: Engine<Own>> Pair<E> {
    /// So many useful ones of a chunk.
    fn builds(&self, steps: u64) -> u64 {
        let Filled { space, subs, .. } = &self.0;
        let build = |seed| {
            let seq = space.read_begin(&subs[0]);
            black_box(chain(steps, seed));
            let held = space.ops(&subs[0]).0.lock().unwrap();
            u64::from(!space.read_retry(&subs[0], seq, &held))
        };
        (0..CHUNK).map(build).sum()
    }

    /// On the first core; and was it disturbed?
    fn measure(&self, steps: u64, pace: Pace, phase: &AtomicU8) -> (Builds, bool) {
        machine::pin(0);
        repeat(pace.warm_up, || _ = black_box(self.builds(steps)));
        let (before, mut useful) = (machine::preemptions(), 0);
        phase.store(MEASURED, Relaxed);
        let (chunks, elapsed) = repeat(pace.burst, || useful += self.builds(steps));
        phase.store(DONE, Relaxed);
        let builds = (chunks * CHUNK) as f64;
        let result = Builds { ns: elapsed.as_nanos() as f64 / builds, useful: useful as f64 / builds };
        (result, machine::preemptions() != before)
    }

    /// On the second core, until the builder is done; and was it disturbed while the builder was measured?
    fn invalidate(&self, phase: &AtomicU8) -> bool {
        machine::pin(1);
        let during = |this| {
            while phase.load(Relaxed) == this {
                drop(self.0.space.start(self.1.clone()));
            }
        };
        during(WARM_UP);
        let before = machine::preemptions();
        during(MEASURED);
        machine::preemptions() != before
    }
}

impl<E: Engine<Own>> Builder for Pair<E> {
    fn alone(&self, steps: u64, pace: Pace) -> (Builds, bool) {
        let phase = AtomicU8::new(WARM_UP);
        std::thread::scope(|s| s.spawn(|| self.measure(steps, pace, &phase)).join().unwrap())
    }

    fn beside(&self, steps: u64, pace: Pace) -> (Builds, bool) {
        let phase = AtomicU8::new(WARM_UP);
        std::thread::scope(|s| {
            let other = s.spawn(|| self.invalidate(&phase));
            let (builds, disturbed) = s.spawn(|| self.measure(steps, pace, &phase)).join().unwrap();
            (builds, disturbed | other.join().unwrap())
        })
    }
}

fn pair<E: Engine<Own>>(name: &'static str) -> (&'static str, Box<dyn Builder>) {
    (name, Box::new(Pair(Filled::<E>::new(name, N), layout::slots(N).swap_remove(1))))
}

/// The samples of one of them.
#[derive(Default)]
struct Samples {
    beside: Vec<f64>,
    slowdown: Vec<f64>,
    useful: Vec<f64>,
    kept: Kept,
}

impl Samples {
    fn add(&mut self, builder: &dyn Builder, steps: u64, pace: Pace) {
        let alone = undisturbed(&mut self.kept, || builder.alone(steps, pace));
        let beside = undisturbed(&mut self.kept, || builder.beside(steps, pace));
        self.beside.push(beside.ns);
        self.slowdown.push(beside.ns / alone.ns);
        self.useful.push(beside.useful);
    }
}

pub(crate) fn measure(options: &Options, report: &mut Report) {
    if machine::cores() < 2 {
        eprintln!("versus: W7 needs two cores and is not measured");
        return;
    }
    let builders = [
        pair::<Interval>("ours"),
        pair::<Kernel<Own>>(KERNEL),
        pair::<RwLockIset<Own>>("rwlock-iset"),
        pair::<HastyRwLockIset<Own>>("rwlock-iset-no-wait"),
        pair::<ParkingLotIset<Own>>("parking-lot-iset"),
        pair::<RwLockBTreeMap<Own>>("rwlock-btreemap"),
    ];
    let (steps, pace) = (calibrate(), options.pace());
    let mut samples = [(); 6].map(|()| Samples::default());
    for repetition in 0..pace.repetitions {
        for turn in 0..builders.len() {
            let who = (turn + repetition) % builders.len();
            samples[who].add(&*builders[who].1, steps, pace);
        }
    }
    let kept = samples.each_ref().map(|samples| samples.kept);
    let [ours, rivals @ ..] = samples.map(summary);
    for (((rival, _), theirs), their_kept) in builders.iter().skip(1).zip(rivals).zip(&kept[1..]) {
        report.line(line(rival, ours, theirs).kept(kept[0].and(*their_kept)));
    }
}

/// Nanoseconds a build beside the other, how much slower than alone, and the part that is useful.
type Summary = (f64, f64, f64);

/// Useful is the mean: one that is thrown away must not vanish in a median.
fn summary(mut samples: Samples) -> Summary {
    let useful = samples.useful.iter().sum::<f64>() / samples.useful.len() as f64;
    (median(&mut samples.beside), rounded(median(&mut samples.slowdown)), rounded(useful))
}

fn line(rival: &'static str, ours: Summary, theirs: Summary) -> Line {
    Line::new(Workload::W7, N, 2, rival)
        .times(ours.0, theirs.0)
        .with("ours_slowdown", ours.1)
        .with("rival_slowdown", theirs.1)
        .with("useful_builds", serde_json::json!({ "ours": ours.2, "rival": theirs.2 }))
        .with("useful_per_s", serde_json::json!({ "ours": per_second(ours), "rival": per_second(theirs) }))
}

/// What counts in the end: one who waits throws little away and gets little done.
fn per_second((ns, _, useful): Summary) -> u64 {
    (useful * 1e9 / ns) as u64
}
