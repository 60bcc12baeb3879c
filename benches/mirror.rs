//! The mirror side: what a build costs beside the work itself, while nothing is being invalidated.
//!
//! `cargo bench --bench mirror`; `INTERVAL_BENCH_LARGE=1` adds a million subscriptions. One thread, nobody waits.

mod rival;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rival::{COVERED, Crate, Naive, STRIDE, Space, filled, sizes};
use std::hint::black_box;
use std::time::Duration;

fn builds<S: Space>(c: &mut Criterion, n: u64) {
    let (space, subs) = filled::<S>(n);
    let sub = &subs[0];
    let mirror = space.mirror(n * STRIDE..n * STRIDE + COVERED);
    let id = || BenchmarkId::new(S::NAME, n);
    c.benchmark_group("mirror/begin_retry")
        .bench_function(id(), |b| b.iter(|| assert!(!space.begin_retry(black_box(sub)))));
    c.benchmark_group("mirror/begin_retry_locked")
        .bench_function(id(), |b| b.iter(|| assert!(!space.begin_retry_locked(black_box(sub)))));
    c.benchmark_group("mirror/update")
        .bench_function(id(), |b| b.iter(|| space.update(black_box(&mirror), black_box(1))));
}

fn all(c: &mut Criterion) {
    for n in sizes() {
        builds::<Crate>(c, n);
        builds::<Naive>(c, n);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
