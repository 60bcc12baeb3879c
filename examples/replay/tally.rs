//! What the builders count and time.

use std::ops::AddAssign;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// What builders did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Faults served, that is, builds that were installed.
    pub(crate) commits: u64,
    /// Builds thrown away, and an overlapping invalidation was why.
    pub(crate) true_retries: u64,
    /// Builds thrown away, and there was none.
    pub(crate) false_retries: u64,
    /// Begins that took more than ten microseconds, and no overlapping invalidation was why.
    pub(crate) needless_waits: u64,
    pub(crate) begin: Times,
    /// From the fault to the commit, with all builds in between.
    pub(crate) build: Times,
}

impl Tally {
    pub(crate) fn begun(&mut self, took: Duration, needless: bool) {
        self.begin.add(took);
        self.needless_waits += u64::from(needless);
    }

    pub(crate) fn retried(&mut self, collided: bool) {
        *if collided { &mut self.true_retries } else { &mut self.false_retries } += 1;
    }

    pub(crate) fn filled(&mut self, took: Duration) {
        self.build.add(took);
        self.commits += 1;
    }

    pub(crate) fn builds(&self) -> u64 {
        self.commits + self.true_retries + self.false_retries
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.commits += other.commits;
        self.true_retries += other.true_retries;
        self.false_retries += other.false_retries;
        self.needless_waits += other.needless_waits;
        self.begin += other.begin;
        self.build += other.build;
    }
}

/// How long something took, each time.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

/// The three figures that are told of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Default for Times {
    fn default() -> Self {
        Times(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Times {
    pub(crate) fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).expect("nobody waits for centuries");
        self.0.record(nanos).expect("the histogram grows");
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles { p50: self.percentile(50.0), p99: self.percentile(99.0), max: self.0.max() as f64 / 1e3 }
    }
}

impl AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.0.add(other.0).expect("the histogram grows");
    }
}
