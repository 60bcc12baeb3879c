//! The tree against a sorted list, which is obviously right.

use super::check::children;
use super::{INNER, Inner, Key, LEAF, Leaf, Node, Published, Tree};
use crate::range::{Address, Span};
use crate::sync::epoch;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

/// A sequence of numbers that looks random and depends on the seed only (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn choice<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A range between two of `points`.
    fn span<A: Address>(&mut self, points: &[A]) -> Span<A> {
        let (a, b) = (self.choice(points), self.choice(points));
        span(a.min(b), a.max(b))
    }

    /// A range from one of `points` to at most `reach` points further on.
    fn short_span<A: Address>(&mut self, points: &[A], reach: usize) -> Span<A> {
        let first = self.below(points.len());
        let last = (first + self.below(reach + 1)).min(points.len() - 1);
        span(points[first], points[last])
    }
}

fn span<A: Address>(first: A, last: A) -> Span<A> {
    Span::new(first..=last).unwrap()
}

fn everything<A: Address>() -> Span<A> {
    Span::new(..).unwrap()
}

/// Both ends of the address space, and a few addresses between them.
fn edges<A: Address + TryFrom<u128>>() -> Vec<A>
where
    A::Error: Debug,
{
    let max = u128::MAX >> (128 - 8 * size_of::<A>());
    [0, 1, 2, 3, 4, 5, 6, 7, max / 2, max - 3, max - 2, max - 1, max].map(|a| A::try_from(a).unwrap()).into()
}

/// A tree and the list that it must agree with. The value of an entry is a function of its id.
struct Pair<A: Address> {
    tree: Tree<A, u64>,
    list: Vec<Key<A>>,
    next_id: u64,
}

impl<A: Address> Pair<A> {
    fn new() -> Self {
        Pair { tree: Tree::new(), list: Vec::new(), next_id: 1 }
    }

    fn with(spans: impl IntoIterator<Item = Span<A>>) -> Self {
        let mut pair = Pair::new();
        for span in spans {
            pair.insert(span);
        }
        pair
    }

    fn insert(&mut self, span: Span<A>) {
        let key = Key::new(span, self.next_id);
        self.next_id += 1;
        self.tree.write().insert(key, value(key));
        let at = self.list.partition_point(|other| *other < key);
        self.list.insert(at, key);
    }

    fn remove_nth(&mut self, at: usize) {
        let key = self.list.remove(at);
        assert!(self.tree.write().remove(&key), "{key:?} is not there");
        assert!(!self.tree.write().remove(&key), "{key:?} is there twice");
    }

    /// One random step; `growth` of 100 are insertions.
    fn step(&mut self, random: &mut Random, growth: usize, span: Span<A>) {
        if self.list.is_empty() || random.below(100) < growth {
            self.insert(span);
        } else {
            self.remove_nth(random.below(self.list.len()));
        }
    }

    fn assert_equal(&self) {
        self.tree.check();
        assert_eq!(self.tree.write().len(), self.list.len());
        assert!(self.tree.to_vec().into_iter().eq(self.list.iter().map(|&key| (key, value(key)))));
    }

    fn assert_found(&self, span: Span<A>, after: Option<Key<A>>) {
        let hits = |key: &&Key<A>| key.span().overlap(&span).is_some() && after.is_none_or(|after| **key > after);
        let expected: Vec<_> = self.list.iter().filter(hits).copied().collect();
        assert_eq!(found(&self.tree, span, after, usize::MAX), expected, "{span:?} after {after:?}");
    }
}

/// Levels of nodes.
fn height<A: Address>(tree: &Tree<A, u64>) -> usize {
    fn of<A: Address>(node: Published<'_, A, u64>, guard: &epoch::Guard) -> usize {
        match node {
            Node::Leaf(_) => 1,
            Node::Inner(inner) => 1 + children(&inner, guard).map(|child| of(child, guard)).max().unwrap(),
        }
    }
    let guard = epoch::pin();
    tree.root.load(&guard).map_or(0, |root| of(root, &guard))
}

fn value<A>(key: Key<A>) -> u64 {
    key.id.wrapping_mul(7)
}

