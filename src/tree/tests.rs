//! The tree against a sorted list, which is obviously right.

use super::{Key, LEAF, Link, Tree};
use crate::range::{Address, Span};
use std::fmt::Debug;
use std::ops::ControlFlow;

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
#[derive(Clone)]
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
        self.tree = self.tree.insert(key, value(key));
        let at = self.list.partition_point(|other| *other < key);
        self.list.insert(at, key);
    }

    fn remove_nth(&mut self, at: usize) {
        let key = self.list.remove(at);
        self.tree = self.tree.remove(&key).expect("it is there");
        assert!(self.tree.remove(&key).is_none(), "{key:?} is there twice");
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
        assert_eq!(self.tree.len(), self.list.len());
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
    fn of<A: Address>(link: &Link<A, u64>) -> usize {
        match link {
            Link::Leaf(_) => 1,
            Link::Inner(inner) => 1 + of(&inner.item(0).link),
        }
    }
    tree.root.as_ref().map_or(0, of)
}

fn value<A>(key: Key<A>) -> u64 {
    key.id.wrapping_mul(7)
}

/// The first `limit` entries that a search finds; then it is told to break.
fn found<A: Address>(tree: &Tree<A, u64>, span: Span<A>, after: Option<Key<A>>, limit: usize) -> Vec<Key<A>> {
    let mut keys = Vec::new();
    tree.overlapping(span, after, |key, stored| {
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
    assert!(pair.tree.root.is_none());
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
    assert_eq!(pair.tree.remove(&Key::new(at_the_end, 77_777)).map(|tree| tree.len()), None);
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
    fn visited(link: &Link<u64, u64>, searched: Span<u64>) -> usize {
        match link {
            Link::Leaf(_) => 1,
            Link::Inner(inner) => {
                1 + inner.overlapping(searched, 0).map(|at| visited(&inner.item(at).link, searched)).sum::<usize>()
            }
        }
    }
    // 200 heaps of short ranges that overlap each other, with a gap after each.
    let mut random = Random(6);
    let pair = Pair::with((0..20_000).map(|_| {
        let (block, first) = (random.next() % 200, random.next() % 50);
        span(block * 100 + first, block * 100 + first + random.next() % 40)
    }));
    assert!(height(&pair.tree) >= 4);
    for block in 0..200 {
        let gap = span(block * 100 + 90, block * 100 + 99);
        pair.assert_found(gap, None);
        let visited = visited(pair.tree.root.as_ref().unwrap(), gap);
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
fn a_version_stays_as_it_was() {
    let mut random = Random(5);
    let points: Vec<u64> = (0..200).collect();
    let mut pair = Pair::new();
    let mut versions = vec![pair.clone()];
    for step in 1..=3_000 {
        let inserted = random.short_span(&points, 20);
        pair.step(&mut random, if step < 2_000 { 90 } else { 10 }, inserted);
        if step % 100 == 0 {
            versions.push(pair.clone());
        }
    }
    drop(pair);
    while !versions.is_empty() {
        let version = versions.swap_remove(random.below(versions.len()));
        version.assert_equal();
        version.assert_found(span(50, 70), None);
    }
}

#[test]
fn two_versions_grow_apart_from_a_common_one() {
    let common = Pair::with((0..500_u64).map(|page| span(page, page)));
    let (mut left, mut right) = (common.clone(), common.clone());
    for at in 0..250 {
        left.remove_nth(at);
        right.insert(span(at as u64, 1_000));
    }
    for pair in [common, left, right] {
        pair.assert_equal();
    }
}

#[test]
fn removing_what_is_not_there_finds_nothing() {
    assert!(Tree::<u64, u64>::new().remove(&Key::new(everything(), 1)).is_none());
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
            assert!(pair.tree.remove(&absent).is_none(), "{absent:?}");
        }
    }
    pair.assert_equal();
}
