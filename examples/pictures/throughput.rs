//! How many operations a second there are, over threads and over the number of subscriptions.

use std::collections::BTreeSet;

use crate::chart::{Panel, Picture};
use crate::measured::{Line, RIVALS, legend};

/// What is drawn, and its name.
const OVER_THREADS: [(&str, &str); 3] =
    [("W2", "begin and retry"), ("W3", "invalidate, no hit"), ("W4", "invalidate, one hit")];
const OVER_SIZE: [(&str, &str); 3] =
    [("W3", "invalidate, no hit"), ("W4", "invalidate, one hit"), ("W6", "insert and remove")];

/// The number of subscriptions where threads vary.
const N: u64 = 10_000;

pub(crate) fn picture(lines: &[Line]) -> Picture {
    let threads = |(workload, name)| over_threads(lines, workload, name);
    let size = |(workload, name)| over_size(lines, workload, name);
    let panels = OVER_THREADS.into_iter().filter_map(threads).chain(OVER_SIZE.into_iter().filter_map(size)).collect();
    let title = "Millions of operations a second, more is better".to_owned();
    Picture { title, size: (300.0, 210.0), columns: 3, same_axis: false, legend: legend(), panels }
}

fn over_threads(lines: &[Line], workload: &str, name: &str) -> Option<Panel> {
    // W2 is W1 on several threads.
    let alone = if workload == "W2" { "W1" } else { workload };
    let of_workload = |line: &&Line| line.workload == workload || (line.workload == alone && line.threads == 1);
    let lines: Vec<_> = lines.iter().filter(of_workload).filter(|line| line.n == N).collect();
    panel(&lines, |line| line.threads, name, "threads, on 10,000 subscriptions", |threads| threads.to_string())
}

fn over_size(lines: &[Line], workload: &str, name: &str) -> Option<Panel> {
    let lines: Vec<_> = lines.iter().filter(|line| line.workload == workload && line.threads == 1).collect();
    panel(&lines, |line| line.n, name, "subscriptions, on one thread", thousands)
}

/// The lines over one of their fields; `None` if there is nothing to compare.
fn panel(
    lines: &[&Line],
    field: impl Fn(&Line) -> u64,
    title: &str,
    x_label: &str,
    x_tick: impl Fn(u64) -> String,
) -> Option<Panel> {
    let values: BTreeSet<_> = lines.iter().map(|line| field(line)).collect();
    let (first, last) = (*values.first()?, *values.last()?);
    let place = |value: u64| if first == last { 0.5 } else { log(value, first) / log(last, first) };
    let of = |rival: &str, rate: fn(&Line) -> Option<f64>| {
        let of_rival = lines.iter().filter(|line| line.rival == rival);
        let mut points: Vec<_> = of_rival.filter_map(|line| Some((place(field(line)), rate(line)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    // Our own time is in the lines of each rival; the first rival's is taken.
    let ours = of(RIVALS[0].0, |line| mops(line, line.ours_ns));
    let theirs = RIVALS.map(|(rival, _)| of(rival, |line| mops(line, line.rival_ns)));
    Some(Panel {
        title: title.to_owned(),
        x_label: x_label.to_owned(),
        x_ticks: values.iter().map(|&value| (place(value), x_tick(value))).collect(),
        unit: |mops| format!("{mops}"),
        series: [ours].into_iter().chain(theirs).collect(),
    })
}

fn mops(line: &Line, nanos: Option<f64>) -> Option<f64> {
    Some(line.threads as f64 * 1e3 / nanos?)
}

fn log(value: u64, first: u64) -> f64 {
    (value as f64 / first as f64).ln()
}

/// A number with as few digits as it takes.
fn thousands(n: u64) -> String {
    match n {
        ..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{} k", n / 1_000),
        _ => format!("{} M", n / 1_000_000),
    }
}
