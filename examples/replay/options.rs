//! The command line. An unknown option or an impossible value is told on stderr, and the exit code is 2.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum, value_parser};
use serde::Serialize;

/// Replays what a real program did to its address space, keeps mirrors of it, and checks that none is ever wrong.
#[derive(Clone, Debug, Parser)]
#[command(name = "replay")]
pub(crate) struct Options {
    /// The trace: a CSV file, gzipped or not; - is standard input. Some are in examples/replay/traces.
    pub(crate) trace: PathBuf,

    /// Run only this engine; may be given several times [default: all of them].
    #[arg(long = "engine", value_enum)]
    engines: Vec<Kind>,

    /// How many threads build mirrors.
    #[arg(long, default_value_t = 2, allow_negative_numbers = true, value_parser = value_parser!(u64).range(..=64))]
    pub(crate) builders: u64,

    /// How long a build takes, as with a slow device.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true, value_parser = value_parser!(u64).range(..=1_000_000))]
    build_latency_us: u64,

    /// Keep the times of the trace: 1 as they were, 2 twice as fast [default: as fast as its order allows].
    #[arg(long, allow_negative_numbers = true, value_parser = speed)]
    pub(crate) speed: Option<f64>,

    /// How often the program runs [default: 20 times, once with --speed].
    #[arg(long, allow_negative_numbers = true, value_parser = value_parser!(u64).range(1..=100_000))]
    passes: Option<u64>,

    /// A subscription for each window of this size of a mapping, such as 2M [default: one for each mapping].
    #[arg(long, value_parser = size)]
    pub(crate) window: Option<u64>,

    /// Commit without asking for a retry, to see that the check would notice.
    #[arg(long)]
    pub(crate) wrong: bool,

    /// Print one JSON object per engine on stdout, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,

    /// Draw the distribution of the times that begins took.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// What keeps the mirrors true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// This crate.
    Interval,
    /// The kernel's protocol: readers wait for all invalidations of the address space.
    Kernel,
    /// What a user would write: an interval tree under a lock, one sequence for all.
    RwlockIset,
    /// The least that is correct: a list, one sequence for all.
    GlobalSeq,
}

impl Kind {
    /// The name on the command line and in the results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Interval => "interval",
            Kind::Kernel => "kernel",
            Kind::RwlockIset => "rwlock-iset",
            Kind::GlobalSeq => "global-seq",
        }
    }
}

impl Options {
    pub(crate) fn engines(&self) -> &[Kind] {
        if self.engines.is_empty() { Kind::value_variants() } else { &self.engines }
    }

    pub(crate) fn passes(&self) -> u64 {
        self.passes.unwrap_or(if self.speed.is_some() { 1 } else { 20 })
    }

    pub(crate) fn build_latency(&self) -> Duration {
        Duration::from_micros(self.build_latency_us)
    }
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.001..=1e6).contains(&speed) { Ok(speed) } else { Err("it must be from 0.001 to 1000000".to_owned()) }
}

/// Whole pages, with a unit or without.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 1 << 10),
        Some(digits) if text.ends_with('M') => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (text, 1),
    };
    let count: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    match count.checked_mul(unit) {
        Some(size) if size > 0 && size % 4096 == 0 => Ok(size),
        _ => Err("it must be whole pages, as 4096, 64K or 2M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, i32> {
        let words = line.split_whitespace();
        Options::try_parse_from(["replay"].into_iter().chain(words)).map_err(|error| error.exit_code())
    }

    #[test]
    fn all_engines_run_by_default() {
        let options = parse("trace.csv.gz").unwrap();
        assert_eq!(options.engines().len(), 4);
        assert_eq!((options.builders, options.build_latency()), (2, Duration::from_micros(100)));
        assert_eq!((options.speed, options.window, options.wrong), (None, None, false));
        assert_eq!(options.passes(), 20);
    }

    #[test]
    fn options_are_understood() {
        let options =
            parse("- --engine kernel --engine interval --speed 0.5 --window 64K --builders 0 --json").unwrap();
        assert_eq!(options.engines(), [Kind::Kernel, Kind::Interval]);
        assert_eq!((options.speed, options.window, options.builders), (Some(0.5), Some(65_536), 0));
        assert!(options.json);
        assert_eq!((options.passes(), parse("a --speed 1 --passes 3").unwrap().passes()), (1, 3));
        for (text, bytes) in [("4096", 4096), ("2M", 2 << 20), ("1G", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
    }

    #[test]
    fn an_engine_has_one_name() {
        for kind in Kind::value_variants() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind.to_possible_value().expect("none is hidden").get_name(), kind.name());
        }
    }

    #[test]
    fn impossible_values_exit_with_2() {
        for line in [
            "",
            "a b",
            "a --engine hope",
            "a --builders -1",
            "a --builders 65",
            "a --build-latency-us 1000001",
            "a --passes 0",
            "a --speed 0",
            "a --speed -1",
            "a --speed NaN",
            "a --window 0",
            "a --window 100",
            "a --window 2T",
            "a --window M",
            "a --window 99999999999999999G",
            "a --fast",
        ] {
            assert_eq!(parse(line).unwrap_err(), 2, "{line}");
        }
    }
}
