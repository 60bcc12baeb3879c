//! What several threads do, decoded from bytes.

use arbitrary::{Result, Unstructured};
use std::ops::Range;

/// Addresses, one page each.
pub(super) const PAGES: usize = 8;
/// What the threads share.
pub(super) const SHARED: [(Range<u64>, Habit); 2] = [(0..5, Habit::Plain), (3..8, Habit::SetsTwice)];

/// One step of one thread.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A change between start and end; the second is nested in the first.
    Change(Range<u64>, Option<Range<u64>>),
    /// A change by an owner that may not wait.
    TryChange(Range<u64>),
    /// A build for one of the shared mirrors.
    Build(usize),
    /// The same through `Mirror::update`.
    Update,
    /// A subscription of one's own: insert, build, remove.
    Own(Range<u64>, Habit),
    /// A subscription that is left for some callback to drop.
    Prey(Range<u64>, Habit),
    /// A notifier of one's own: register, change, unregister.
    Notify(Range<u64>),
}

/// How the callback of a subscription goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// At once.
    Plain,
    /// It leaves a part to a finish.
    Finishes,
    /// It sets the sequence twice, and lets go of its lock in between: the second time must not count.
    SetsTwice,
}

fn range(bytes: &mut Unstructured<'_>) -> Result<Range<u64>> {
    let first = bytes.int_in_range(0..=PAGES as u64 - 1)?;
    Ok(first..(first + bytes.int_in_range(1..=4)?).min(PAGES as u64))
}

fn habit(bytes: &mut Unstructured<'_>) -> Result<Habit> {
    Ok([Habit::Plain, Habit::Finishes, Habit::SetsTwice][bytes.choose_index(3)?])
}

fn step(bytes: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match bytes.int_in_range(0..=8u8)? {
        0 => Step::Change(range(bytes)?, None),
        1 => Step::Change(range(bytes)?, Some(range(bytes)?)),
        2 => Step::TryChange(range(bytes)?),
        3 | 4 => Step::Build(bytes.choose_index(SHARED.len())?),
        5 => Step::Update,
        6 => Step::Own(range(bytes)?, habit(bytes)?),
        7 => Step::Prey(range(bytes)?, habit(bytes)?),
        _ => Step::Notify(range(bytes)?),
    })
}

/// The steps of each thread.
pub(crate) type Program = Vec<Vec<Step>>;

/// What `threads` threads with at most `steps` steps do, as far as the bytes tell.
pub(super) fn threads(bytes: &mut Unstructured<'_>, threads: usize, steps: usize) -> Result<Program> {
    let thread = |_| {
        let count = bytes.int_in_range(1..=steps)?;
        (0..count).map(|_| step(bytes)).collect()
    };
    (0..threads).map(thread).collect()
}

/// Two threads that meet over everything: a program with these is never vacuous.
#[cfg(test)]
pub(super) fn that_meet() -> Program {
    let everything = || 0..PAGES as u64;
    vec![
        vec![Step::Prey(everything(), Habit::Plain), Step::Change(everything(), None)],
        vec![Step::Build(0), Step::Change(everything(), None), Step::Build(1)],
    ]
}
