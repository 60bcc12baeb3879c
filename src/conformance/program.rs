//! What the threads of a run do: made of bytes, be they a seed's or a fuzzer's, and made smaller when it has failed.

use crate::EventKind;
use std::fmt;
use std::ops::Range;

/// The pages that the owner has. A mirror's range ends before they do, on both sides.
pub(super) const PAGES: usize = 5;
/// Those that the mirror covers.
pub(super) const MIRRORED: Range<usize> = 1..4;
/// Steps of a thread.
const STEPS: usize = 3;

/// On whose behalf something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Nobody's in particular.
    Nobody,
    /// Somebody's who is not the mirror.
    Other,
    /// The mirror's own: it may know better than to drop anything.
    Mirror,
}

/// What the owner says of a change, or of something that is none to the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) pages: Range<usize>,
    pub(super) kind: EventKind,
    pub(super) whose: Whose,
}

impl Notice {
    /// The commonest one, which no mirror may ignore.
    pub(super) fn plain(pages: Range<usize>) -> Self {
        Notice { pages, kind: EventKind::Unmap, whose: Whose::Nobody }
    }

    /// Of a kind that fits. The pages choose it, so no byte is spent on it, and kept bytes mean what they did.
    fn new(pages: Range<usize>, whose: Whose) -> Self {
        use EventKind::*;
        let kinds = match whose {
            Whose::Nobody => [Unmap, Clear, Migrate].as_slice(),
            Whose::Other | Whose::Mirror => &[Migrate, Exclusive],
        };
        Notice { kind: kinds[(pages.start + pages.end) % kinds.len()], pages, whose }
    }

    /// One that may not block: the pages choose on whose behalf, too.
    fn tried(pages: Range<usize>) -> Self {
        use {EventKind::*, Whose::*};
        let (kind, whose) = [
            (Unmap, Nobody),
            (Migrate, Mirror),
            (Exclusive, Mirror),
            (Clear, Nobody),
            (Migrate, Nobody),
            (Exclusive, Other),
            (Migrate, Other),
        ][(pages.start + pages.end) % 7];
        Notice { pages, kind, whose }
    }

    /// Does it hit the mirror?
    pub(super) fn concerns(&self) -> bool {
        self.whose != Whose::Mirror && self.pages.start < MIRRORED.end && MIRRORED.start < self.pages.end
    }

    /// The plain one of the same pages, and the same of fewer pages.
    fn simpler(&self) -> impl Iterator<Item = Notice> {
        let plain = Notice::plain(self.pages.clone());
        (*self != plain).then_some(plain).into_iter().chain(self.halves())
    }

    fn halves(&self) -> impl Iterator<Item = Notice> {
        let Range { start, end } = self.pages;
        let middle = start + (end - start) / 2;
        let halves = [start..middle, middle..end].into_iter().filter(|half| !half.is_empty() && *half != self.pages);
        halves.map(|pages| Notice { pages, ..self.clone() })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.whose {
            Whose::Nobody => "",
            Whose::Other => " on behalf of somebody",
            Whose::Mirror => " on behalf of the mirror",
        };
        write!(f, "{} ({:?}){whose}", Pages(&self.pages), self.kind)
    }
}

/// Pages as one says them.
struct Pages<'a>(&'a Range<usize>);

impl fmt::Display for Pages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "page {}", self.0.start),
            _ => write!(f, "pages {} to {}", self.0.start, self.0.end - 1),
        }
    }
}

/// One step of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The mirror faults a page in; slowly: its build goes on for as long as somebody starts without blocking.
    Fault { page: usize, slow: bool },
    /// A change between start and end, and another one nested in it.
    Change { notice: Notice, nested: Option<Notice> },
    /// A change by an owner that may not block.
    TryChange(Notice),
    /// Somebody is under the mirror lock for a while.
    Hold,
    /// The address space goes away.
    Release,
}

impl Step {
    fn new(bytes: &mut impl Iterator<Item = u8>) -> Self {
        match below(bytes, 20) {
            0..=7 => {
                let page = MIRRORED.start + below(bytes, MIRRORED.len());
                Step::Fault { page, slow: below(bytes, 3) == 0 }
            }
            8..=13 => {
                let whose = [Whose::Nobody, Whose::Nobody, Whose::Other, Whose::Mirror][below(bytes, 4)];
                let nested = below(bytes, 4) == 0;
                let mut notice = || Notice::new(pages(bytes), whose);
                Step::Change { notice: notice(), nested: nested.then(notice) }
            }
            14..=16 => Step::TryChange(Notice::tried(pages(bytes))),
            17 | 18 => Step::Hold,
            _ => Step::Release,
        }
    }

