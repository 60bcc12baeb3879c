//! Owners whose start and end come from elsewhere: a C library's callbacks in pairs, a region type that remaps
//! itself, a thread that reads fault events.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use interval_notifier::{
    AddressSpace, BeginError, Change, Event, EventKind, Mirror, MirrorState, OwnedInvalidation, ReadSeq,
};

/// Start and end arrive as two calls with an id, on whatever thread.
struct Bracket {
    space: AddressSpace<usize>,
    open: Mutex<HashMap<u64, OwnedInvalidation<usize>>>,
}

impl Bracket {
    fn enter(&self, id: u64, range: Range<usize>) {
        let change = self.space.invalidate(range, EventKind::Unmap).into_owned();
        self.open.lock().unwrap().insert(id, change);
    }

    fn exit(&self, id: u64) {
        let change = self.open.lock().unwrap().remove(&id);
        if let Some(change) = change {
            change.end();
        }
    }
}

/// A mapping that its owner may move and that unmaps itself.
struct Region {
    space: AddressSpace<usize>,
    base: usize,
    len: usize,
}

impl Region {
    fn remap(&mut self, len: usize) {
        // Owned: a borrowed one would keep `self.space` borrowed over the call.
        let change = self.space.invalidate(self.base..self.base + self.len, EventKind::Unmap).into_owned();
        self.set_len(len);
        change.end();
    }

    fn set_len(&mut self, len: usize) {
        self.len = len;
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let range = self.base..self.base + self.len;
        self.space.invalidate_while(range, EventKind::Unmap, || { /* munmap */ });
    }
}

/// Reads events that say what has changed only after the faulting thread has been stopped.
fn event_thread(space: AddressSpace<usize>, events: mpsc::Receiver<(Range<usize>, EventKind)>) -> JoinHandle<()> {
    thread::spawn(move || {
        loop {
            // Something is about to change; it is not known yet where.
            let hold = space.invalidate(.., Event::new(EventKind::Clear));
            let Ok((range, kind)) = events.recv() else { return };
            let change = space.invalidate(range, kind);
            change.end();
            hold.end();
        }
    })
}

/// Remembers what it was told.
#[derive(Default)]
struct Told(Vec<(Range<usize>, EventKind)>);

impl MirrorState<usize> for Told {
    fn invalidate(&mut self, change: &Change<usize>) {
        let gone = change.overlap();
        self.0.push((gone.first()..gone.last() + 1, change.event().kind()));
    }
}

fn space_and_mirror(range: Range<usize>) -> (AddressSpace<usize>, Mirror<Told, usize>) {
    let space = AddressSpace::default();
    let mirror = space.mirror(range, Told::default()).unwrap();
    (space, mirror)
}

#[test]
fn what_travels_between_threads_may() {
    fn may<T: Send + Sync + 'static>() {}
    may::<OwnedInvalidation>();
    may::<AddressSpace>();
    may::<ReadSeq>();
}

#[test]
fn a_bracket_opens_on_one_thread_and_closes_on_another() {
    let (space, mirror) = space_and_mirror(0..8192);
    let bracket = Arc::new(Bracket { space, open: Mutex::default() });
    bracket.enter(1, 0..4096);
    bracket.enter(2, 4096..8192);
    assert_eq!(mirror.try_read_begin().unwrap_err(), BeginError::Active);
    for (id, still_open) in [(1, true), (2, false)] {
        let bracket = Arc::clone(&bracket);
        thread::spawn(move || bracket.exit(id)).join().unwrap();
        assert_eq!(mirror.try_read_begin().is_err(), still_open);
    }
    bracket.exit(7); // an end without a start is none
    let told = mirror.unsubscribe().unwrap().0;
    assert_eq!(told, [(0..4096, EventKind::Unmap), (4096..8192, EventKind::Unmap)]);
}

#[test]
fn a_region_tells_when_it_moves_and_when_it_goes() {
    let (space, mirror) = space_and_mirror(0..8192);
    let mut region = Region { space, base: 4096, len: 4096 };
    region.remap(2048);
    drop(region);
    let told = mirror.unsubscribe().unwrap().0;
    assert_eq!(told, [(4096..8192, EventKind::Unmap), (4096..6144, EventKind::Unmap)]);
}

#[test]
fn an_event_thread_holds_everybody_while_it_does_not_know_what_changes() {
    let (space, mirror) = space_and_mirror(0..8192);
    let (send, events) = mpsc::channel();
    let events = event_thread(space, events);
    while mirror.with(|told| told.0.is_empty()).unwrap() {
        thread::yield_now();
    }
    assert_eq!(mirror.try_read_begin().unwrap_err(), BeginError::Active);
    send.send((4096..8192, EventKind::ProtectVma)).unwrap();
    drop(send);
    events.join().unwrap();
    mirror.try_read_begin().map(drop).unwrap();
    let told = mirror.unsubscribe().unwrap().0;
    let held = (0..8192, EventKind::Clear);
    assert_eq!(told, [held.clone(), (4096..8192, EventKind::ProtectVma), held]);
}
