//! An owner that may not block: the OOM reaper. It must free memory now; whoever is slow is skipped and tried later.
//!
//! `try_invalidate` never waits. A mirror whose lock is held refuses by itself; a mirror that would have to wait for its
//! device refuses in `try_invalidate`. A refusal undoes the whole start: the mirrors that had agreed lost their
//! copies, as after any invalidation, but nobody is left waiting for an end that never comes.
//!
//! `cargo run --release --example non_blocking`

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use interval_notifier::{AddressSpace, Change, EventKind, Mirror, MirrorState, Retry, WouldBlock};

/// Copies of pages: dropped at once, so it never has to refuse.
struct Cache(Vec<u64>);

impl MirrorState for Cache {
    fn invalidate(&mut self, _: &Change) {
        self.0.clear();
    }
}

/// Pages that a device may be using: they cannot go before its jobs are done.
struct Gpu {
    pages: Vec<u64>,
    jobs: Arc<AtomicU32>,
}

impl MirrorState for Gpu {
    fn invalidate(&mut self, _: &Change) {
        while self.jobs.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        self.pages.clear();
    }

    fn try_invalidate(&mut self, change: &Change) -> Result<(), WouldBlock> {
        if self.jobs.load(Ordering::Acquire) > 0 {
            return Err(change.would_block());
        }
        self.invalidate(change);
        Ok(())
    }
}

/// Reaps each victim that nobody refuses; the others stay in the queue, in their order.
fn reap(space: &AddressSpace, victims: &mut VecDeque<u64>, freed: &mut Vec<u64>) {
    for _ in 0..victims.len() {
        let Some(page) = victims.pop_front() else { return };
        match space.try_invalidate(page..=page, EventKind::Clear) {
            Ok(reaping) => {
                freed.push(page); // nothing maps it: this is where its memory goes back
                reaping.end();
            }
            Err(WouldBlock { .. }) => victims.push_back(page),
        }
    }
}

fn fill_cache(cache: &Mirror<Cache>) -> Result<(), Box<dyn Error>> {
    Ok(cache.update(Retry::forever(), |_| Ok::<_, Infallible>(vec![1, 2, 3]), |cache, pages| cache.0 = pages)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let space = AddressSpace::new();
    let jobs = Arc::new(AtomicU32::new(1)); // the device is at work
    let cache = space.mirror(0..8, Cache(vec![]))?;
    let gpu = space.mirror(4..12, Gpu { pages: vec![], jobs: Arc::clone(&jobs) })?;
    fill_cache(&cache)?;
    gpu.update(Retry::forever(), |_| Ok::<_, Infallible>(vec![4, 5]), |gpu, pages| gpu.pages = pages)?;

    let mut victims: VecDeque<u64> = [2, 6, 10, 14].into(); // cache; cache and gpu; gpu; nobody
    let mut freed = Vec::new();

    // First pass: a reader sits on the lock of the cache, the device is at work. Only the page nobody mirrors goes.
    thread::scope(|scope| {
        let (locked, is_locked) = mpsc::channel();
        let (release, may_release) = mpsc::channel::<()>();
        let cache = &cache;
        let reader = scope.spawn(move || {
            let copy = cache.lock().unwrap();
            locked.send(()).unwrap();
            may_release.recv().unwrap();
            copy.0.len()
        });
        is_locked.recv().unwrap();
        reap(&space, &mut victims, &mut freed);
        release.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), 3, "a refusal takes nothing from the one who refused");
    });
    println!("pass 1, reader in the cache, device at work: freed {freed:?}, left {victims:?}");
    assert_eq!((freed.as_slice(), &victims), (&[14][..], &[2, 6, 10].into()));

    // Second pass: the reader is gone. Page 6 is also the device's: the cache agrees, the device refuses.
    reap(&space, &mut victims, &mut freed);
    println!("pass 2, device at work: freed {freed:?}, left {victims:?}");
    assert_eq!((freed.as_slice(), &victims), (&[14, 2][..], &[6, 10].into()));
    assert_eq!(gpu.with(|gpu| gpu.pages.len())?, 2);

    // Nothing is left behind: no begin waits, and the cache can be filled again at once.
    cache.try_read_begin().map(drop)?;
    gpu.try_read_begin().map(drop)?;
    fill_cache(&cache)?;

    // Third pass: the jobs are done, nobody refuses any more.
    jobs.store(0, Ordering::Release);
    reap(&space, &mut victims, &mut freed);
    println!("pass 3, device idle: freed {freed:?}, left {victims:?}");
    assert_eq!((freed.as_slice(), victims.len()), (&[14, 2, 6, 10][..], 0));
    assert!(cache.with(|cache| cache.0.is_empty())? && gpu.with(|gpu| gpu.pages.is_empty())?);
    Ok(())
}
