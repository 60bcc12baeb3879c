//! Curves over the number of subscriptions, one thread, with criterion: `cargo bench --bench curves -- W3`.
//!
//! For a verdict take `versus`, which measures everybody in the same seconds; this is for looking at one path while working
//! on it, against its own past (`--save-baseline`, `--baseline`). `INTERVAL_BENCH_LARGE=1` adds a million subscriptions.

#[path = "versus/contender.rs"]
#[allow(dead_code, reason = "several threads and all rivals are of versus")]
mod contender;
mod layout;
mod rival;

use contender::{Contender, Filled, KERNEL, OURS, Own, Step, Turn};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use layout::SplitMix64;
use rival::{Interval, Kernel, RwLockIset};
use std::time::{Duration, Instant};

const STEPS: [(&str, Step); 6] = [
    ("W1", Step::BeginRetry),
    ("W1m", Step::BeginRetryLocked),
    ("W3", Step::Miss),
    ("W4", Step::Hit),
    ("W5", Step::Hit100),
    ("W6", Step::InsertRemove),
];

fn curve(c: &mut Criterion, contender: &dyn Contender, n: u64) {
    for (workload, step) in STEPS {
        let mut turn = Turn { thread: 0, threads: 1, random: SplitMix64(7) };
        c.benchmark_group(workload).bench_function(BenchmarkId::new(contender.name(), n), |b| {
            b.iter_custom(|times| {
                let start = Instant::now();
                contender.run(step, &mut turn, times);
                start.elapsed()
            });
        });
    }
}

fn all(c: &mut Criterion) {
    let large = std::env::var_os("INTERVAL_BENCH_LARGE").map(|_| 1_000_000);
    for n in [100, 1_000, 10_000, 100_000].into_iter().chain(large) {
        curve(c, &Filled::<Interval>::new(OURS, n), n);
        curve(c, &Filled::<Kernel<Own>>::new(KERNEL, n), n);
        curve(c, &Filled::<RwLockIset<Own>>::new("rwlock-iset", n), n);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