    /// Steps that do a little less, or something more common.
    fn simpler(&self) -> Vec<Step> {
        let plain = |notice| Step::Change { notice, nested: None };
        match self.clone() {
            Step::Fault { page, slow: true } => vec![Step::Fault { page, slow: false }],
            Step::Change { notice, nested: Some(inner) } => vec![plain(notice), plain(inner)],
            Step::Change { notice, nested: None } => notice.simpler().map(plain).collect(),
            Step::TryChange(notice) => {
                let tries = notice.simpler().map(Step::TryChange);
                [plain(notice.clone())].into_iter().chain(tries).collect()
            }
            Step::Release => vec![plain(Notice::plain(MIRRORED))],
            _ => Vec::new(),
        }
    }
}

fn below(bytes: &mut impl Iterator<Item = u8>, end: usize) -> usize {
    usize::from(bytes.next().unwrap_or(0)) % end
}

fn pages(bytes: &mut impl Iterator<Item = u8>) -> Range<usize> {
    let first = below(bytes, PAGES);
    first..(first + 1 + below(bytes, 3)).min(PAGES)
}

/// The steps of each thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(pub(super) Vec<Vec<Step>>);

impl Program {
    /// Takes as many bytes as it needs; any will do, and missing ones are 0.
    pub(super) fn new(bytes: &mut impl Iterator<Item = u8>) -> Self {
        let threads = 2 + below(bytes, 2);
        let mut thread = || {
            let steps = 1 + below(bytes, STEPS);
            (0..steps).map(|_| Step::new(bytes)).collect()
        };
        Program((0..threads).map(|_| thread()).collect())
    }

    /// Programs that do a little less: without a thread, with two threads in a row, without a step, or a part of one.
    pub(super) fn smaller(&self) -> impl Iterator<Item = Program> {
        self.without_a_thread()
            .chain(self.with_two_in_a_row())
            .chain(self.without_a_step())
            .chain(self.with_a_simpler_step())
            .filter(|program| !program.0.is_empty())
    }

    fn without_a_thread(&self) -> impl Iterator<Item = Program> {
        (0..self.0.len()).map(|thread| self.with(|threads| threads[thread].clear()))
    }

    fn with_two_in_a_row(&self) -> impl Iterator<Item = Program> {
        let numbers = 0..self.0.len();
        let pairs = numbers.clone().flat_map(move |one| numbers.clone().map(move |other| (one, other)));
        pairs.filter(|(one, other)| one != other).map(|(one, other)| {
            self.with(|threads| {
                let steps = std::mem::take(&mut threads[other]);
                threads[one].extend(steps);
            })
        })
    }

    fn without_a_step(&self) -> impl Iterator<Item = Program> {
        let without = |threads: &mut Vec<Vec<Step>>, thread: usize, step| {
            threads[thread].remove(step);
        };
        self.steps().map(move |(thread, step)| self.with(|threads| without(threads, thread, step)))
    }

    fn with_a_simpler_step(&self) -> impl Iterator<Item = Program> {
        self.steps().flat_map(move |(thread, step)| {
            let simpler = self.0[thread][step].simpler().into_iter();
            simpler.map(move |simpler| self.with(|threads| threads[thread][step] = simpler))
        })
    }

    /// Thread and number of each.
    fn steps(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().enumerate().flat_map(|(thread, steps)| (0..steps.len()).map(move |step| (thread, step)))
    }

    /// The same with a change; threads that have nothing to do are left out.
    fn with(&self, change: impl FnOnce(&mut Vec<Vec<Step>>)) -> Program {
        let mut threads = self.0.clone();
        change(&mut threads);
        threads.retain(|steps| !steps.is_empty());
        Program(threads)
    }
}

/// Numbers that depend on nothing but a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The numbers of one of the many streams of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Random(seed);
        random.0 = random.next().wrapping_add(stream);
        random.0 = random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn bytes(mut self) -> impl Iterator<Item = u8> {
        std::iter::repeat_with(move || self.next() as u8)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn every_byte_string_is_a_program() {
        let empty = Program::new(&mut std::iter::empty());
        assert_eq!(empty.0.len(), 2);
        for seed in 0..200 {
            let program = Program::new(&mut Random::new(seed, 0).bytes());
            assert!((2..=3).contains(&program.0.len()));
            assert!(program.0.iter().all(|steps| (1..=STEPS).contains(&steps.len())));
        }
    }

    #[test]
    fn getting_smaller_ends() {
        let mut program = Program::new(&mut Random::new(7, 7).bytes());
        let mut rounds = 0;
        while let Some(smaller) = program.smaller().last() {
            assert_ne!(smaller, program);
            program = smaller;
            rounds += 1;
        }
        assert_eq!(program.0.iter().map(Vec::len).sum::<usize>(), 1);
        assert!(rounds < 40);
    }
}
