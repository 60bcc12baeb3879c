//! Frames: each is one word, has a home, is counted, and has a number that is never used again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interval_notifier::Owner;

/// Pages in a huge page.
pub(crate) const HUGE: u64 = 8;

/// A frame, by its number. Its home is the device whose memory it is; `None` is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) home: Option<Owner>,
}

/// What every page that was only ever read is mapped to.
pub(crate) const ZERO: Frame = Frame { number: 0, home: None };

struct Record {
    word: u64,
    users: u32,
}

#[derive(Default)]
struct Frames {
    last: u64,
    records: BTreeMap<u64, Record>,
}

/// All memory there is, of all processes and devices.
#[derive(Default)]
pub(crate) struct Memory {
    frames: Mutex<Frames>,
    /// Fault injection: there are no contiguous frames at the moment.
    pub(crate) is_fragmented: AtomicBool,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A panic under it is a use after free, and leaves it whole.
    fn lock(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn alloc(&self, home: Option<Owner>) -> Frame {
        self.lock().alloc(home)
    }

    /// Contiguous frames for a huge page; the first of them.
    pub(crate) fn alloc_huge(&self, home: Option<Owner>) -> Option<Frame> {
        if self.is_fragmented.load(Relaxed) {
            return None;
        }
        let mut frames = self.lock();
        let first = frames.alloc(home);
        for _ in 1..HUGE {
            frames.alloc(home);
        }
        Some(first)
    }

    /// One user more.
    pub(crate) fn get(&self, frame: Frame) {
        if frame != ZERO {
            self.lock().record(frame.number).users += 1;
        }
    }

    /// One user less; the last one frees the frame.
    pub(crate) fn put(&self, frame: Frame) {
        let mut frames = self.lock();
        if frame != ZERO {
            let record = frames.record(frame.number);
            record.users -= 1;
            if record.users == 0 {
                frames.records.remove(&frame.number);
            }
        }
    }

    /// Must it be copied before it is written to, in a mapping that is not shared?
    pub(crate) fn is_shared(&self, frame: Frame) -> bool {
        frame == ZERO || self.lock().record(frame.number).users > 1
    }

    pub(crate) fn read(&self, number: u64) -> u64 {
        if number == ZERO.number { 0 } else { self.lock().record(number).word }
    }

    pub(crate) fn write(&self, number: u64, word: u64) {
        self.lock().record(number).word = word;
    }

    /// How many frames are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.lock().records.len()
    }
}

impl Frames {
    fn alloc(&mut self, home: Option<Owner>) -> Frame {
        self.last += 1;
        self.records.insert(self.last, Record { word: 0, users: 1 });
        Frame { number: self.last, home }
    }

    fn record(&mut self, number: u64) -> &mut Record {
        self.records.get_mut(&number).unwrap_or_else(|| panic!("frame {number} is used but is not allocated"))
    }
}
