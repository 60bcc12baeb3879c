//! Searches while nodes of the tree are replaced, split and merged. Under the checkers a node has room for four, and is
//! merged when only one is left. The writer is the main thread, and the search the one that only loads: see `tests`.

use super::{explore, spawn};
use crate::Span;
use crate::rcu::{Fresh, Link, Node};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering::*};
use crate::sync::epoch;
use crate::tree::{Key, Tree};
use std::ops::ControlFlow::Continue;

type Index = Arc<Tree<u64, u64>>;

/// The entry of page `at`.
fn page(at: u64) -> Key<u64> {
    Key::new(Span::new(at..=at).unwrap(), at)
}

fn tree(pages: impl IntoIterator<Item = u64>) -> Index {
    let tree = Tree::new();
    pages.into_iter().for_each(|at| tree.write().insert(page(at), at));
    Arc::new(tree)
}

fn remove(tree: &Index, at: u64) {
    assert!(tree.write().remove(&page(at)));
}

/// The pages that a search of `from..` finds, in the order in which it does.
fn found(tree: &Index, from: u64) -> Vec<u64> {
    let mut found = Vec::new();
    tree.overlapping(&epoch::pin(), Span::new(from..).unwrap(), None, |key, at| {
        assert_eq!(key.id, at);
        found.push(at);
        Continue(())
    });
    found
}

/// What is there all along, once and in order.
fn assert_found(found: &[u64], lasting: &[u64]) {
    assert!(found.is_sorted_by(|left, right| left < right), "{found:?}: out of order, or one of them twice");
    assert!(lasting.iter().all(|at| found.contains(at)), "{lasting:?} are there all along, found: {found:?}");
}

/// A link to a leaf whose content is an atomic.
type Leading = Link<Arc<AtomicU64>, u64>;

/// loom does not look into plain memory, which nodes are made of. It does look into an atomic that is read Relaxed.
fn what_a_link_leads_to_is_there(publish: impl Fn(&Leading, Fresh<Arc<AtomicU64>, u64>) + Send + Sync + 'static) {
    explore(&["nowhere", "there"], move |seen| {
        let link: Arc<Leading> = Arc::new(Link::nowhere());
        let content = Arc::new(AtomicU64::new(0));
        let search = spawn!([link] match link.load(&epoch::pin()) {
            Some(Node::Leaf(leaf)) => Some(leaf.load(Relaxed)),
            Some(Node::Inner(_)) => unreachable!("there is none"),
            None => None,
        });
        content.store(1, Relaxed);
        publish(&link, Fresh::Leaf(Box::new(content)));
        let found = search.join().unwrap();
        assert_ne!(found, Some(0), "the node is linked before it is filled");
        seen.note(if found.is_some() { "there" } else { "nowhere" });
        drop(Arc::try_unwrap(link).ok().expect("the search is over").take());
    });
}

#[test]
fn what_is_published_is_there() {
    what_a_link_leads_to_is_there(|link, node| link.publish(Some(node)));
}

#[test]
fn what_is_published_as_the_root_because_it_is_the_last_child_is_there() {
    what_a_link_leads_to_is_there(|link, node| link.publish_same(&Link::new(node)));
}

#[test]
fn a_search_beside_a_split_finds_once_what_is_there_all_along() {
    explore(&["none", "one", "both"], |seen| {
        // Two leaves, of three: the first insertion replaces one, the second splits it.
        let tree = tree([10, 20, 30, 40, 60, 50]);
        let search = spawn!([tree] found(&tree, 0));
        [22, 24].into_iter().for_each(|at| tree.write().insert(page(at), at));
        let found = search.join().unwrap();
        assert_found(&found, &[10, 20, 30, 40, 50, 60]);
        seen.note(["none", "one", "both"][found.len() - 6]);
    });
}

#[test]
fn a_search_beside_a_merge_finds_once_what_is_there_all_along() {
    explore(&["none", "one", "both"], |seen| {
        // Three leaves; the first is emptied until it takes in the second.
        let tree = tree([10, 20, 30, 40, 50, 60, 70]);
        let search = spawn!([tree] found(&tree, 0));
        [20, 30].into_iter().for_each(|at| remove(&tree, at));
        let found = search.join().unwrap();
        assert_found(&found, &[10, 40, 50, 60, 70]);
        seen.note(["none", "one", "both"][found.len() - 5]);
    });
}

#[test]
fn a_search_beside_the_first_and_the_last_finds_the_others() {
    explore(&["old", "between", "new"], |seen| {
        // The rows above the leaves change: the smallest key goes, and one that reaches farther comes.
        let tree = tree([10, 20, 30, 40, 50, 60]);
        let search = spawn!([tree] found(&tree, 0));
        remove(&tree, 10);
        tree.write().insert(page(70), 70);
        let found = search.join().unwrap();
        assert_found(&found, &[20, 30, 40, 50, 60]);
        seen.note(match (found.contains(&10), found.contains(&70)) {
            (true, false) => "old",
            (false, true) => "new",
            _ => "between",
        });
    });
}

#[test]
#[cfg_attr(crossbeam_loom, ignore = "slow with the real epoch; the smaller ones show the same")]
fn what_was_inserted_before_a_search_is_found_though_its_node_is_replaced() {
    explore(&["announced", "not yet"], |seen| {
        let tree = tree([10, 20, 30, 40, 50, 60]);
        let announced = Arc::new(AtomicU64::new(0));
        let search = spawn!([tree, announced] {
            let before = announced.load(Acquire);
            (before, found(&tree, 61))
        });
        tree.write().insert(page(70), 70);
        announced.store(1, Release);
        // It moves to another node twice.
        tree.write().insert(page(65), 65);
        tree.write().insert(page(62), 62);
        let (before, found) = search.join().unwrap();
        assert_found(&found, if before == 1 { &[70] } else { &[] });
        seen.note(if before == 1 { "announced" } else { "not yet" });
    });
}
