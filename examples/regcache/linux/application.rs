//! The application, which is correct: it never sends a page that it is replacing.
//!
//! Two buffers of one page each lie side by side, and the cache registers both at once, as caches do that widen small
//! ranges or merge neighbours. The *buffer* is sent without a lock, since nobody ever replaces it. Its *neighbour* is
//! replaced again and again and stamped with a new generation, and both that and sending it need the application's
//! lock. So the senders of the buffer make the cache register the neighbour while it is being replaced, which the
//! application cannot know; and a send of the neighbour must deliver the generation that its lock protects.

use std::ops::{AddAssign, Range};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::discipline::{Discipline, Fail};
use super::processors::{Places, Processors};
use super::sys::{Pages, SysError};

const BUFFER: usize = 0;
const NEIGHBOUR: usize = 1;

const BUFFER_STAMP: u64 = u64::MAX;

/// Of so many sends of one thread one is of the neighbour.
const NEIGHBOUR_EVERY: u64 = 4;

/// What the threads of a run have done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) remaps: u64,
    pub(crate) sends: u64,
    /// Sends that delivered an older generation than the one stamped before they were asked for.
    pub(crate) stale: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.remaps += other.remaps;
        self.sends += other.sends;
        self.stale += other.stale;
    }
}

/// How the application runs.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) places: Places,
    pub(crate) senders: u64,
    pub(crate) time: Duration,
    /// How long the remapper sleeps between two remaps, on average; the kernel adds its own 50 us or so.
    pub(crate) mean_pause: Duration,
}

pub(crate) struct Application<'a> {
    cache: &'a dyn Discipline,
    pages: Pages,
    /// The addresses that the cache registers: both pages.
    range: Range<usize>,
    /// The application's lock, and under it the generation stamped on the neighbour.
    neighbour: RwLock<u64>,
    stop: AtomicBool,
}

impl<'a> Application<'a> {
    pub(crate) fn new(cache: &'a dyn Discipline) -> Result<Self, SysError> {
        let pages = Pages::map(2)?;
        pages.stamp(BUFFER, BUFFER_STAMP);
        let range = pages.range();
        Ok(Application { cache, pages, range, neighbour: RwLock::new(0), stop: AtomicBool::new(false) })
    }

    /// Remaps from one thread and sends from others for as long as the load says. An error in one of them ends all.
    pub(crate) fn run(&self, load: &Load, tick: impl Fn(Duration)) -> Result<Counts, Fail> {
        thread::scope(|scope| {
            let remapper = || self.work(&load.places.remapper, || self.keep_remapping(load.mean_pause));
            let sender = || self.work(&load.places.senders, || self.keep_sending());
            let mut threads = vec![scope.spawn(remapper)];
            threads.extend((0..load.senders).map(|_| scope.spawn(sender)));
            self.wait(load.time, tick);
            let mut counts = Counts::default();
            for thread in threads {
                counts += thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            Ok(counts)
        })
    }

    /// What a thread does: its part of the run, on its processors.
    fn work(&self, place: &Processors, part: impl FnOnce() -> Result<Counts, Fail>) -> Result<Counts, Fail> {
        let _stop = StopAll(&self.stop);
        place.keep_to()?;
        part()
    }

    /// Shows the progress until the time is over or a thread has failed.
    fn wait(&self, time: Duration, tick: impl Fn(Duration)) {
        let _stop = StopAll(&self.stop);
        let start = Instant::now();
        while !self.stopped() && start.elapsed() < time {
            tick(start.elapsed());
            thread::sleep(time.saturating_sub(start.elapsed()).min(Duration::from_millis(100)));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn keep_remapping(&self, mean_pause: Duration) -> Result<Counts, Fail> {
        let mut random = Random::new();
        let mut counts = Counts::default();
        while !self.stopped() {
            self.remap()?;
            counts.remaps += 1;
            // A sleep and not a spin: on a busy machine a thread that has slept runs as soon as it wakes.
            thread::sleep(mean_pause.mul_f64(2.0 * random.next()));
        }
        Ok(counts)
    }

    /// Replaces the neighbour and stamps the new page. Only the system call is bracketed: the stamp is an ordinary
    /// write to a page that is already in place.
    fn remap(&self) -> Result<(), SysError> {
        let mut generation = self.neighbour.write().unwrap_or_else(PoisonError::into_inner);
        self.cache.around(self.pages.page(NEIGHBOUR), &mut || self.pages.replace(NEIGHBOUR))?;
        *generation += 1;
        self.pages.stamp(NEIGHBOUR, *generation);
        Ok(())
    }

    fn keep_sending(&self) -> Result<Counts, Fail> {
        let mut counts = Counts::default();
        while !self.stopped() {
            counts.sends += 1;
            if counts.sends % NEIGHBOUR_EVERY == 0 {
                counts.stale += u64::from(self.send_neighbour()? == Delivered::Stale);
            } else {
                self.send_buffer()?;
            }
        }
        Ok(counts)
    }

    /// Sends the buffer, which stays where it is: no lock, and one content for ever.
    fn send_buffer(&self) -> Result<(), Fail> {
        let delivered = self.send(BUFFER)?;
        assert_eq!(delivered, BUFFER_STAMP, "a send must deliver the page it was asked for");
        Ok(())
    }

    /// Sends the neighbour under the lock that keeps it from being replaced.
    fn send_neighbour(&self) -> Result<Delivered, Fail> {
        let stamped = self.neighbour.read().unwrap_or_else(PoisonError::into_inner);
        let delivered = self.send(NEIGHBOUR)?;
        assert!(delivered <= *stamped, "generation {delivered} was never stamped");
        Ok(if delivered < *stamped { Delivered::Stale } else { Delivered::Current })
    }

    fn send(&self, page: usize) -> Result<u64, Fail> {
        self.cache.send(&self.range, self.pages.page(page).start)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivered {
    Current,
    Stale,
}

/// Whoever ends, by an error or a panic too, ends all.
struct StopAll<'a>(&'a AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        // Relaxed: the threads are joined before anybody reads what they have done.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Marsaglia's xorshift: the pauses must not march in step with the senders, and need no more than that.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// A number from 0 up to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
