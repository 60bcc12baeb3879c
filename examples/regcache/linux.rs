//! Runs the disciplines one after the other over the device that was chosen.

mod application;
mod begin_retry;
mod device;
mod discipline;
mod notify;
mod notify_locked;
mod options;
#[path = "../common/pause.rs"]
mod pause;
mod pipe;
mod processors;
mod report;
mod sys;
mod uring;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::application::{Application, Load};
use self::device::{Device, Opened};
use self::discipline::{Discipline, Fail, cache};
use self::options::{Kind, Options};
use self::processors::Places;
use self::report::{Report, conclusion, print_head, progress};

pub(crate) fn run(options: &Options) -> ExitCode {
    match run_all(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("regcache: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(options: &Options) -> Result<ExitCode, Fail> {
    let reports = match device::open(options.device)? {
        Opened::Uring(device) => run_on(&device, options),
        Opened::Pipe(device) => run_on(&device, options),
    }?;
    eprintln!("regcache: {}", conclusion(&reports));
    let failed = reports.iter().any(|report| report.discipline == Kind::BeginRetry && report.stale > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run_on<D: Device>(device: &Arc<D>, options: &Options) -> Result<Vec<Report>, Fail> {
    eprintln!("regcache: the device is {}", D::DESCRIPTION);
    let load = load(options);
    if !options.json {
        print_head()?;
    }
    let run_and_print = |&kind: &Kind| {
        let report = run_one(kind, cache(kind, device, options.build_latency()).as_ref(), D::NAME, &load)?;
        report.print(options.json)?;
        Ok(report)
    };
    options.disciplines().iter().map(run_and_print).collect()
}

/// The same for every discipline. Between two remaps there is as long as a build takes and then some: a build has a
/// fair chance to meet a remap, and a fair chance not to.
fn load(options: &Options) -> Load {
    let mean_pause = options.build_latency() + Duration::from_micros(20);
    Load { places: Places::choose(), senders: options.threads, time: options.duration(), mean_pause }
}

fn run_one(kind: Kind, cache: &dyn Discipline, device: &'static str, load: &Load) -> Result<Report, Fail> {
    let application = Application::new(cache)?;
    let bar = progress(kind, load.time);
    let start = Instant::now();
    let counts = application.run(load, |elapsed| bar.set_position(elapsed.as_millis() as u64))?;
    bar.finish_and_clear();
    Ok(Report::new(device, kind, start.elapsed(), counts, cache.tally()))
}
