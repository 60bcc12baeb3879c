//! The tree against a sorted list.

use super::op::{Bytes, KEYS, Range};
use crate::Span;
use crate::sync::epoch;
use crate::tree::{Key, Tree};
use std::ops::ControlFlow::{Break, Continue};

type Entry = (Key<u64>, u32);

/// Entries at a time: enough for three levels.
const MOST: usize = 800;
/// Changes in the middle of one search, for each entry that it finds.
const CHANGES: u8 = 3;

/// Decodes `bytes` into inserts, removals and searches, and panics where the tree and a sorted list disagree.
pub fn run_tree(bytes: &[u8]) {
    let (mut bytes, mut run) = (Bytes::new(bytes), Run::new());
    while run.step(&mut bytes).is_some() {
        run.tree.check();
        assert_eq!(run.tree.write().len(), run.list.len());
    }
    assert_same(&all(&run.tree), &run.list);
}

/// As `assert_eq!`, but shows the first difference only.
fn assert_same(found: &[Entry], expected: &[Entry]) {
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    assert_eq!(found.get(at), expected.get(at), "entry {at} of {} found, {} expected", found.len(), expected.len());
}

fn all(tree: &Tree<u64, u32>) -> Vec<Entry> {
    search(tree, Span::new(..).expect("everything"), None, usize::MAX)
}

/// The first `most` entries over `span` after `after`, as the tree has them.
fn search(tree: &Tree<u64, u32>, span: Span, after: Option<Key<u64>>, most: usize) -> Vec<Entry> {
    let mut found = Vec::new();
    tree.overlapping(&epoch::pin(), span, after, |key, value| {
        found.push((key, value));
        if found.len() >= most { Break(()) } else { Continue(()) }
    });
    found
}

struct Run {
    tree: Tree<u64, u32>,
    /// What the tree holds, sorted.
    list: Vec<Entry>,
    inserted: u32,
}

impl Run {
    fn new() -> Run {
        Run { tree: Tree::new(), list: Vec::new(), inserted: 0 }
    }

