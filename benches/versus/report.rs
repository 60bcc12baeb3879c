//! Lines to a reader: as JSON, or as a table.

use crate::burst::Kept;
use crate::check::REFERENCE_PAIR;
use crate::line::{Line, Verdict};
use crate::machine;
use std::io::{ErrorKind, Write};

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
    noisy: usize,
    kept: Kept,
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
        Report { json, missed: Vec::new(), met: 0, noisy: 0, kept: Kept::default() }
    }

    pub(crate) fn line(&mut self, line: Line) {
        let verdict = line.verdict().map_or(String::new(), |verdict| self.judge(&line, verdict));
        self.kept = self.kept.and(line.kept);
        if self.json {
            say!("{}", serde_json::to_string(&line).expect("numbers and names"));
        } else {
            table_row(&line, &verdict);
        }
    }

    /// The verdict in words. There is none on a line of which too much was disturbed.
    fn judge(&mut self, line: &Line, Verdict { target, met }: Verdict) -> String {
        let word = match (line.is_noise(), met) {
            (true, _) => {
                self.noisy += 1;
                "noisy"
            }
            (false, true) => {
                self.met += 1;
                "met"
            }
            (false, false) => {
                self.missed.push(format!("{}: {target}", what(line)));
                "MISSED"
            }
        };
        format!("{target} {word}")
    }

    /// On stderr, for whoever watches: the numbers are on stdout.
    pub(crate) fn end(&self) {
        let Report { met, noisy, kept: Kept { bursts, disturbed }, .. } = self;
        let (missed, load) = (self.missed.len(), machine::load());
        eprintln!("\n{met} targets met, {missed} missed, {noisy} too noisy for a verdict; load {load}");
        eprintln!("{disturbed} of {bursts} bursts disturbed, ours counted once for each rival");
        self.missed.iter().for_each(|missed| eprintln!("  missed: {missed}"));
    }
}

fn table_row(line: &Line, verdict: &str) {
    let ns = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.2}"));
    let limit = line.limit_ns.map_or(String::new(), |limit| format!("{limit:.1}"));
    let Line { workload, n, threads, rival, ratio, .. } = line;
    say!(
        "{workload:<18} {n:>8} {threads:>3} {rival:<20} {:>10} {:>10} {ratio:>8.2}x {limit:>8}  {verdict}",
        ns(line.ours_ns),
        ns(line.rival_ns)
    );
    let mut more: Vec<_> = line.more.iter().map(|(name, value)| format!("{name} {value}")).collect();
    if line.kept.disturbed > 0 {
        more.push(format!("disturbed {} of {}", line.kept.disturbed, line.kept.bursts));
    }
    if !more.is_empty() {
        say!("    {}", more.join(", "));
    }
}

fn what(line: &Line) -> String {
    let measure = line.more.get("measure").and_then(serde_json::Value::as_str).unwrap_or_default();
    let Line { workload, n, threads, rival, ratio, .. } = line;
    format!("{workload} {measure} n {n} threads {threads} against {rival}, {ratio:.2}x")
}
