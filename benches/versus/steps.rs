//! W1 to W6: one step, repeated by each thread.

use crate::burst::{Job, interleaved};
use crate::contender::{Contender, Step, everybody};
use crate::line::{Line, ONE_THREAD, rounded};
use crate::machine;
use crate::options::{Options, Workload};
use crate::report::Report;

const WORKLOADS: [(Workload, Step); 8] = [
    (Workload::W1, Step::BeginRetry),
    (Workload::W1m, Step::BeginRetryLocked),
    (Workload::W2, Step::BeginRetry),
    (Workload::W2m, Step::BeginRetryLocked),
    (Workload::W3, Step::Miss),
    (Workload::W4, Step::Hit),
    (Workload::W5, Step::Hit100),
    (Workload::W6, Step::InsertRemove),
];

/// One by definition, several by definition, or what is asked for. A hundred neighbours need a hundred neighbours.
pub(crate) fn is_measured(workload: Workload, n: u64, threads: usize) -> bool {
    match workload {
        Workload::W1 | Workload::W1m => threads == 1,
        Workload::W2 | Workload::W2m => threads > 1,
        Workload::W5 => n > 100,
        _ => true,
    }
}

pub(crate) fn measure(options: &Options, report: &mut Report) {
    for n in options.sizes() {
        let wanted: Vec<_> = WORKLOADS.into_iter().filter(|(workload, _)| options.wants(*workload)).collect();
        if wanted.is_empty() {
            return;
        }
        let contenders = everybody(n);
        for (workload, step) in wanted {
            for threads in options.threads(machine::cores()) {
                if is_measured(workload, n, threads) {
                    compare(workload, step, n, threads, &contenders, options, report);
                }
            }
        }
    }
}

fn compare(
    workload: Workload,
    step: Step,
    n: u64,
    threads: usize,
    contenders: &[Box<dyn Contender>],
    options: &Options,
    report: &mut Report,
) {
    let mut jobs: Vec<(_, _, &dyn Contender)> = Vec::new();
    jobs.extend(contenders.iter().map(|contender| (contender.name(), threads, &**contender)));
    if threads > 1 {
        jobs.push((ONE_THREAD, 1, &*contenders[0]));
    }
    let named = |&(_, threads, contender)| Job { contender, step, threads };
    let times = interleaved(&jobs.iter().map(named).collect::<Vec<_>>(), options.pace());
    for (&(rival, ..), &time) in jobs.iter().zip(&times).skip(1) {
        let line = Line::new(workload, n, threads, rival).times(times[0].median, time.median);
        let line = line.kept(times[0].kept.and(time.kept));
        let speedup = threads as f64 * time.median / times[0].median;
        report.line(if rival == ONE_THREAD { line.with("speedup", rounded(speedup)) } else { line });
    }
}
