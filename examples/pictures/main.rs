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
