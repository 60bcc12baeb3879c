//! The picture of a replay: how long begins took, engine by engine.

use crate::chart::{Panel, Picture, time};
use crate::options::Kind;
use crate::report::Report;
use crate::tally::Times;

/// Percentiles on an axis where each further nine takes the same room.
const NINES: f64 = 4.0;

/// One line per engine: its report, and the times its begins took.
pub(crate) fn of_begins(title: &str, runs: &[(Report, Times)]) -> String {
    // A colour stands for an engine, also where only some have run.
    let order = [Kind::Interval, Kind::Kernel, Kind::RwlockIset, Kind::GlobalSeq];
    let run_of = |kind| runs.iter().find(|(report, _)| report.engine == kind);
    let legend = order.map(|kind| run_of(kind).map_or(String::new(), |(report, _)| name(report)));
    let series = order.map(|kind| run_of(kind).map_or(Vec::new(), |(_, times)| line(times)));
    let ticks = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let panel = Panel {
        title: "how long a begin takes, at most, in so many of all cases".to_owned(),
        x_label: String::new(),
        x_ticks: ticks.map(|(part, label)| (place(part), label.to_owned())).into(),
        unit: time,
        series: series.into(),
    };
    let (title, legend, panels) = (title.to_owned(), legend.into(), vec![panel]);
    Picture { title, size: (640.0, 280.0), columns: 1, same_axis: true, legend, panels }.to_string()
}

fn name(report: &Report) -> String {
    let wasted = 100.0 * report.false_retries as f64 / report.builds.max(1) as f64;
    format!("{} ({wasted:.0} % of builds thrown away for nothing)", report.engine.name())
}

fn line(times: &Times) -> Vec<(f64, f64)> {
    let steps = (0..=80).map(|step| f64::from(step) / 80.0);
    let part = |place: f64| 1.0 - 10_f64.powf(-place * NINES);
    // Clocks have a grain: what took no time is drawn as a nanosecond.
    steps.map(|place| (place, (times.percentile(100.0 * part(place)) * 1e3).max(1.0))).collect()
}

fn place(part: f64) -> f64 {
    -(1.0 - part).log10() / NINES
}
