//! What is asked of the machine: cores, and whether it left us alone. Where it cannot be asked, nothing is done.

/// How many threads can run at a time.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread on one core, the `nth` of those it is allowed on.
#[cfg(target_os = "linux")]
pub(crate) fn pin(nth: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let mut one = CpuSet::new();
    one.set(cores[nth % cores.len()]);
    // If it is refused the scheduler places the thread; the medians are noisier then and not wrong.
    let _ = sched_setaffinity(None, &one);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize) {}

/// How often the scheduler took the core away from the calling thread.
pub(crate) fn preemptions() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Runs the program again so that large blocks lie on 2 MiB pages: the arena of the rival `kernel`, whose original lives on
/// such pages, and whatever else is large. (Small blocks from the heap do not; that is what users of a library have, too.)
/// glibc only; elsewhere, or if the user has set it, nothing is changed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn with_huge_pages() {
    use std::os::unix::process::CommandExt;
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(TUNABLES).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = std::process::Command::new(program);
    let failed = again.args(std::env::args_os().skip(1)).env(TUNABLES, "glibc.malloc.hugetlb=1").exec();
    eprintln!("versus: 2 MiB pages are not used: {failed}");
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn with_huge_pages() {}

/// The load of the last minute, for the record.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").to_owned()
}
