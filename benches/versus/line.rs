//! One comparison: how it is printed, and what it is held to.

use crate::burst::Kept;
use crate::contender::KERNEL;
use crate::options::Workload;
use serde::Serialize;
use serde_json::{Map, Value};

/// Us against one rival; `ratio` is the rival's by ours, more than one if we are faster, or smaller.
#[derive(Serialize)]
pub(crate) struct Line {
    pub(crate) workload: &'static str,
    pub(crate) n: u64,
    pub(crate) threads: usize,
    pub(crate) rival: &'static str,
    /// Null where something else than time is measured.
    pub(crate) ours_ns: Option<f64>,
    pub(crate) rival_ns: Option<f64>,
    pub(crate) ratio: f64,
    /// What cannot be avoided, on the machine it was derived on.
    pub(crate) limit_ns: Option<f64>,
    #[serde(flatten)]
    pub(crate) kept: Kept,
    /// What this workload has besides.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// What issue 5 asks of a line, in words, and is it met?
pub(crate) struct Verdict {
    pub(crate) target: String,
    pub(crate) met: bool,
}

/// Our own time on one thread; `speedup` is then the throughput of all threads by that of one.
pub(crate) const ONE_THREAD: &str = "ours-1-thread";

/// To what is worth printing.
pub(crate) fn rounded(x: f64) -> f64 {
    (x * 10_000.0).round() / 10_000.0
}

impl Line {
    pub(crate) fn new(workload: Workload, n: u64, threads: usize, rival: &'static str) -> Self {
        let (workload, kept) = (workload.name(), Kept::default());
        let [ours_ns, rival_ns, limit_ns] = [None; 3];
        Line { workload, n, threads, rival, ours_ns, rival_ns, ratio: 0.0, limit_ns, kept, more: Map::new() }
    }

    /// In nanoseconds.
    pub(crate) fn times(self, ours: f64, theirs: f64) -> Self {
        let limit_ns = limit(self.workload, self.n);
        let [ours_ns, rival_ns] = [ours, theirs].map(|time| Some(rounded(time)));
        Line { ours_ns, rival_ns, ratio: rounded(theirs / ours), limit_ns, ..self }
    }

    /// Of the heap.
    pub(crate) fn bytes(self, ours: f64, theirs: f64) -> Self {
        let line = Line { ratio: rounded(theirs / ours), ..self };
        line.with("ours_bytes", ours.round()).with("rival_bytes", theirs.round())
    }

    pub(crate) fn kept(self, kept: Kept) -> Self {
        Line { kept, ..self }
    }

    pub(crate) fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.more.insert(name.into(), value.into());
        self
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.more.get(name).and_then(Value::as_f64)
    }

    /// Too much was disturbed for a verdict. A p99 is a matter of one sample in a hundred.
    pub(crate) fn is_noise(&self) -> bool {
        self.kept.exceeds_one_in(if self.workload == "W8" { 100 } else { 4 })
    }

    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let at_least = |name: &str, least: f64| {
            let met = self.number(name).is_some_and(|value| value >= least);
            Verdict { target: format!("{name} >= {least:.2}"), met }
        };
        let at_most = |name: &str, most: f64, words: &str| {
            let met = self.number(name).is_some_and(|value| value <= most);
            Verdict { target: words.to_owned(), met }
        };
        match (self.workload, self.rival) {
            ("W7", KERNEL) => {
                let slowdown = at_most("ours_slowdown", 1.02, "<= 2 % slower, all builds useful");
                let useful = self.both("useful_builds")[0] >= 1.0;
                Some(Verdict { met: slowdown.met && useful, ..slowdown })
            }
            ("W7", "rwlock-iset-no-wait") => {
                let [ours, theirs] = self.both("useful_builds");
                Some(Verdict {
                    target: "all builds useful, of its < 1 %".to_owned(),
                    met: ours >= 1.0 && theirs < 0.01,
                })
            }
            ("W2", ONE_THREAD) if self.threads == 2 => Some(at_least("speedup", 1.9)),
            ("W8", KERNEL) => Some(at_most("ours_p99_ns", 1000.0, "p99 <= 1 us")),
            ("W9", KERNEL) => Some(at_most("ours_bytes", 112.0, "<= 112 B")),
            _ => self
                .ratio_wanted()
                .map(|wanted| Verdict { target: format!(">= {wanted:.2}x"), met: self.ratio >= wanted }),
        }
    }

    /// Ours and the rival's.
    fn both(&self, name: &str) -> [f64; 2] {
        let both = self.more.get(name);
        ["ours", "rival"].map(|whose| both.and_then(|both| both.get(whose)).and_then(Value::as_f64).unwrap_or(0.0))
    }

    /// What was aimed at: ratios to the rival, by workload and size.
    fn ratio_wanted(&self) -> Option<f64> {
        let by_size = |targets: [f64; 3]| match self.n {
            100 => Some(targets[0]),
            10_000 => Some(targets[1]),
            1_000_000 => Some(targets[2]),
            _ => None,
        };
        let by_size = |targets| by_size(targets).filter(|target| *target > 0.0);
        match (self.workload, self.threads, self.rival) {
            ("W1", 1, KERNEL) => Some(4.0),
            ("W2", 2, KERNEL) => Some(20.0),
            ("W3", 1, KERNEL) => by_size([1.8, 2.0, 2.1]),
            ("W3", 2, KERNEL) => by_size([7.0, 5.0, 4.0]),
            ("W4", 1, KERNEL) => by_size([1.5, 1.9, 1.6]),
            ("W4", 2, KERNEL) => by_size([6.0, 5.0, 3.4]),
            ("W5", 1, KERNEL) => by_size([0.0, 1.0, 5.0]),
            ("W6", 1, KERNEL) => by_size([1.0 / 2.5, 1.0 / 1.4, 1.7]),
            ("W3" | "W4", 1, "rwlock-iset") => Some(3.5),
            ("tree-miss" | "tree-hit", _, "iset") => by_size([0.0, 2.0, 2.0]),
            ("tree-miss" | "tree-hit", _, "rust-lapper") => by_size([0.0, 0.5, 0.5]),
            _ => None,
        }
    }
}

/// What cannot be avoided, in nanoseconds on the machine it was derived on: loads and atomic operations that any design
/// needs, and cache misses that any tree of this size has. Where a range was derived this is its lower end.
fn limit(workload: &str, n: u64) -> Option<f64> {
    let by_size = |limits: [f64; 3]| match n {
        100 => Some(limits[0]),
        10_000 => Some(limits[1]),
        1_000_000 => Some(limits[2]),
        _ => None,
    };
    match workload {
        "W1" | "W2" => Some(0.26),
        "W1m" | "W2m" => Some(10.8),
        "W3" | "tree-miss" => by_size([11.0, 18.0, 155.0]),
        "W4" | "tree-hit" => by_size([22.0, 29.0, 315.0]),
        "W5" => by_size([1200.0, 1200.0, 2600.0]),
        "W6" | "tree-insert-remove" => by_size([40.0, 60.0, 430.0]),
        _ => None,
    }
}
