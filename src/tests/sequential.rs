//! One thread against the oracle: seeded programs, and the fuzzer's kept corpora.

use super::histories::SplitMix64;
#[cfg(not(any(loom, shuttle)))]
use crate::model::{notified_from_bytes, run_notified};
use crate::model::{ops_from_bytes, run, run_tree};
use std::collections::BTreeMap;
use std::path::Path;

/// How many programs, and how many bytes the longest one has.
const PROTOCOL: (u64, u64) = (400, 600);
/// The same of notifiers.
#[cfg(not(any(loom, shuttle)))]
const NOTIFIED: (u64, u64) = (2_000, 300);
/// As many steps cost more here: each of them checks every node.
const TREE: (u64, u64) = (100, 250);

/// What the seeds must reach, or they show nothing.
const OUTCOMES: [&str; 27] = [
    "a second batch",
    "begin Err([Active, InsideInvalidation])",
    "begin Err([Active])",
    "begin Err([InsideCallback])",
    "begin Err([InsideInvalidation])",
    "begin Err([Poisoned])",
    "begin Err([Released])",
    "begin Ok(())",
    "callback inside 3 others",
    "commit accepted",
    "commit stale",
    "drop at once",
    "drop later",
    "start Answered",
    "start Panicked",
    "start Refused",
    "start refused by a lock",
    "subscribe Err(Empty)",
    "subscribe Err(Released)",
    "unsubscribe would wait for itself",
    "update Err(Begin(InsideCallback)) at attempt 0",
    "update Err(Begin(InsideInvalidation)) at attempt 0",
    "update Err(Begin(Poisoned)) at attempt 1",
    "update Err(Build(2)) at attempt 2",
    "update Err(Exhausted { attempts: 2 }) at attempt 2",
    "update Ok(()) at attempt 1",
    "update Ok(()) at attempt 2",
];

/// The same of notifiers. What is refused or panics in a start has ended then.
#[cfg(not(any(loom, shuttle)))]
const OUTCOMES_OF_NOTIFIERS: [&str; 32] = [
    "Asked(ClearFlushYoung) Done",
    "Asked(ClearFlushYoung) Panicked",
    "Asked(ClearFlushYoung) inside 1 others",
    "Asked(ClearYoung) Done",
    "Asked(ClearYoung) Panicked",
    "Asked(InvalidateTlbs) Done",
    "Asked(InvalidateTlbs) Panicked",
    "Asked(InvalidateTlbs) inside 0 others",
    "Asked(TestYoung) Done",
    "Asked(TestYoung) Panicked",
    "Asked(TestYoung) inside 1 others",
    "End Done",
    "End Panicked",
    "End Refused",
    "End inside 3 others",
    "Release Done",
    "Release Panicked",
    "Release inside 1 others",
    "Start Done",
    "Start inside 4 others",
    "drop at once",
    "drop later",
    "get again, Err(InsideInvalidation)",
    "get again, Ok(())",
    "get first, Err(InsideCallback)",
    "get first, Err(Released)",
    "get first, Ok(())",
    "make panics",
    "register Err(InsideCallback)",
    "register Err(InsideInvalidation)",
    "register Err(Released)",
    "unregister would wait for itself",
];

/// Says which program failed, below the assertion that did.
struct Program<'a> {
    name: String,
    bytes: &'a [u8],
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the program was {}: {:02x?}", self.name, self.bytes);
            eprintln!("which for the protocol are");
            ops_from_bytes(self.bytes).iter().for_each(|op| eprintln!("    {op:?}"));
            #[cfg(not(any(loom, shuttle)))]
            eprintln!("and for notifiers {:#?}", notified_from_bytes(self.bytes));
        }
    }
}

fn for_each_seed((seeds, longest): (u64, u64), mut run: impl FnMut(&[u8])) {
    for seed in 0..seeds {
        let mut random = SplitMix64(seed);
        let length = random.below(longest);
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let program = Program { name: format!("seed {seed}"), bytes: &bytes };
        run(program.bytes);
    }
}

/// Runs them, and looks for what they must reach.
fn reach(seeds: (u64, u64), outcomes: &[&str], run: impl Fn(&[u8]) -> BTreeMap<String, u64>) {
    let mut reached = BTreeMap::<String, u64>::new();
    for_each_seed(seeds, |bytes| {
        for (outcome, times) in run(bytes) {
            *reached.entry(outcome).or_default() += times;
        }
    });
    eprintln!("reached: {reached:#?}");
    let missed: Vec<_> = outcomes.iter().filter(|outcome| !reached.contains_key(**outcome)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

/// Every file of a kept corpus: what the fuzzer found worth keeping, and what once failed.
pub(super) fn for_each_kept(target: &str, run: impl Fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        return; // The published crate is without it.
    }
    let files = fuzz.join("corpus").join(target).read_dir().expect("the corpus is kept");
    for file in files.map(|file| file.expect("a readable folder").path()) {
        let bytes = std::fs::read(&file).expect("a readable file");
        let program = Program { name: file.display().to_string(), bytes: &bytes };
        run(program.bytes);
    }
}

#[test]
fn seeded_programs_keep_the_promises() {
    reach(PROTOCOL, &OUTCOMES, |bytes| run(&ops_from_bytes(bytes)));
}

#[test]
fn seeded_programs_find_the_tree_a_sorted_list() {
    for_each_seed(TREE, run_tree);
}

#[test]
fn the_kept_corpus_keeps_the_promises() {
    for_each_kept("protocol", |bytes| drop(run(&ops_from_bytes(bytes))));
}

#[test]
fn the_kept_corpus_finds_the_tree_a_sorted_list() {
    for_each_kept("tree", run_tree);
}

#[cfg(not(any(loom, shuttle)))]
#[test]
fn seeded_programs_keep_the_promises_to_notifiers() {
    reach(NOTIFIED, &OUTCOMES_OF_NOTIFIERS, run_notified);
}

#[cfg(not(any(loom, shuttle)))]
#[test]
fn the_kept_corpus_keeps_the_promises_to_notifiers() {
    for_each_kept("protocol", |bytes| drop(run_notified(bytes)));
}
