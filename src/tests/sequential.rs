//! One thread against the oracle: seeded programs, and the fuzzer's kept corpora.

use super::histories::SplitMix64;
use crate::model::{ops_from_bytes, run, run_tree};
use std::collections::BTreeMap;
use std::path::Path;

/// How many programs, and how many bytes the longest one has.
const PROTOCOL: (u64, u64) = (400, 600);
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
    let mut reached = BTreeMap::<String, u64>::new();
    for_each_seed(PROTOCOL, |bytes| {
        for (outcome, times) in run(&ops_from_bytes(bytes)) {
            *reached.entry(outcome).or_default() += times;
        }
    });
    eprintln!("reached: {reached:#?}");
    let missed: Vec<_> = OUTCOMES.iter().filter(|outcome| !reached.contains_key(**outcome)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
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
