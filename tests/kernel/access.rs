//! The device reads and writes what the process has mapped.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use super::sim::device::{CHUNK, Device, Done};
use super::sim::memory::HUGE;
use super::sim::pages::{Access, Fault, Mapping, Seen};
use super::{PAGES, TIMES, process, process_with, quiet, words};

#[test]
fn anon_read() {
    let (_, primary) = process();
    // Page 0 is never touched, page 1 is the zero page, the others are filled.
    primary.store_all(2..PAGES, 2).unwrap();
    primary.protect(0..PAGES, Access::Read);
    assert_eq!(primary.load(1), Ok(0));
    let device = Device::open(&primary);
    let expected: Vec<_> = [0, 0].into_iter().chain(2..PAGES).collect();
    assert_eq!(device.read(0..PAGES), Ok((expected.clone(), quiet(0..PAGES))));
    // What is mapped needs no fault.
    assert_eq!(device.read(0..PAGES), Ok((expected, Done { pages: PAGES, ..Done::default() })));
}

#[test]
fn file_read() {
    let (_, primary) = process_with(Access::Write, Mapping::Shared);
    primary.store_all(0..PAGES, 7).unwrap();
    let device = Device::open(&primary);
    assert_eq!(device.read(0..PAGES), Ok((words(7), quiet(0..PAGES))));
}

#[test]
fn anon_read_prot() {
    let (_, primary) = process();
    primary.store_all(0..PAGES, 1).unwrap();
    primary.protect(0..PAGES, Access::None);
    let device = Device::open(&primary);
    assert_eq!(device.read(0..PAGES), Err(Fault::Address));
    assert_eq!(device.spans(0..PAGES), 0);
    primary.protect(0..PAGES, Access::Read);
    assert_eq!(primary.load_all(0..PAGES), Ok(words(1)));
    assert_eq!(device.read(0..PAGES), Ok((words(1), quiet(0..PAGES))));
}

#[test]
fn anon_write() {
    let (_, primary) = process();
    let device = Device::open(&primary);
    assert_eq!(device.write(0, &words(5)), Ok(quiet(0..PAGES)));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(5)));
}

#[test]
fn file_write() {
    let (_, primary) = process_with(Access::Write, Mapping::Shared);
    let other = primary.fork(); // It has the same file mapped.
    let device = Device::open(&primary);
    assert_eq!(device.write(0, &words(5)), Ok(quiet(0..PAGES)));
    assert_eq!(other.load_all(0..PAGES), Ok(words(5)));
}

#[test]
fn anon_write_prot() {
    let (_, primary) = process_with(Access::Read, Mapping::Private);
    let device = Device::open(&primary);
    assert_eq!(device.read(0..1), Ok((vec![0], quiet(0..1))));
    assert_eq!(device.write(0, &words(5)), Err(Fault::Permission));
    assert_eq!(primary.load_all(0..PAGES), Ok(vec![0; PAGES as usize]));
    primary.protect(0..PAGES, Access::Write);
    // The first builds invalidate what they build from: they replace the zero pages. One build more for each chunk.
    assert_eq!(device.write(0, &words(5)), Ok(Done { pages: PAGES, faults: 1, retries: 2 }));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(5)));
}

#[test]
fn anon_write_child() {
    let (_, primary) = process();
    let parents = Device::open(&primary);
    parents.write(0, &words(100)).unwrap();
    let child = primary.fork();
    // The child needs a mirror of its own. One build more for each chunk: the first one copies the pages.
    let childs = Device::open(&child);
    assert_eq!(childs.write(0, &words(500)), Ok(Done { pages: PAGES, faults: 1, retries: 2 }));
    assert_eq!(child.load_all(0..PAGES), Ok(words(500)));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(100)));
    // The parent has its pages to itself again, but its device has to ask.
    assert_eq!(parents.write(0, &words(200)), Ok(quiet(0..PAGES)));
    assert_eq!(child.load_all(0..PAGES), Ok(words(500)));
}

#[test]
fn anon_write_child_shared() {
    let (_, primary) = process_with(Access::Write, Mapping::Shared);
    primary.store_all(0..PAGES, 100).unwrap();
    let child = primary.fork();
    let device = Device::open(&child);
    assert_eq!(device.write(0, &words(500)), Ok(quiet(0..PAGES)));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(500)));
}

/// What a snapshot sees of `pages` pages that are parts of huge pages.
fn huge(pages: u64, access: Access) -> Vec<Option<Seen>> {
    vec![Some(Seen { access, zero: false, local: false, huge: true }); pages as usize]
}

#[test]
fn anon_write_huge() {
    let (_, primary) = process_with(Access::Write, Mapping::Huge);
    let device = Device::open(&primary);
    assert_eq!(device.write(0, &words(5)), Ok(quiet(0..PAGES)));
    assert_eq!(primary.load_all(0..PAGES), Ok(words(5)));
    assert_eq!(device.snapshot(0..PAGES), Ok(huge(PAGES, Access::Write)));
    assert_eq!(device.spans(0..HUGE), 1, "neighbouring frames are one span");
}

#[test]
fn compound() {
    let (_, primary) = process_with(Access::Write, Mapping::Huge);
    primary.store_all(0..PAGES, 1).unwrap();
    let device = Device::open(&primary);
    assert_eq!(device.snapshot(0..PAGES), Ok(huge(PAGES, Access::Write)));
    primary.protect(0..PAGES, Access::Read);
    assert_eq!(device.snapshot(0..PAGES), Ok(huge(PAGES, Access::Read)));
}

#[test]
fn a_huge_page_is_replaced_in_one_invalidation() {
    let (_, primary) = process_with(Access::Write, Mapping::Huge);
    let device = Device::open(&primary);
    device.read(0..PAGES).unwrap(); // all zero pages
    primary.store(3, 30).unwrap();
    assert_eq!(device.mirror.hits.load(Relaxed), 1);
    let (words, done) = device.read(0..PAGES).unwrap();
    assert_eq!((words[3], words.iter().sum::<u64>()), (30, 30));
    assert_eq!(done, quiet(0..PAGES));
}

#[test]
fn anon_read_multiple() {
    let (memory, primary) = process();
    primary.unmap(0..PAGES);
    let device = Device::open(&primary);
    for time in 1..=TIMES {
        primary.map(0..PAGES, Access::Write, Mapping::Private);
        primary.store_all(0..PAGES, time).unwrap();
        assert_eq!(device.read(0..PAGES), Ok((words(time), quiet(0..PAGES))));
        primary.unmap(0..PAGES);
        assert_eq!(device.read(0..PAGES), Err(Fault::Address));
    }
    assert_eq!(memory.in_use(), 0);
}

/// New upstream. The device's fault waits for another thread, which goes on changing what the build has already seen.
#[test]
fn userfaultfd_read() {
    let (_, primary) = process_with(Access::Write, Mapping::Filled);
    let device = Device::open(&primary);
    thread::scope(|scope| {
        scope.spawn(|| {
            for page in 0..PAGES {
                if page == CHUNK - 1 {
                    primary.clear(0..2); // pages that the build has in its hands
                }
                primary.fill(page, page + 1);
            }
        });
        let (words, done) = device.read(0..PAGES).unwrap();
        let expected: Vec<_> = [0, 0].into_iter().chain(3..=PAGES).collect();
        assert_eq!((words, done.faults), (expected, 1));
    });
}
