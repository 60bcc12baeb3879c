//! How long a begin takes whose range nobody touches, while a storm of invalidations goes on elsewhere.

use crate::chart::{Panel, Picture, time};
use crate::measured::{Line, RIVALS, Storm, legend};

pub(crate) fn picture(lines: &[Line]) -> Picture {
    let storms: Vec<_> = lines.iter().filter_map(|line| line.storm.as_ref().map(|storm| (line, storm))).collect();
    let mut kinds: Vec<(u64, u64)> = Vec::new();
    for (_, storm) in &storms {
        let kind = (storm.invalidators, storm.gap_us);
        if storm.measure == "read_begin" && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let panels = kinds.into_iter().map(|kind| panel(&storms, kind)).collect();
    let title = "A begin while other ranges are invalidated, less is better".to_owned();
    Picture { title, size: (300.0, 210.0), columns: 2, same_axis: true, legend: legend(), panels }
}

fn panel(storms: &[(&Line, &Storm)], (invalidators, gap_us): (u64, u64)) -> Panel {
    let here =
        |storm: &Storm| storm.measure == "read_begin" && (storm.invalidators, storm.gap_us) == (invalidators, gap_us);
    let find =
        |rival: &str| storms.iter().find(|(line, storm)| line.rival == rival && here(storm)).map(|(_, storm)| *storm);
    let ours = find(RIVALS[0].0).map(|storm| [storm.ours_p50_ns, storm.ours_p99_ns, storm.ours_max_ns]);
    let theirs =
        RIVALS.map(|(rival, _)| find(rival).map(|storm| [storm.rival_p50_ns, storm.rival_p99_ns, storm.rival_max_ns]));
    let pause = if gap_us == 0 { "without a pause".to_owned() } else { format!("pausing {gap_us} us") };
    Panel {
        title: format!("{invalidators} invalidators, {pause}"),
        x_label: String::new(),
        x_ticks: [(0.0, "p50"), (0.5, "p99"), (1.0, "max")].map(|(place, name)| (place, name.to_owned())).into(),
        unit: time,
        series: [ours].into_iter().chain(theirs).map(points).collect(),
    }
}

fn points(values: Option<[f64; 3]>) -> Vec<(f64, f64)> {
    // Clocks have a grain: what took no time is drawn as a nanosecond.
    values.into_iter().flat_map(|values| [0.0, 0.5, 1.0].into_iter().zip(values.map(|value| value.max(1.0)))).collect()
}