/// The first `limit` entries that a search finds; then it is told to break.
fn found<A: Address>(tree: &Tree<A, u64>, span: Span<A>, after: Option<Key<A>>, limit: usize) -> Vec<Key<A>> {
    let mut keys = Vec::new();
    tree.overlapping(&epoch::pin(), span, after, |key, stored| {
        assert!(keys.len() < limit, "visited after it was told to break");
        assert_eq!(stored, value(key), "{key:?} has the value of another");
        keys.push(key);
        if keys.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    keys
}

/// Many short histories over few addresses: most ranges are equal, nested or at an end of the address space.
fn short_histories<A: Address + TryFrom<u128>>()
where
    A::Error: Debug,
{
    let points = edges::<A>();
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut pair = Pair::<A>::new();
        for step in 0..400 {
            // It grows, then shrinks to nothing.
            let inserted = random.span(&points);
            pair.step(&mut random, if step < 250 { 80 } else { 10 }, inserted);
            pair.assert_equal();
            let searched = random.span(&points);
            let after = (!pair.list.is_empty()).then(|| random.choice(&pair.list));
            pair.assert_found(searched, None);
            pair.assert_found(searched, after);
        }
    }
}

#[test]
fn nodes_are_at_least_a_quarter_full() {
    assert_eq!((Leaf::<u64, u64>::LEAST, Inner::<u64, u64>::LEAST), (LEAF / 4, INNER / 4));
}

#[test]
fn short_histories_agree_with_a_list() {
    short_histories::<u32>();
    short_histories::<u64>();
    short_histories::<usize>();
    short_histories::<u128>();
}

/// One history to 5,000 entries and back to none. A few long ranges lie over many short ones.
fn long_history(seed: u64, points: &[u64]) {
    let mut random = Random(seed);
    let mut pair = Pair::new();
    for growth in [95, 5] {
        let mut step = 0_usize;
        while if growth > 50 { pair.list.len() < 5_000 } else { !pair.list.is_empty() } {
            let inserted = if step % 100 == 0 { random.span(points) } else { random.short_span(points, 3) };
            pair.step(&mut random, growth, inserted);
            if step % 64 == 0 {
                pair.assert_equal();
                let searched = random.short_span(points, 5);
                pair.assert_found(searched, None);
                let after = Key::new(random.short_span(points, 3), random.next() % pair.next_id);
                pair.assert_found(searched, Some(after));
            }
            step += 1;
        }
        assert!(growth < 50 || height(&pair.tree) >= 3, "too small to have an inner node below the root");
    }
    assert_eq!(height(&pair.tree), 0);
}

#[test]
fn long_histories_agree_with_a_list() {
    long_history(1, &(0..64).collect::<Vec<_>>());
    long_history(2, &(0..100_000).map(|page| page << 12).collect::<Vec<_>>());
}

#[test]
fn ascending_and_descending_keys_agree_with_a_list() {
    let pages = || (0..3_000_u64).map(|page| span(page * 2, page * 2));
    let ascending = Pair::with(pages());
    let descending = Pair::with(pages().rev());
    for mut pair in [ascending, descending] {
        pair.assert_equal();
        pair.assert_found(span(77, 200), None);
        pair.assert_found(span(77, 77), None);
        // From the front, then from the back, so that both neighbours are borrowed from.
        while !pair.list.is_empty() {
            pair.remove_nth(if pair.list.len() > 1_500 { 0 } else { pair.list.len() - 1 });
            if pair.list.len() % 64 == 0 {
                pair.assert_equal();
            }
        }
    }
}

#[test]
fn ten_thousand_equal_ranges_are_told_apart_by_their_ids() {
    let at_the_end = span(u64::MAX - 1, u64::MAX);
    let mut pair = Pair::with((0..10_000).map(|_| at_the_end));
    pair.insert(everything());
    pair.insert(span(0, u64::MAX - 2));
    pair.assert_equal();
    pair.assert_found(span(u64::MAX, u64::MAX), None);
    pair.assert_found(span(0, 0), None);
    let mut random = Random(3);
    while pair.list.len() > 2_000 {
        pair.remove_nth(random.below(pair.list.len()));
    }
    pair.assert_equal();
    pair.assert_found(at_the_end, None);
    assert!(!pair.tree.write().remove(&Key::new(at_the_end, 77_777)));
}

#[test]
fn a_range_over_everything_is_found_everywhere() {
    // 0                                 MAX
    // ●───────────────────────────────────●   one
    // ● ● ● ●                       ● ● ● ●   points, many each
    let points = edges::<u64>();
    let mut pair = Pair::with((0..1_000).map(|i| span(points[i % points.len()], points[i % points.len()])));
    pair.insert(everything());
    for &point in &points {
        pair.assert_found(span(point, point), None);
    }
    pair.assert_found(span(1 << 20, 1 << 30), None);
    assert_eq!(found(&pair.tree, span(1 << 20, 1 << 30), None, usize::MAX).len(), 1);
}

#[test]
fn nested_ranges_are_found_where_they_reach() {
    // 0         1000         2000
    // ●──────────────────────────●
    //   ●──────────────────────●
    //     ●──────────────────●      .. and so on, 1,000 of them
    let pair = Pair::with((0..=1_000_u64).map(|depth| span(depth, 2_000 - depth)));
    pair.assert_equal();
    for at in [0, 1, 499, 999, 1_000, 1_001, 1_500, 1_999, 2_000, 2_001] {
        pair.assert_found(span(at, at), None);
        let expected = if at <= 2_000 { at.min(2_000 - at) + 1 } else { 0 };
        assert_eq!(found(&pair.tree, span(at, at), None, usize::MAX).len() as u64, expected);
    }
}

#[test]
fn a_range_meets_only_what_shares_an_address_with_it() {
    // 3 4 5 6 7 8 9
    //     ●───●
    let pair = Pair::with([span(5_u64, 7)]);
    let hits = |first, last| found(&pair.tree, span(first, last), None, usize::MAX).len();
    assert_eq!([hits(3, 4), hits(3, 5), hits(6, 6), hits(3, 9), hits(7, 9), hits(8, 9)], [0, 1, 1, 1, 1, 0]);
}

#[test]
fn a_search_that_finds_nothing_visits_one_node_a_level() {
    fn visited(node: Published<'_, u64, u64>, searched: Span<u64>, guard: &epoch::Guard) -> usize {
        match node {
            Node::Leaf(_) => 1,
            Node::Inner(inner) => {
                let entered = inner.overlapping(searched, 0).map(|at| inner.item(at).node(guard));
                1 + entered.map(|child| visited(child, searched, guard)).sum::<usize>()
            }
        }
    }
    // 200 heaps of short ranges that overlap each other, with a gap after each.
    let mut random = Random(6);
    let pair = Pair::with((0..20_000).map(|_| {
        let (block, first) = (random.next() % 200, random.next() % 50);
        span(block * 100 + first, block * 100 + first + random.next() % 40)
    }));
    assert!(height(&pair.tree) >= 3);
    let guard = epoch::pin();
    for block in 0..200 {
        let gap = span(block * 100 + 90, block * 100 + 99);
        pair.assert_found(gap, None);
        let visited = visited(pair.tree.root.load(&guard).unwrap(), gap, &guard);
        assert!(visited <= height(&pair.tree), "{visited} nodes for nothing in {gap:?}");
    }
}

#[test]
fn a_search_continued_after_any_entry_finds_the_rest() {
    let mut random = Random(4);
    let points: Vec<u64> = (0..40).collect();
    let pair = Pair::with((0..1_500).map(|_| random.short_span(&points, 8)));
    assert!(height(&pair.tree) >= 3);
    for searched in [everything(), span(7, 21), span(39, 39), span(100, 200)] {
        let all = found(&pair.tree, searched, None, usize::MAX);
        for (at, &key) in all.iter().enumerate() {
            assert_eq!(found(&pair.tree, searched, Some(key), usize::MAX), all[at + 1..]);
        }
        for batch in [1, 3, LEAF, 1_000] {
            let mut joined: Vec<Key<u64>> = Vec::new();
            loop {
                let more = found(&pair.tree, searched, joined.last().copied(), batch);
                joined.extend(&more);
                if more.len() < batch {
                    break;
                }
            }
            assert_eq!(joined, all, "in batches of {batch}");
        }
    }
}

#[test]
fn a_search_continues_after_an_entry_that_is_gone() {
    let mut pair = Pair::with((0..2_000_u64).map(|page| span(page, page + 10)));
    while pair.list.len() > 20 {
        let at = pair.list.len() / 2;
        let gone = pair.list[at];
        pair.remove_nth(at);
        if pair.list.len() % 37 == 0 {
            pair.assert_found(everything(), Some(gone));
        }
    }
}

#[test]
fn a_search_amid_changes_finds_once_what_is_there_all_along() {
    let mut random = Random(5);
    let points: Vec<u64> = (0..300).collect();
    for round in 0..60 {
        // Small ones come and go as a whole while they are searched.
        let size = if round % 3 == 0 { 40 } else { 2_000 };
        let mut pair = Pair::with((0..size).map(|_| random.short_span(&points, 20)));
        let searched = random.span(&points);
        let before: BTreeSet<_> = pair.list.iter().copied().collect();
        let growth = random.choice(&[0, 50, 100]);
        let mut removed = BTreeSet::new();
        let mut found = Vec::new();
        let tree = std::mem::replace(&mut pair.tree, Tree::new());
        tree.overlapping(&epoch::pin(), searched, None, |key, stored| {
            assert_eq!(stored, value(key));
            found.push(key);
            for _ in 0..random.below(30) {
                if pair.list.is_empty() || random.below(100) < growth {
                    let key = Key::new(random.short_span(&points, 20), pair.next_id);
                    pair.next_id += 1;
                    tree.write().insert(key, value(key));
                    pair.list.insert(pair.list.partition_point(|other| *other < key), key);
                } else {
                    // Often neighbours of what was just found.
                    let near = pair.list.partition_point(|other| *other < key);
                    let at = if random.below(2) == 0 { near } else { random.below(pair.list.len()) };
                    let gone = pair.list.remove(at.min(pair.list.len() - 1));
                    assert!(tree.write().remove(&gone));
                    removed.insert(gone);
                }
            }
            ControlFlow::Continue(())
        });
        pair.tree = tree;
        pair.assert_equal();
        assert!(found.is_sorted_by(|left, right| left < right), "not in order, or one of them twice");
        let overlaps = |key: &&Key<u64>| key.span().overlap(&searched).is_some();
        assert!(found.iter().all(|key| overlaps(&key)));
        let missed = before.difference(&removed).filter(overlaps).find(|key| found.binary_search(key).is_err());
        assert_eq!(missed, None, "{} found of {}", found.len(), before.len());
    }
}

#[test]
fn searches_on_other_threads_find_once_what_is_there_all_along() {
    // Every third page stays; the writer works on those between.
    let page = |at: u64| Key::new(span(at, at), at);
    let tree = Tree::new();
    (0..1_500).map(|at| page(at * 3)).for_each(|key| tree.write().insert(key, value(key)));
    let done = AtomicBool::new(false);
    let search = || {
        let mut searches = 0;
        while !done.load(Ordering::Relaxed) || searches < 20 {
            let mut next = 0;
            tree.overlapping(&epoch::pin(), everything(), None, |key, stored| {
                assert_eq!(stored, value(key));
                assert!(key.first <= next, "{next} is there all along and was skipped");
                next += if key.first == next { 3 } else { 0 };
                ControlFlow::Continue(())
            });
            assert_eq!(next, 4_500);
            searches += 1;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(search);
        scope.spawn(search);
        for round in 0..20 {
            let others = || (0..4_500).filter(|at| at % 3 != 0 && (round % 2 == 0 || at % 100 < 50)).map(page);
            others().for_each(|key| tree.write().insert(key, value(key)));
            others().for_each(|key| assert!(tree.write().remove(&key)));
        }
        done.store(true, Ordering::Relaxed);
    });
    tree.check();
}

#[test]
fn what_a_change_supersedes_is_what_it_unlinks() {
    let mut random = Random(8);
    let points: Vec<u64> = (0..500).collect();
    let mut pair = Pair::new();
    for step in 0..4_000 {
        let before = pair.tree.nodes();
        let inserted = random.short_span(&points, 10);
        pair.step(&mut random, if step < 2_500 { 90 } else { 5 }, inserted);
        let after = pair.tree.nodes();
        let superseded = pair.tree.write().superseded();
        assert!(superseded.iter().copied().eq(before.difference(&after).copied()), "step {step}");
    }
}

#[test]
fn keys_that_ascend_fill_leaves_to_three_quarters() {
    let pair = Pair::with((0..3_000_u64).map(|page| span(page * 2, page * 2)));
    let (nodes, least) = (pair.tree.nodes().len(), 3_000 / (LEAF * 3 / 4));
    assert!(nodes <= least + least / 8, "{nodes} nodes");
}

#[test]
fn removing_what_is_not_there_finds_nothing() {
    assert!(!Tree::<u64, u64>::new().write().remove(&Key::new(everything(), 1)));
    let pair = Pair::with((0..1_000_u64).map(|page| span(page * 4 + 8, page * 4 + 9)));
    for present in &pair.list {
        let Key { first, last, id } = *present;
        for absent in [
            Key { first, last, id: id - 1 },
            Key { first, last, id: id + 1 },
            Key { first: first - 1, last, id },
            Key { first, last: last + 1, id },
            Key { first: 0, last: 0, id },
        ] {
            assert!(!pair.tree.write().remove(&absent), "{absent:?}");
        }
    }
    pair.assert_equal();
}
