//! Draws the README's pictures from what `cargo bench --bench versus -- --json` has measured.
//!
//! ```text
//! cargo bench --bench versus -- --json > versus.jsonl
//! cargo run --release --example pictures -- versus.jsonl docs/img
//! ```
//!
//! `.ci/pictures` does both. Only what was measured is drawn: workloads, sizes and threads that are not in the file are
//! left out. The exit code is 2 if the command line or the file is wrong.

#[path = "../replay/chart.rs"]
mod chart;
mod measured;
mod storm;
mod throughput;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use self::chart::Picture;
use self::measured::Line;

/// Draws pictures of what `cargo bench --bench versus -- --json` has measured.
#[derive(Debug, Parser)]
#[command(name = "pictures")]
struct Options {
    /// What the bench printed, one JSON object a line.
    measured: PathBuf,

    /// The folder to write to.
    folder: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let lines = match measured::read(&options.measured) {
        Ok(lines) => lines,
        Err(error) => {
            eprintln!("pictures: {error}");
            return ExitCode::from(2);
        }
    };
    match draw_all(&lines, &options.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pictures: {}: {error}", options.folder.display());
            ExitCode::FAILURE
        }
    }
}

fn draw_all(lines: &[Line], folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    draw(&throughput::picture(lines), &folder.join("throughput.svg"))?;
    draw(&storm::picture(lines), &folder.join("storm.svg"))
}

fn draw(picture: &Picture, file: &Path) -> io::Result<()> {
    if picture.panels.is_empty() {
        eprintln!("pictures: nothing to draw in {}", file.display());
        return Ok(());
    }
    fs::write(file, picture.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: &str = r#"
{"workload":"W1","n":10000,"threads":1,"rival":"kernel","ours_ns":1.0,"rival_ns":5.0,"ratio":5.0}
{"workload":"W2","n":10000,"threads":2,"rival":"kernel","ours_ns":1.0,"rival_ns":50.0,"ratio":50.0}
{"workload":"W2","n":10000,"threads":2,"rival":"ours-1-thread","ours_ns":1.0,"rival_ns":1.0,"ratio":2.0}
{"workload":"W9","n":10000,"threads":1,"rival":"kernel","ours_ns":null,"rival_ns":null,"ratio":0.5,"ours_bytes":180.0,"rival_bytes":90.0}
{"workload":"W6","n":100,"threads":1,"rival":"rwlock-iset","ours_ns":1.0,"rival_ns":5.0,"ratio":5.0}
{"workload":"W8","n":100,"threads":3,"rival":"kernel","ours_ns":50.0,"rival_ns":50.0,"ratio":1.0,"gap_us":200,"invalidators":2,"measure":"read_begin","ours_max_ns":1051,"ours_p50_ns":50,"ours_p99_ns":210,"ours_samples":4016,"rival_max_ns":5294230,"rival_p50_ns":50,"rival_p99_ns":380363,"rival_samples":2521}
{"workload":"W8","n":100,"threads":3,"rival":"kernel","ours_ns":50.0,"rival_ns":50.0,"ratio":1.0,"gap_us":200,"invalidators":2,"measure":"usable","ours_max_ns":1051,"ours_p50_ns":50,"ours_p99_ns":210,"ours_samples":4016,"rival_max_ns":5294230,"rival_p50_ns":50,"rival_p99_ns":380363,"rival_samples":2521}
"#;

    #[test]
    fn what_was_measured_is_drawn_and_nothing_else() {
        let lines = measured::parse("a", MEASURED).unwrap();
        let throughput = throughput::picture(&lines);
        let titles: Vec<_> = throughput.panels.iter().map(|panel| panel.title.as_str()).collect();
        assert_eq!(titles, ["begin and retry", "insert and remove"]);
        let [ours, kernel, iset] = &throughput.panels[0].series[..] else { panic!("three series") };
        assert_eq!((&ours[..], &kernel[..]), (&[(0.0, 1000.0), (1.0, 2000.0)][..], &[(0.0, 200.0), (1.0, 40.0)][..]));
        assert_eq!((iset.len(), throughput.panels[1].series[2][0].1), (0, 200.0));

        let storm = storm::picture(&lines);
        assert_eq!(storm.panels.len(), 1);
        assert_eq!(storm.panels[0].title, "2 invalidators, pausing 200 us");
        assert_eq!(storm.panels[0].series[1], [(0.0, 50.0), (0.5, 380_363.0), (1.0, 5_294_230.0)]);
    }

    #[test]
    fn a_line_that_is_not_one_is_told_by_its_number() {
        let error = measured::parse("versus.jsonl", "\n{\"workload\":\"W1\"}\n").unwrap_err();
        assert!(error.starts_with("versus.jsonl:2: missing field"), "{error}");
    }
}
