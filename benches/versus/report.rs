//! Lines to a reader: as JSON, or as a table.

use crate::burst::{BURSTS, DISTURBED};
use crate::check::REFERENCE_PAIR;
use crate::line::Line;
use crate::machine;
use std::io::{ErrorKind, Write};
use std::sync::atomic::Ordering::Relaxed;

/// To stdout; whoever reads it may stop when they have seen enough.
macro_rules! say {
    ($($text:tt)*) => {
        if let Err(error) = writeln!(std::io::stdout(), $($text)*) {
            std::process::exit(i32::from(error.kind() != ErrorKind::BrokenPipe));
        }
    };
}

pub(crate) struct Report {
    json: bool,
    missed: Vec<String>,
    met: usize,
}

impl Report {
    pub(crate) fn new(json: bool, pair: f64) -> Self {
        if !json {
            say!("load {}, {} cores, spin lock and unlock {pair:.2} ns", machine::load(), machine::cores());
            say!("limit: what cannot be avoided, derived where such a pair takes {REFERENCE_PAIR} ns");
            say!(
                "{:<18} {:>8} {:>3} {:<20} {:>10} {:>10} {:>9} {:>8}  target",
                "workload",
                "n",
                "thr",
                "rival",
                "ours ns",
                "rival ns",
                "ratio",
                "limit"
            );
        }
        Report { json, missed: Vec::new(), met: 0 }
    }

    pub(crate) fn line(&mut self, line: Line) {
        let verdict = line.verdict();
        if let Some(verdict) = &verdict {
            match verdict.met {
                true => self.met += 1,
                false => self.missed.push(format!("{}: {}", what(&line), verdict.target)),
            }
        }
        if self.json {
            say!("{}", serde_json::to_string(&line).expect("numbers and names"));
            return;
        }
        let limit = line.limit().map_or(String::new(), |limit| format!("{limit:.1}"));
        let target = verdict.map_or(String::new(), |verdict| {
            format!("{} {}", verdict.target, if verdict.met { "met" } else { "MISSED" })
        });
        let Line { n, threads, rival, ours_ns, rival_ns, ratio, .. } = line;
        say!(
            "{:<18} {n:>8} {threads:>3} {rival:<20} {ours_ns:>10.2} {rival_ns:>10.2} {ratio:>8.2}x {limit:>8}  {target}",
            line.workload
        );
        if !line.more.is_empty() {
            let more: Vec<_> = line.more.iter().map(|(name, value)| format!("{name} {value}")).collect();
            say!("    {}", more.join(", "));
        }
    }

    /// On stderr, for whoever watches: the numbers are on stdout.
    pub(crate) fn end(&self) {
        let (disturbed, bursts) = (DISTURBED.load(Relaxed), BURSTS.load(Relaxed));
        eprintln!(
            "\n{} targets met, {} missed; {disturbed} of {bursts} bursts disturbed; load {}",
            self.met,
            self.missed.len(),
            machine::load()
        );
        self.missed.iter().for_each(|missed| eprintln!("  missed: {missed}"));
    }
}

fn what(line: &Line) -> String {
    let measure = line.more.get("measure").and_then(serde_json::Value::as_str).unwrap_or_default();
    let Line { workload, n, threads, rival, ratio, .. } = line;
    format!("{workload} {measure} n {n} threads {threads} against {rival}, {ratio:.2}x")
}
