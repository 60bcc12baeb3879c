//! The command line. A bad option is told on stderr, and the exit code is 2.

use crate::steps::is_measured;
use clap::{Parser, ValueEnum, value_parser};
use std::time::Duration;

/// Measures this crate beside the kernel's protocol and what a user would write, interleaved in one process.
#[derive(Debug, Parser)]
#[command(name = "versus", bin_name = "cargo bench --bench versus --")]
pub(crate) struct Options {
    /// Only this workload; may be given several times [default: all of them].
    #[arg(long = "workload", value_enum, ignore_case = true)]
    workloads: Vec<Workload>,

    /// So many subscriptions; may be given several times [default: 100, 10000 and, unless --quick, 1000000]. W7, W8 and W9
    /// have their own.
    #[arg(long = "n", allow_negative_numbers = true, value_parser = value_parser!(u64).range(16..=16_000_000))]
    sizes: Vec<u64>,

    /// So many threads; may be given several times [default: 1, 2, 4, 8, 16, as far as there are cores]. W7, W8, W9 and
    /// tree have their own.
    #[arg(long = "threads", allow_negative_numbers = true, value_parser = value_parser!(u64).range(1..=16))]
    threads: Vec<u64>,

    /// Fewer and shorter repetitions, about half a minute in all.
    #[arg(long)]
    pub(crate) quick: bool,

    /// One JSON object per line on stdout, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,

    /// Compares the rival `kernel` with what the kernel's own source reached, and fails if it is a straw man.
    #[arg(long, conflicts_with_all = ["json", "workloads", "sizes", "threads"])]
    pub(crate) check_rival: bool,

    /// Cargo passes it to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured. W2 and W2m are W1 and W1m on several threads with a subscription each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Begin and retry of one subscription that nobody invalidates.
    #[value(name = "W1")]
    W1,
    /// The same with the user's mutex around the retry.
    #[value(name = "W1m")]
    W1m,
    /// W1 on several threads, each with a subscription of its own.
    #[value(name = "W2")]
    W2,
    /// W1m on several threads.
    #[value(name = "W2m")]
    W2m,
    /// Start and end of an invalidation that hits nothing.
    #[value(name = "W3")]
    W3,
    /// One that hits one subscription, whose callback locks, sets the sequence and unlocks.
    #[value(name = "W4")]
    W4,
    /// One that hits a hundred.
    #[value(name = "W5")]
    W5,
    /// Insert and remove of a small range.
    #[value(name = "W6")]
    W6,
    /// A builder beside an invalidator of another subscription.
    #[value(name = "W7")]
    W7,
    /// Begin, insert and remove in a storm of invalidations elsewhere.
    #[value(name = "W8")]
    W8,
    /// Heap bytes per subscription.
    #[value(name = "W9")]
    W9,
    /// The tree of others alone, against our whole operation.
    #[value(name = "tree")]
    Tree,
}

impl Workload {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Workload::W1 => "W1",
            Workload::W1m => "W1m",
            Workload::W2 => "W2",
            Workload::W2m => "W2m",
            Workload::W3 => "W3",
            Workload::W4 => "W4",
            Workload::W5 => "W5",
            Workload::W6 => "W6",
            Workload::W7 => "W7",
            Workload::W8 => "W8",
            Workload::W9 => "W9",
            Workload::Tree => "tree",
        }
    }
}

/// How often, and how long at a time.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) repetitions: usize,
    pub(crate) burst: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) storm: Duration,
}

impl Options {
    /// If sizes or threads are asked for and no workload is, those are left out that have their own by definition.
    pub(crate) fn wants(&self, workload: Workload) -> bool {
        match self.workloads.is_empty() {
            true => self.refusal(workload).is_none(),
            false => self.workloads.contains(&workload),
        }
    }

    /// Is there an option that selects nothing?
    pub(crate) fn check(&self, cores: usize) -> Result<(), String> {
        if let Some(threads) = self.threads.iter().find(|&&threads| threads as usize > cores) {
            return Err(format!(
                "--threads {threads}: this machine runs {cores} at a time, more would measure the scheduler"
            ));
        }
        self.workloads.iter().try_for_each(|&workload| match self.refusal(workload) {
            Some(why) => Err(why),
            None if self.selects(workload, cores) => Ok(()),
            None => Err(format!("{} is not measured on so many threads or subscriptions", workload.name())),
        })
    }

    /// Why sizes or threads cannot be asked for.
    fn refusal(&self, workload: Workload) -> Option<String> {
        let (own_size, own_threads) = match workload {
            Workload::W7 | Workload::W8 | Workload::W9 => (true, true),
            Workload::Tree => (false, true),
            _ => (false, false),
        };
        let option = match (own_size && !self.sizes.is_empty(), own_threads && !self.threads.is_empty()) {
            (true, _) => "--n",
            (_, true) => "--threads",
            _ => return None,
        };
        Some(format!("{option}: {} has its own by definition", workload.name()))
    }

    fn selects(&self, workload: Workload, cores: usize) -> bool {
        match workload {
            Workload::W7 => cores >= 2,
            Workload::W8 | Workload::W9 | Workload::Tree => true,
            _ => {
                let threads = self.threads(cores);
                self.sizes().iter().any(|&n| threads.iter().any(|&threads| is_measured(workload, n, threads)))
            }
        }
    }

    pub(crate) fn sizes(&self) -> Vec<u64> {
        match (self.sizes.is_empty(), self.quick) {
            (false, _) => self.sizes.clone(),
            (true, true) => vec![100, 10_000],
            (true, false) => vec![100, 10_000, 1_000_000],
        }
    }

    /// Numbers of threads for which there are `cores`; more would measure the scheduler.
    pub(crate) fn threads(&self, cores: usize) -> Vec<usize> {
        let asked = if self.threads.is_empty() { &[1, 2, 4, 8, 16][..] } else { &self.threads };
        asked.iter().map(|&threads| threads as usize).filter(|&threads| threads <= cores).collect()
    }

    pub(crate) fn pace(&self) -> Pace {
        let ms = Duration::from_millis;
        match self.quick {
            true => Pace { repetitions: 5, burst: ms(6), warm_up: ms(1), storm: ms(500) },
            false => Pace { repetitions: 15, burst: ms(10), warm_up: ms(2), storm: ms(1500) },
        }
    }
}
