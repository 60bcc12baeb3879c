//! Somebody else owns a page and moves it whenever it likes; we keep a copy of where it is.
//!
//! The owner brackets every move with an invalidation. The reader looks at its copy, and builds a new one when the
//! last was invalidated; a build that a move overtook is thrown away and done again. So whatever the copy says, it is
//! where the page is *now*: asserted at every look, while the owner moves it as fast as it can.
//!
//! `cargo run --release --example quickstart`

use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use interval_notifier::{AddressSpace, Attempt, Change, EventKind, MirrorState, Retry};

const PAGE: std::ops::Range<u64> = 0x1000..0x2000;
const MOVES: u64 = 1_000;

/// Our copy: the frame that the page is in, if we know it.
struct Known(Option<u64>);

impl MirrorState for Known {
    fn invalidate(&mut self, _: &Change) {
        self.0 = None;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let space = AddressSpace::new();
    let frame = AtomicU64::new(0); // the owner's: where the page really is
    let mirror = space.mirror(PAGE, Known(None))?;
    let (mut looks, mut updates, mut builds) = (0_u64, 0_u64, 0_u64);

    thread::scope(|scope| {
        scope.spawn(|| {
            for next in 1..=MOVES {
                space.invalidate_while(PAGE, EventKind::Migrate, || frame.store(next, Relaxed));
                thread::sleep(Duration::from_micros(1));
            }
        });

        // While we look, the copy cannot be invalidated, so the owner cannot move the page under our eyes.
        let look = |known: &Known| {
            if let Some(known) = known.0 {
                assert_eq!(known, frame.load(Relaxed), "the copy is stale");
            }
            known.0
        };
        loop {
            looks += 1;
            match mirror.with(look)? {
                Some(MOVES) => return Ok::<_, Box<dyn Error>>(()),
                Some(_) => (0..100).for_each(|_| std::hint::spin_loop()), // work with it, without the lock
                None => {
                    updates += 1;
                    let build = |_: Attempt<'_>| {
                        builds += 1;
                        let found = frame.load(Relaxed);
                        thread::sleep(Duration::from_micros(1)); // asking takes a while: time for the owner to move it
                        Ok::<_, Infallible>(found)
                    };
                    mirror.update(Retry::forever(), build, |known, frame| known.0 = Some(frame))?;
                }
            }
        }
    })?;

    println!("{MOVES} moves by the owner, {looks} looks at our copy: none was stale");
    println!("{updates} updates of the copy took {builds} builds: {} were overtaken by a move", builds - updates);
    assert_eq!(mirror.unsubscribe()?.0, Some(MOVES));
    Ok(())
}
