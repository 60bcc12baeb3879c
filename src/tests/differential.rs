//! The crate against the kernel's state machine: seeded programs, and those of the fuzzer's kept corpus.

use super::histories::{Number, SplitMix64};
use super::sequential::for_each_kept;
use crate::model::differential::{ROWS, run, run_beside_the_kernel};
use std::collections::BTreeMap;

/// Programs, and how many numbers each one draws.
const PROGRAMS: u64 = 3_000;
const NUMBERS: u64 = 200;

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, more: BTreeMap<K, u64>) {
    more.into_iter().for_each(|(what, times)| *sums.entry(what).or_default() += times);
}

#[test]
fn every_difference_from_the_kernel_is_one_that_was_decided() {
    let (mut met, mut agreed) = (BTreeMap::new(), BTreeMap::new());
    for program in 0..PROGRAMS {
        let (mut numbers, mut random) = (0..NUMBERS, SplitMix64(program));
        let _program = Number(program);
        let (rows, both) = run(&mut |below| numbers.next().map(|_| random.below(below)));
        add(&mut met, rows);
        add(&mut agreed, both);
    }
    eprintln!("both: {agreed:#?}, differences: {met:#?}");
    let missed: Vec<_> = ROWS.iter().filter(|row| !met.contains_key(row)).collect();
    assert!(missed.is_empty(), "never met: {missed:?}");
    assert_eq!(agreed.into_keys().collect::<Vec<_>>(), ["build again", "call back", "commit", "refuse", "wait"]);
}

#[test]
fn the_kept_corpus_differs_from_the_kernel_as_was_decided() {
    for_each_kept("protocol", run_beside_the_kernel);
}
