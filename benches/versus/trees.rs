//! The trees of others alone: no lock, no sequence, no callback; against the whole of our operation, for our tree is not
//! public. A ratio here is therefore a lower bound of what the trees themselves would show.
//!
//! `rust-lapper` and `coitrees` are built once and cannot change: a bound for what searching can cost.

use crate::burst::{Job, interleaved};
use crate::contender::{Contender, Filled, OURS, Step, Turn};
use crate::layout;
use crate::line::Line;
use crate::options::{Options, Workload};
use crate::report::Report;
use crate::rival::Interval;
use coitrees::IntervalTree;
use std::hint::black_box;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A collection of ranges with small values.
trait Tree: Sized + Send {
    fn build(ranges: &[Range<u64>]) -> Self;
    /// The sum of the values that overlap.
    fn sum(&self, range: Range<u64>) -> u64;
    /// False where the tree cannot change.
    fn insert_remove(&mut self, _: Range<u64>) -> bool {
        false
    }
}

struct Iset(iset::IntervalMap<u64, u32>);

impl Tree for Iset {
    fn build(ranges: &[Range<u64>]) -> Self {
        let mut map = iset::IntervalMap::new();
        ranges.iter().zip(0..).for_each(|(range, i)| map.force_insert(range.clone(), i));
        Iset(map)
    }
    #[inline]
    fn sum(&self, range: Range<u64>) -> u64 {
        self.0.values(range).map(|value| u64::from(*value)).sum()
    }
    #[inline]
    fn insert_remove(&mut self, range: Range<u64>) -> bool {
        self.0.force_insert(range.clone(), 1);
        self.0.remove(range).is_some()
    }
}

struct RbIntervalMap(rb_interval_map::IntervalMap<u64, u32>);

impl Tree for RbIntervalMap {
    fn build(ranges: &[Range<u64>]) -> Self {
        let mut map = rb_interval_map::IntervalMap::new();
        for (range, i) in ranges.iter().zip(0..) {
            map.insert(rb_interval_map::Interval::new(range.start, range.end), i);
        }
        RbIntervalMap(map)
    }
    #[inline]
    fn sum(&self, range: Range<u64>) -> u64 {
        let query = rb_interval_map::Interval::new(range.start, range.end);
        self.0.filter_iter(&query).map(|(_, value)| u64::from(*value)).sum()
    }
    #[inline]
    fn insert_remove(&mut self, range: Range<u64>) -> bool {
        let range = rb_interval_map::Interval::new(range.start, range.end);
        self.0.insert(range.clone(), 1);
        self.0.remove(&range).is_some()
    }
}

struct AugmentedRbtree(augmented_rbtree::interval_tree::IntervalTree<u64, u32>);

impl Tree for AugmentedRbtree {
    fn build(ranges: &[Range<u64>]) -> Self {
        let mut tree = augmented_rbtree::interval_tree::IntervalTree::new();
        for (range, i) in ranges.iter().zip(0..) {
            tree.insert(closed(range), i);
        }
        AugmentedRbtree(tree)
    }
    #[inline]
    fn sum(&self, range: Range<u64>) -> u64 {
        self.0.query_overlap(range.start, range.end - 1).map(|(_, value)| u64::from(*value)).sum()
    }
    #[inline]
    fn insert_remove(&mut self, range: Range<u64>) -> bool {
        let range = closed(&range);
        self.0.insert(range, 1);
        self.0.remove(&range).is_some()
    }
}

fn closed(range: &Range<u64>) -> augmented_rbtree::interval_tree::Interval<u64> {
    augmented_rbtree::interval_tree::Interval::new(range.start, range.end - 1)
}

struct Lapper(rust_lapper::Lapper<u64, u32>);

impl Tree for Lapper {
    fn build(ranges: &[Range<u64>]) -> Self {
        let interval =
            |(range, val): (&Range<u64>, u32)| rust_lapper::Interval { start: range.start, stop: range.end, val };
        Lapper(rust_lapper::Lapper::new(ranges.iter().zip(0..).map(interval).collect()))
    }
    #[inline]
    fn sum(&self, range: Range<u64>) -> u64 {
        self.0.find(range.start, range.end).map(|found| u64::from(found.val)).sum()
    }
}

/// It has 32-bit coordinates: pages.
struct Coitrees(coitrees::COITree<u32, u32>);

/// The first and the last page.
fn pages(range: &Range<u64>) -> (i32, i32) {
    ((range.start / layout::PAGE) as i32, ((range.end - 1) / layout::PAGE) as i32)
}

impl Tree for Coitrees {
    fn build(ranges: &[Range<u64>]) -> Self {
        let interval = |(range, value): (&Range<u64>, u32)| {
            let (first, last) = pages(range);
            coitrees::Interval::new(first, last, value)
        };
        Coitrees(coitrees::COITree::new(&ranges.iter().zip(0..).map(interval).collect::<Vec<_>>()))
    }
    #[inline]
    fn sum(&self, range: Range<u64>) -> u64 {
        let ((first, last), mut sum) = (pages(&range), 0);
        self.0.query(first, last, |found| sum += u64::from(found.metadata.to_owned()));
        sum
    }
}

/// One of them, locked for a whole burst at a time.
struct Alone<T> {
    name: &'static str,
    n: u64,
    tree: Mutex<T>,
}

impl<T: Tree> Contender for Alone<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, step: Step, turn: &mut Turn, times: u64) {
        let (n, random) = (self.n, &mut turn.random);
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Step::Miss => (0..times).for_each(|_| assert_eq!(black_box(tree.sum(layout::miss(random, n))), 0)),
            Step::Hit => (0..times).for_each(|_| _ = black_box(tree.sum(layout::hit_1(random, n)))),
            Step::InsertRemove => (0..times).for_each(|_| assert!(tree.insert_remove(layout::in_gap(random, n, 0, 1)))),
            _ => unreachable!("a tree alone has no readers"),
        }
    }
}

fn alone<T: Tree + 'static>(name: &'static str, ranges: &[Range<u64>]) -> Box<dyn Contender> {
    Box::new(Alone { name, n: ranges.len() as u64, tree: Mutex::new(T::build(ranges)) })
}

pub(crate) fn measure(options: &Options, report: &mut Report) {
    const STEPS: [(&str, Step); 3] =
        [("tree-miss", Step::Miss), ("tree-hit", Step::Hit), ("tree-insert-remove", Step::InsertRemove)];
    for n in options.sizes() {
        let ranges = layout::slots(n);
        let trees = [
            Box::new(Filled::<Interval>::new(OURS, n)) as Box<dyn Contender>,
            alone::<Iset>("iset", &ranges),
            alone::<RbIntervalMap>("rb-interval-map", &ranges),
            alone::<AugmentedRbtree>("augmented-rbtree", &ranges),
            alone::<Lapper>("rust-lapper", &ranges),
            alone::<Coitrees>("coitrees", &ranges),
        ];
        for (name, step) in STEPS {
            let trees = if step == Step::InsertRemove { &trees[..4] } else { &trees[..] };
            let jobs: Vec<_> = trees.iter().map(|tree| Job { contender: &**tree, step, threads: 1 }).collect();
            let times = interleaved(&jobs, options.pace());
            for (tree, &time) in trees.iter().zip(&times).skip(1) {
                let line = Line { workload: name, ..Line::new(Workload::Tree, n, 1, tree.name()) };
                let line = line.times(times[0].median, time.median);
                report.line(line.kept(times[0].kept.and(time.kept)));
            }
        }
    }
}
