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

    fn step(bytes: &[u8]) -> Step {
        Step::new(&mut bytes.iter().copied())
    }

    fn fault(page: usize, slow: bool) -> Step {
        Step::Fault { page, slow }
    }

    /// Kept inputs mean what they did.
    #[test]
    fn bytes_stay_the_same_steps() {
        let change = |pages, whose, nested: Option<Range<usize>>| Step::Change {
            notice: Notice::new(pages, whose),
            nested: nested.map(|pages| Notice::new(pages, whose)),
        };
        for (bytes, expected) in [
            (&[0, 2, 1][..], fault(3, false)),
            (&[7, 1, 3], fault(2, true)),
            (&[20], fault(1, true)),
            (&[8, 0, 1, 0, 0], change(0..1, Whose::Nobody, None)),
            (&[9, 1, 2, 3, 1], change(3..5, Whose::Nobody, None)),
            (&[13, 2, 4, 4, 2, 1, 1], change(4..5, Whose::Other, Some(1..3))),
            (&[10, 3, 3, 1, 2], change(1..4, Whose::Mirror, None)),
            (&[14, 1, 0], Step::TryChange(Notice::tried(1..2))),
            (&[16, 2, 1], Step::TryChange(Notice::tried(2..4))),
            (&[17], Step::Hold),
            (&[18], Step::Hold),
            (&[19], Step::Release),
        ] {
            assert_eq!(step(bytes), expected, "{bytes:?}");
        }
        let program = Program::new(&mut [1, 1, 17, 0, 2, 1, 2, 18, 19, 17].into_iter());
        let three =
            vec![vec![Step::Hold, fault(3, false)], vec![Step::Hold, Step::Release, Step::Hold], vec![fault(1, true)]];
        assert_eq!(program, Program(three));
    }

    #[test]
    fn notices_are_of_kinds_that_fit() {
        use {EventKind::*, Whose::*};
        let kind = |pages, whose| Notice::new(pages, whose).kind;
        assert_eq!([kind(1..2, Nobody), kind(0..1, Nobody), kind(0..2, Nobody)], [Unmap, Clear, Migrate]);
        assert_eq!([kind(0..2, Other), kind(0..1, Other), kind(1..4, Mirror)], [Migrate, Exclusive, Exclusive]);
        let tried = |pages| {
            let Notice { kind, whose, .. } = Notice::tried(pages);
            (kind, whose)
        };
        assert_eq!([tried(3..4), tried(0..1), tried(0..2)], [(Unmap, Nobody), (Migrate, Mirror), (Exclusive, Mirror)]);
        assert_eq!([tried(0..3), tried(1..3)], [(Clear, Nobody), (Migrate, Nobody)]);
        assert_eq!([tried(2..3), tried(2..4)], [(Exclusive, Other), (Migrate, Other)]);
    }

    #[test]
    fn the_mirror_is_concerned_by_what_it_covers() {
        let concerns = |pages, whose| Notice { pages, kind: EventKind::Migrate, whose }.concerns();
        assert_eq!([0..1, 0..2, 3..4, 4..5].map(|pages| concerns(pages, Whose::Other)), [false, true, true, false]);
        assert!(concerns(1..2, Whose::Nobody) && !concerns(1..2, Whose::Mirror));
    }

    #[test]
    fn notices_read_as_phrases() {
        let said = |pages, kind, whose| Notice { pages, kind, whose }.to_string();
        assert_eq!(said(2..3, EventKind::Unmap, Whose::Nobody), "page 2 (Unmap)");
        assert_eq!(said(2..4, EventKind::Migrate, Whose::Other), "pages 2 to 3 (Migrate) on behalf of somebody");
        assert_eq!(said(0..5, EventKind::Exclusive, Whose::Mirror), "pages 0 to 4 (Exclusive) on behalf of the mirror");
    }

    #[test]
    fn steps_get_simpler_one_thing_at_a_time() {
        let plain = |pages| Step::Change { notice: Notice::plain(pages), nested: None };
        let migrate = |pages| Notice { pages, kind: EventKind::Migrate, whose: Whose::Other };
        let change = |pages| Step::Change { notice: migrate(pages), nested: None };
        for (step, simpler) in [
            (fault(1, true), vec![fault(1, false)]),
            (fault(1, false), vec![]),
            (Step::Hold, vec![]),
            (Step::Release, vec![plain(1..4)]),
            (plain(1..2), vec![]),
            (plain(0..3), vec![plain(0..1), plain(1..3)]),
            (change(1..5), vec![plain(1..5), change(1..3), change(3..5)]),
            (
                Step::Change { notice: migrate(0..2), nested: Some(Notice::plain(4..5)) },
                vec![change(0..2), plain(4..5)],
            ),
            (Step::TryChange(migrate(1..2)), vec![change(1..2), Step::TryChange(Notice::plain(1..2))]),
        ] {
            assert_eq!(step.simpler(), simpler, "{step:?}");
        }
    }

    #[test]
    fn programs_get_smaller_one_thing_at_a_time() {
        let (hold, slow, fast) = (Step::Hold, fault(2, true), fault(2, false));
        let program = Program(vec![vec![hold.clone(), slow.clone()], vec![Step::Release]]);
        let steps = |threads: &[&[&Step]]| {
            Program(threads.iter().map(|steps| steps.iter().map(|&step| step.clone()).collect()).collect())
        };
        let (release, plain) = (Step::Release, Step::Change { notice: Notice::plain(1..4), nested: None });
        let smaller = [
            steps(&[&[&release]]),
            steps(&[&[&hold, &slow]]),
            steps(&[&[&hold, &slow, &release]]),
            steps(&[&[&release, &hold, &slow]]),
            steps(&[&[&slow], &[&release]]),
            steps(&[&[&hold], &[&release]]),
            steps(&[&[&hold, &slow]]),
            steps(&[&[&hold, &fast], &[&release]]),
            steps(&[&[&hold, &slow], &[&plain]]),
        ];
        assert_eq!(program.smaller().collect::<Vec<_>>(), smaller);
        assert_eq!(Program(vec![vec![fast]]).smaller().count(), 0, "there is nothing to leave out");
    }

    /// A seed finds tomorrow what it finds today.
    #[test]
    fn seeds_stay_the_same_numbers() {
        let numbers = |seed, stream| {
            let mut random = Random::new(seed, stream);
            [random.next(), random.next()]
        };
        assert_eq!(numbers(0, 0), [0x2382_75bc_38fc_be91, 0xf89a_2566_b582_2c54]);
        assert_eq!(numbers(1, 2), [0xe68e_6fc0_1df0_8360, 0x47b7_6c95_4434_f7e4]);
        assert!(Random::new(1, 2).bytes().take(2).eq(numbers(1, 2).map(|number| number as u8)));
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
