//! Which address spaces this thread holds a mirror lock of.
//!
//! Waiting for a callback under a mirror lock may be waiting for oneself: the callback may want that very lock. The
//! library owns these locks, so it can say so instead of hanging.

use crate::sync::thread_local;
use std::cell::Cell;
use std::marker::PhantomData;

/// How many are told apart. A thread that holds more than this counts as holding locks of every space.
const KNOWN: usize = 8;

struct Held {
    spaces: [Cell<u64>; KNOWN],
    more: Cell<usize>,
}

thread_local! {
    static HELD: Held = Held { spaces: std::array::from_fn(|_| Cell::new(0)), more: Cell::new(0) };
}

/// Notes, while it lives, that this thread holds a mirror lock of a space.
#[derive(Debug)]
pub(crate) struct Holding {
    place: Option<usize>,
    /// It belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl Holding {
    /// `space` is the space's number, not 0.
    pub(crate) fn new(space: u64) -> Self {
        let place = HELD.with(|held| {
            let free = held.spaces.iter().position(|place| place.get() == 0);
            match free {
                Some(place) => held.spaces[place].set(space),
                None => held.more.set(held.more.get() + 1),
            }
            free
        });
        Holding { place, not_send: PhantomData }
    }

    /// Does this thread hold a mirror lock of the space?
    pub(crate) fn any(space: u64) -> bool {
        HELD.with(|held| held.more.get() != 0 || held.spaces.iter().any(|place| place.get() == space))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        HELD.with(|held| match self.place {
            Some(place) => held.spaces[place].set(0),
            None => held.more.set(held.more.get() - 1),
        });
    }
}
