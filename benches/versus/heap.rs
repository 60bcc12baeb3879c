//! W9: heap bytes per subscription, counted by the allocator, without the user's own state and the handle.
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use crate::contender::{KERNEL, Own};
use crate::layout;
use crate::line::Line;
use crate::options::Workload;
use crate::report::Report;
use crate::rival::{Engine, Interval, Kernel, RwLockBTreeMap, RwLockIset};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

const N: u64 = 10_000;

/// The system's; it counts while it is asked to, so that time is measured without.
pub(crate) struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    if COUNTS.load(Relaxed) {
        BYTES.fetch_add(bytes, Relaxed);
    }
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

/// What has been replaced is freed by the epoch, not at once.
fn flush() {
    (0..10_000).for_each(|_| crossbeam_epoch::pin().flush());
}

/// What is on the heap for one subscription of many.
fn bytes<E: Engine<Own>>() -> f64 {
    let mut subs = Vec::with_capacity(N as usize);
    let ranges = layout::slots(N);
    flush();
    BYTES.store(0, Relaxed);
    COUNTS.store(true, Relaxed);
    let space = E::default();
    subs.extend(ranges.iter().map(|range| space.subscribe(range.clone(), Own::default())));
    flush();
    COUNTS.store(false, Relaxed);
    subs.into_iter().for_each(|sub| _ = space.unsubscribe(sub));
    BYTES.load(Relaxed) as f64 / N as f64 - size_of::<Own>() as f64
}

pub(crate) fn measure(report: &mut Report) {
    let ours = bytes::<Interval>();
    let rivals: [(&str, f64); 3] = [
        (KERNEL, bytes::<Kernel<Own>>()),
        ("rwlock-iset", bytes::<RwLockIset<Own>>()),
        ("rwlock-btreemap", bytes::<RwLockBTreeMap<Own>>()),
    ];
    for (rival, theirs) in rivals {
        let handle = size_of::<<Interval as Engine<Own>>::Sub>();
        let line = Line::new(Workload::W9, N, 1, rival).bytes(ours, theirs);
        report.line(line.with("ours_handle_bytes", handle));
    }
}
