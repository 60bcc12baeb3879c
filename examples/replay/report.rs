//! What is printed: a table for people or JSON for programs on stdout, progress on stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::options::{Kind, Options};
use crate::run::Outcome;
use crate::tally::Percentiles;
use crate::trace::Trace;

/// What one engine did. The fields are those of the JSON object, in its order; times are in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) trace: String,
    pub(crate) engine: Kind,
    seconds: f64,
    threads: usize,
    /// Calls replayed, both halves of each, in all passes.
    events: u64,
    events_per_s: f64,
    subscriptions: usize,
    most_subscriptions: usize,
    invalidations: u64,
    /// Of subscriptions to what was mapped; between an unmap and the unsubscribe there may be more.
    callbacks: u64,
    hits_per_invalidation: f64,
    builders: u64,
    pub(crate) builds: u64,
    commits: u64,
    true_retries: u64,
    pub(crate) false_retries: u64,
    needless_waits: u64,
    begin_us: Percentiles,
    build_us: Percentiles,
    unsubscribe_us: Percentiles,
    pub(crate) violations: u64,
}

impl Report {
    pub(crate) fn new(kind: Kind, trace: &Trace, options: &Options, outcome: &Outcome) -> Self {
        let Outcome { took, subscriptions, hits, tally, unsubscribe, found } = outcome;
        let passes = options.passes();
        let invalidations = trace.calls.iter().filter(|call| !call.effect.change.is_empty()).count() as u64 * passes;
        let events = trace.calls.len() as u64 * passes;
        let seconds = took.as_secs_f64();
        Report {
            trace: trace.name.clone(),
            engine: kind,
            seconds: rounded(seconds, 6),
            threads: trace.threads.len(),
            events,
            events_per_s: (events as f64 / seconds).round(),
            subscriptions: subscriptions.made,
            most_subscriptions: subscriptions.most,
            invalidations,
            callbacks: *hits,
            hits_per_invalidation: rounded(*hits as f64 / invalidations.max(1) as f64, 3),
            builders: options.builders,
            builds: tally.builds(),
            commits: tally.commits,
            true_retries: tally.true_retries,
            false_retries: tally.false_retries,
            needless_waits: tally.needless_waits,
            begin_us: tally.begin.percentiles(),
            build_us: tally.build.percentiles(),
            unsubscribe_us: unsubscribe.percentiles(),
            violations: found.count,
        }
    }

    /// The cells of its column, in the order of [`ROWS`].
    fn column(&self) -> [String; ROWS.len()] {
        let triple =
            |times: &Percentiles| format!("{} / {} / {}", short(times.p50), short(times.p99), short(times.max));
        [
            self.engine.name().to_owned(),
            format!("{:.0}", self.events_per_s),
            self.callbacks.to_string(),
            format!("{:.2}", self.hits_per_invalidation),
            self.builds.to_string(),
            self.commits.to_string(),
            self.true_retries.to_string(),
            self.false_retries.to_string(),
            self.needless_waits.to_string(),
            triple(&self.begin_us),
            triple(&self.build_us),
            triple(&self.unsubscribe_us),
            self.violations.to_string(),
        ]
    }
}

const ROWS: [&str; 13] = [
    "",
    "calls/s",
    "callbacks",
    "hits per invalidation",
    "builds",
    "  installed",
    "  thrown away: true retries",
    "  thrown away: false retries",
    "begins that waited for nothing",
    "begin, us (p50 / p99 / max)",
    "fault to commit, us",
    "unsubscribe, us",
    "violations",
];

/// The line above the table: what is replayed, and how.
pub(crate) fn title(trace: &Trace, options: &Options) -> String {
    let (calls, threads, length) = (trace.calls.len(), trace.threads.len(), trace.length().as_secs_f64());
    let pace = options.speed.map_or("as fast as its order allows".to_owned(), |speed| format!("at speed {speed}"));
    let times = match options.passes() {
        1 => "once".to_owned(),
        passes => format!("{passes} times"),
    };
    let unit = options.window.map_or("mapping".to_owned(), |size| format!("{} KiB of a mapping", size / 1024));
    let (builders, latency) = (options.builders, options.build_latency().as_micros());
    let wrong = if options.wrong { " and is committed without a retry" } else { "" };
    format!(
        "{}: {calls} calls by {threads} threads in {length:.1} s; {times}, {pace}; a subscription per {unit}; \
         {builders} builders, a build takes {latency} us{wrong}",
        trace.name
    )
}

/// The same in short.
pub(crate) fn picture_title(trace: &Trace, options: &Options) -> String {
    let (builders, latency) = (options.builders, options.build_latency().as_micros());
    let pace = options.speed.map_or("as fast as it goes".to_owned(), |speed| format!("at speed {speed}"));
    format!("{}, replayed {pace} beside {builders} builders of {latency} us", trace.name)
}

/// All engines side by side.
pub(crate) fn print_table<'a>(reports: impl Iterator<Item = &'a Report>) -> io::Result<()> {
    let columns: Vec<_> = reports.map(Report::column).collect();
    let mut out = io::stdout().lock();
    for (row, name) in ROWS.iter().enumerate() {
        write!(out, "{name:<31}")?;
        for column in &columns {
            let width = column.iter().map(String::len).max().unwrap_or(0).max(12);
            write!(out, "  {:>width$}", column[row])?;
        }
        writeln!(out)?;
    }
    Ok(())
}

pub(crate) fn print_json(report: &Report) -> io::Result<()> {
    writeln!(io::stdout(), "{}", serde_json::to_string(report)?)
}

/// Whoever reads stdout may stop when they have seen enough. That is no failure; the exit code still says what was found.
pub(crate) fn while_read(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Says something on stderr, where there may be nobody either.
pub(crate) fn tell(message: impl Display) {
    writeln!(io::stderr(), "replay: {message}").ok();
}

/// A bar for one engine; nothing is drawn unless stderr is a terminal.
pub(crate) fn progress(kind: Kind, calls: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:12} [{bar:40}] {pos} of {len} calls").expect("a valid template");
    ProgressBar::new(calls).with_style(style.progress_chars("=> ")).with_prefix(kind.name())
}

/// Three digits, if it is small.
fn short(micros: f64) -> impl Display {
    let digits = if micros < 10.0 { 2 } else { usize::from(micros < 100.0) };
    format!("{micros:.digits$}")
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}
