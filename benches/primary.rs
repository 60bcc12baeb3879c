//! The primary side: what a change costs its owner, and what a subscription costs to insert and to remove.
//!
//! `cargo bench --bench primary`; `INTERVAL_BENCH_LARGE=1` adds a million subscriptions. One thread, nobody waits.

mod rival;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rival::{COVERED, Crate, Naive, PAGE, STRIDE, Space, SplitMix64, filled, sizes};
use std::ops::Range;
use std::time::Duration;

/// Which range of a space with `n` subscriptions is invalidated next.
type Query = fn(&mut SplitMix64, u64) -> Range<u64>;

fn pages(first: u64) -> Range<u64> {
    first..first + PAGE
}

/// A page in a gap.
fn miss(random: &mut SplitMix64, n: u64) -> Range<u64> {
    pages(random.below(n) * STRIDE + COVERED + random.below(COVERED / PAGE) * PAGE)
}

/// A page of one subscription.
fn hit_1(random: &mut SplitMix64, n: u64) -> Range<u64> {
    pages(random.below(n) * STRIDE + random.below(COVERED / PAGE) * PAGE)
}

/// A hundred neighbours.
fn hit_100(random: &mut SplitMix64, n: u64) -> Range<u64> {
    let first = random.below(n - 99) * STRIDE;
    first..first + 99 * STRIDE + COVERED
}

fn invalidate<S: Space>(c: &mut Criterion, n: u64) {
    let (space, _subs) = filled::<S>(n);
    let queries: [(&str, Query); 3] = [("miss", miss), ("hit_1", hit_1), ("hit_100", hit_100)];
    for (name, query) in queries {
        let mut random = SplitMix64(7);
        let id = BenchmarkId::new(S::NAME, n);
        c.benchmark_group(format!("primary/invalidate_{name}"))
            .bench_function(id, |b| b.iter(|| space.invalidate(query(&mut random, n))));
    }
}

fn subscribe<S: Space>(c: &mut Criterion, n: u64) {
    let (space, _subs) = filled::<S>(n);
    let mut random = SplitMix64(7);
    c.benchmark_group("primary/subscribe_unsubscribe").bench_function(BenchmarkId::new(S::NAME, n), |b| {
        b.iter(|| drop(space.subscribe(miss(&mut random, n))));
    });
}

fn all(c: &mut Criterion) {
    for n in sizes() {
        invalidate::<Crate>(c, n);
        invalidate::<Naive>(c, n);
        subscribe::<Crate>(c, n);
        subscribe::<Naive>(c, n);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
