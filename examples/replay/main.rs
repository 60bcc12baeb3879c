//! What real programs do to their address spaces, replayed against mirrors that must never be wrong.
//!
//! A trace holds each `mmap`, `munmap`, `madvise` and so on that a compiler, a virtual machine or an allocator made, with
//! begin and end. The replay has a thread for each of the program's, which brackets each call with an invalidation
//! (`owner.rs`), a subscription for each mapping (`mappings.rs`), and builders that fill mirrors meanwhile (`builder.rs`),
//! slowly, as a device does. Every mapping knows which call changed it last, so every commit can be checked (`check.rs`).
//! It does so with this crate and with what else one might use, on the same input:
//!
//! ```text
//! cargo run --release --example replay -- examples/replay/traces/jvm_g1_mixed.csv.gz --builders 2 --build-latency-us 100
//! ```
//!
//! All engines keep their mirrors true. What differs is the price: builds thrown away and begins that wait because of
//! changes elsewhere.
//!
//! The exit code is 0 if no promise was broken; 1 if one was, or a result could not be written; 2 if the command line or
//! the trace is wrong.

mod builder;
mod chart;
mod check;
mod mappings;
mod options;
mod order;
mod owner;
#[path = "../common/pause.rs"]
mod pause;
mod picture;
mod region;
mod report;
#[path = "../../benches/rival/mod.rs"]
mod rival;
mod run;
mod tally;
mod trace;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::check::History;
use crate::options::{Kind, Options};
use crate::report::{Report, picture_title, print_json, print_table, progress, tell, title, while_read};
use crate::tally::Times;
use crate::trace::Trace;

fn main() -> ExitCode {
    let options: Options = clap::Parser::parse();
    if options.svg.as_ref().is_some_and(|svg| is_same(svg, &options.trace)) {
        tell("the picture would overwrite the trace");
        return ExitCode::from(2);
    }
    let trace = match trace::read(&options.trace, options.window) {
        Ok(trace) => trace,
        Err(error) => {
            tell(error);
            return ExitCode::from(2);
        }
    };
    match run_all(&trace, &options) {
        Ok(code) => code,
        Err(error) => {
            tell(error);
            ExitCode::FAILURE
        }
    }
}

fn run_all(trace: &Trace, options: &Options) -> io::Result<ExitCode> {
    tell(title(trace, options));
    if trace.failed > 0 {
        tell(format_args!("{} calls failed and are left out", trace.failed));
    }
    // Before the work, which may take minutes.
    let svg = options.svg.as_ref().map(|file| File::create(file).map_err(|error| naming(file, &error))).transpose()?;
    let run = |&kind| run_one(kind, trace, options);
    let runs: Vec<_> = options.engines().iter().map(run).collect::<io::Result<_>>()?;
    if !options.json {
        while_read(print_table(runs.iter().map(|(report, _)| report)))?;
    }
    if let Some(mut svg) = svg {
        svg.write_all(picture::of_begins(&picture_title(trace, options), &runs).as_bytes())?;
    }
    let broken = runs.iter().any(|(report, _)| report.violations > 0);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What one engine did, and how long its begins took.
fn run_one(kind: Kind, trace: &Trace, options: &Options) -> io::Result<(Report, Times)> {
    let bar = progress(kind, trace.calls.len() as u64 * options.passes());
    let outcome = run::replay(kind, trace, options, |done| bar.set_position(done));
    bar.finish_and_clear();
    for violation in &outcome.found.first {
        tell(format_args!("{}: {}", kind.name(), History(violation, trace)));
    }
    let report = Report::new(kind, trace, options, &outcome);
    if options.json {
        while_read(print_json(&report))?;
    }
    Ok((report, outcome.tally.begin))
}

/// Is what would be written what was read, by whatever name?
fn is_same(written: &Path, read: &Path) -> bool {
    let read = if read == Path::new("-") { Path::new("/dev/stdin") } else { read };
    identity(written).is_ok_and(|written| identity(read).is_ok_and(|read| read == written))
}

/// The number of a file, which hard links have in common.
#[cfg(unix)]
fn identity(file: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn identity(file: &Path) -> io::Result<std::path::PathBuf> {
    fs::canonicalize(file)
}

/// The same error, saying which file it is about.
fn naming(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_trace_is_known_by_all_its_names() {
        let folder = std::env::temp_dir().join(format!("replay-names-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let name = |name: &str| folder.join(name);
        fs::write(name("trace"), "0,0,mmap,1000,4096,,1,0").unwrap();
        fs::write(name("other"), "").unwrap();
        std::os::unix::fs::symlink("trace", name("symlink")).unwrap();
        fs::hard_link(name("trace"), name("link")).unwrap();
        let same =
            ["trace", "./trace", "symlink", "link", "other", "new"].map(|svg| is_same(&name(svg), &name("trace")));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(same, [true, true, true, true, false, false]);
    }
}
