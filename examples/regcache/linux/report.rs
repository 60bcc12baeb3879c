//! What is printed: a table for people or JSON for programs on stdout, progress on stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::application::Counts;
use super::discipline::Tally;
use super::options::Kind;

/// What one discipline did. The fields are those of the JSON object, in its order.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) device: &'static str,
    pub(crate) discipline: Kind,
    pub(crate) seconds: f64,
    pub(crate) remaps: u64,
    pub(crate) sends: u64,
    pub(crate) registrations: u64,
    pub(crate) retries: u64,
    pub(crate) stale: u64,
}

impl Report {
    pub(crate) fn new(device: &'static str, kind: Kind, took: Duration, counts: Counts, tally: &Tally) -> Self {
        Report {
            device,
            discipline: kind,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            remaps: counts.remaps,
            sends: counts.sends,
            registrations: tally.registrations(),
            retries: tally.retries(),
            stale: counts.stale,
        }
    }

    /// Prints one JSON object or one row of the table, whose head is [`print_head`].
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let line = if json { serde_json::to_string(self)? } else { self.row() };
        writeln!(io::stdout(), "{line}")
    }

    fn row(&self) -> String {
        row([
            &self.discipline.name(),
            &self.remaps,
            &self.sends,
            &self.registrations,
            &self.retries,
            &self.stale,
            &format_args!("{:.3} %", 100.0 * self.stale as f64 / self.sends.max(1) as f64),
            &format_args!("{:.0}", self.sends as f64 / self.seconds),
            &format_args!("{:.0}", self.registrations as f64 / self.seconds),
        ])
    }
}

/// Prints the head of the table.
pub(crate) fn print_head() -> io::Result<()> {
    let head: [&dyn Display; 9] =
        [&"discipline", &"remaps", &"sends", &"registrations", &"retries", &"stale", &"share", &"sends/s", &"reg/s"];
    writeln!(io::stdout(), "{}", row(head))
}

/// One line of the table: the share is that of the stale sends among all, the rates are per second.
fn row([name, remaps, sends, registrations, retries, stale, share, send_rate, rate]: [&dyn Display; 9]) -> String {
    format!(
        "{name:<20} {remaps:>8} {sends:>9} {registrations:>13} {retries:>8} {stale:>8} {share:>8} {send_rate:>8} {rate:>8}"
    )
}

/// A bar for one discipline; nothing is drawn unless stderr is a terminal.
pub(crate) fn progress(kind: Kind, time: Duration) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:20} [{bar:40}] {elapsed} of {msg}").expect("a valid template");
    let length = u64::try_from(time.as_millis()).expect("the seconds are bounded");
    ProgressBar::new(length)
        .with_style(style.progress_chars("=> "))
        .with_prefix(kind.name())
        .with_message(format!("{}s", time.as_secs()))
}

/// The one line that says what was shown.
pub(crate) fn conclusion(reports: &[Report]) -> String {
    let say = |report: &Report| match report.stale {
        0 => format!("{} none", report.discipline.name()),
        stale => format!("{} {stale}", report.discipline.name()),
    };
    let said: Vec<_> = reports.iter().map(say).collect();
    format!("sends of pages that no longer existed: {}", said.join(", "))
}
