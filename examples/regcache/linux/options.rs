//! The command line. An unknown option or an impossible value is told on stderr, and the exit code is 2.

use std::time::Duration;

use clap::{Parser, ValueEnum, value_parser};
use serde::Serialize;

/// Runs a registration cache over a real device with several ways of invalidating it, and counts the sends of pages
/// that no longer exist.
#[derive(Clone, Debug, Parser)]
#[command(name = "regcache")]
pub(crate) struct Options {
    /// The device that holds the registrations; auto takes io_uring if it is allowed here, else pipes.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub(crate) device: DeviceChoice,

    /// Run only this discipline; may be given several times [default: all of them].
    #[arg(long = "discipline", value_enum)]
    disciplines: Vec<Kind>,

    /// How long each discipline runs.
    #[arg(long, default_value_t = 3, allow_negative_numbers = true, value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// How much longer each registration takes, as with a slow adapter.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = value_parser!(u64).range(..=1_000_000))]
    build_latency_us: u64,

    /// How many threads send, besides the one that remaps.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = value_parser!(u64).range(1..=64))]
    pub(crate) threads: u64,

    /// Print one JSON object per discipline on stdout, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    Auto,
    Uring,
    Pipe,
}

/// When a cache hears of a change, and what it does about builds that the change meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    NotifyBefore,
    NotifyBeforeLocked,
    NotifyAfter,
    BeginRetry,
}

impl Kind {
    /// The name on the command line and in the results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::NotifyBefore => "notify-before",
            Kind::NotifyBeforeLocked => "notify-before-locked",
            Kind::NotifyAfter => "notify-after",
            Kind::BeginRetry => "begin-retry",
        }
    }
}

impl Options {
    pub(crate) fn disciplines(&self) -> &[Kind] {
        if self.disciplines.is_empty() { Kind::value_variants() } else { &self.disciplines }
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) fn build_latency(&self) -> Duration {
        Duration::from_micros(self.build_latency_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, i32> {
        let words = line.split_whitespace();
        Options::try_parse_from(["regcache"].into_iter().chain(words)).map_err(|error| error.exit_code())
    }

    #[test]
    fn everything_runs_by_default() {
        let options = parse("").unwrap();
        assert_eq!(options.device, DeviceChoice::Auto);
        assert_eq!(options.disciplines().len(), 4);
        assert_eq!((options.build_latency(), options.json), (Duration::ZERO, false));
    }

    #[test]
    fn options_are_understood() {
        let options = parse("--device pipe --discipline begin-retry --seconds 5 --build-latency-us 30 --json").unwrap();
        assert_eq!(options.device, DeviceChoice::Pipe);
        assert_eq!(options.disciplines(), [Kind::BeginRetry]);
        assert_eq!((options.duration(), options.build_latency()), (Duration::from_secs(5), Duration::from_micros(30)));
        assert!(options.json);
    }

    #[test]
    fn a_discipline_has_one_name() {
        for kind in Kind::value_variants() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind.to_possible_value().expect("none is hidden").get_name(), kind.name());
        }
    }

    #[test]
    fn impossible_values_exit_with_2() {
        for line in [
            "--seconds 0",
            "--seconds -1",
            "--seconds soon",
            "--threads 0",
            "--threads 65",
            "--build-latency-us -30",
            "--build-latency-us 1000001",
            "--device rdma",
            "--discipline hope",
            "--discipline",
            "--fast",
            "leftover",
        ] {
            assert_eq!(parse(line).unwrap_err(), 2, "{line}");
        }
    }
}
