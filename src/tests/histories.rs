//! Random programs of three to five threads, against the concurrent form of the oracle (`src/model/concurrent`).
//!
//! Five threads are too many for loom. A program is a number, so a failure is replayed by its number and its schedule.

use super::explore;
use crate::model::{program, run_threads};

/// The numbers of the programs; each is explored by itself. `INTERVAL_PROGRAMS=5..6` chooses others, or more.
fn programs() -> std::ops::Range<u64> {
    let Ok(chosen) = std::env::var("INTERVAL_PROGRAMS") else { return 0..16 };
    let ends = chosen.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    ends.expect("INTERVAL_PROGRAMS: two numbers, as in 0..1000")
}

/// Small, well mixed, and the same for ever: a seed in a failure message is a reproduction.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`. Slightly uneven, which does not matter here.
    #[cfg(not(shuttle))]
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Says which program failed, below the assertion that did.
pub(super) struct Number(pub(super) u64);

impl Drop for Number {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was program {}", self.0);
        }
    }
}

#[test]
fn random_programs_keep_the_promises() {
    for number in programs() {
        let _number = Number(number);
        let mut random = SplitMix64(number);
        let bytes: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
        let program = program(&bytes);
        explore(&["committed", "stale"], move |seen| {
            let seen = seen.clone();
            run_threads(program.clone(), move |outcome| seen.note(outcome));
        });
    }
}

/// Every input of the fuzz target `schedule` that was kept: what once failed, and what reaches far.
#[cfg(shuttle)]
#[test]
fn kept_schedules_keep_the_promises() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/schedule");
    let mut files: Vec<_> = corpus.read_dir().expect("it is kept").map(|file| file.expect("readable").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        eprintln!("{}", file.display());
        crate::model::run_scheduled(&std::fs::read(file).expect("readable"));
    }
}