    /// `None` when the bytes are used up.
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        match bytes.byte()? % 8 {
            0 => self.insert(bytes.range()?, 0),
            1 => self.insert_many(bytes.range()?, bytes.byte()?),
            2 => self.scatter(bytes.byte()?, bytes.byte()?),
            3 => self.remove_some(bytes.byte()?, 1),
            4 => self.remove_some(bytes.byte()?, bytes.byte()?),
            5 => self.remove_absent(bytes.range()?),
            6 => self.search(bytes.range()?, bytes.byte()?),
            _ => self.search_amid_changes(bytes.range()?, bytes.byte()?),
        }
        Some(())
    }

    /// Inserts `range` moved up by `offset`, as far as there are addresses. Ids count up, as those of the crate do.
    fn insert(&mut self, range: Range, offset: u64) {
        let Some(span) = Span::new(range).filter(|_| self.list.len() < MOST) else { return };
        let moved = span.first().saturating_add(offset)..=span.last().saturating_add(offset);
        let key = Key::new(Span::new(moved).expect("not empty before"), self.inserted.into());
        self.tree.write().insert(key, self.inserted);
        let at = self.list.binary_search(&(key, self.inserted)).expect_err("ids are new");
        self.list.insert(at, (key, self.inserted));
        self.inserted += 1;
    }

    /// A run of ranges: equal ones, or each a step above the one before.
    fn insert_many(&mut self, range: Range, count: u8) {
        let step = u64::from(count >> 7) * 3;
        (0..u64::from(count & 0x3f)).for_each(|i| self.insert(range, i * step));
    }

    /// Short and long ranges all over the middle, between the low keys and the high ones.
    fn scatter(&mut self, seed: u8, count: u8) {
        let mut at = u64::from(seed) << 32;
        for i in 0..u64::from(count >> 2) {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let first = KEYS[3] + (at >> 40);
            let last = first + (i % 7) * (i % 5) * 1_000;
            self.insert((std::ops::Bound::Included(first), std::ops::Bound::Included(last)), 0);
        }
    }

    /// Removes `count` neighbours, beginning at a place that `pick` names.
    fn remove_some(&mut self, pick: u8, count: u8) {
        let start = usize::from(pick) * self.list.len() / 256;
        let end = self.list.len().min(start + usize::from(count));
        for (key, _) in self.list.drain(start..end) {
            assert!(self.tree.write().remove(&key), "{key:?} is in the list");
        }
    }

    /// Keys that differ from one that is there in one field only.
    fn remove_absent(&mut self, range: Range) {
        let Some(span) = Span::new(range) else { return };
        let absent = Key::new(span, self.inserted.into());
        assert!(!self.tree.write().remove(&absent), "{absent:?} was never inserted");
    }

    /// All that overlap, in one pass and in pieces of `pieces`, each going on behind the last one of the piece before.
    fn search(&self, range: Range, pieces: u8) {
        let Some(span) = Span::new(range) else { return };
        let overlaps = |key: &Key<u64>| key.first <= span.last() && span.first() <= key.last;
        let expected: Vec<Entry> = self.list.iter().copied().filter(|(key, _)| overlaps(key)).collect();
        assert_same(&search(&self.tree, span, None, usize::MAX), &expected);

        let (most, mut after) = (usize::from(pieces).max(1), None);
        for piece in expected.chunks(most) {
            assert_same(&search(&self.tree, span, after, most), piece);
            after = piece.last().map(|(key, _)| *key);
        }
        assert_eq!(search(&self.tree, span, after, most), [], "behind the last one");
        // Also behind a key that does not overlap, or that is not there.
        let behind = Key::new(span, self.inserted.into());
        let rest: Vec<Entry> = expected.iter().copied().filter(|(key, _)| *key > behind).collect();
        assert_same(&search(&self.tree, span, Some(behind), usize::MAX), &rest);
    }

    /// A search while the tree changes, at each entry that it finds: what is there all along is found once.
    fn search_amid_changes(&mut self, range: Range, seed: u8) {
        let Some(span) = Span::new(range) else { return };
        let overlaps = |(key, _): &&Entry| key.span().overlap(&span).is_some();
        let mut lasting: Vec<Entry> = self.list.iter().filter(overlaps).copied().collect();
        let tree = std::mem::replace(&mut self.tree, Tree::new());
        let (mut found, mut pick) = (Vec::new(), seed);
        tree.overlapping(&epoch::pin(), span, None, |key, value| {
            found.push((key, value));
            for _ in 0..seed % (CHANGES + 1) {
                pick = pick.wrapping_mul(37).wrapping_add(91);
                self.change_amid(&tree, pick, range, &mut lasting);
            }
            Continue(())
        });
        self.tree = tree;
        assert!(found.is_sorted_by(|left, right| left < right), "in order, and none twice");
        assert!(found.iter().all(|entry| overlaps(&entry)), "what does not overlap was found");
        let lasting_found: Vec<Entry> =
            found.into_iter().filter(|entry| lasting.binary_search(entry).is_ok()).collect();
        assert_same(&lasting_found, &lasting);
    }

    /// One change of `tree`: an insertion, or a removal of what is in the list at a place that `pick` names.
    fn change_amid(&mut self, tree: &Tree<u64, u32>, pick: u8, range: Range, lasting: &mut Vec<Entry>) {
        if pick & 1 == 0 || self.list.is_empty() {
            let Some(span) = Span::new(range).filter(|_| self.list.len() < MOST) else { return };
            let key = Key::new(span, self.inserted.into());
            tree.write().insert(key, self.inserted);
            let at = self.list.binary_search(&(key, self.inserted)).expect_err("ids are new");
            self.list.insert(at, (key, self.inserted));
            self.inserted += 1;
        } else {
            let gone = self.list.remove(usize::from(pick) * self.list.len() / 256);
            assert!(tree.write().remove(&gone.0), "{gone:?} is in the list");
            lasting.retain(|entry| *entry != gone);
        }
    }
}
