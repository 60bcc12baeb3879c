//! How the examples wait for as long as a build takes.

use std::thread;
use std::time::{Duration, Instant};

/// Waits for `time`: a sleep is about 50 us late, so that shorter waits spin.
pub(crate) fn pause(time: Duration) {
    if time >= Duration::from_micros(100) {
        return thread::sleep(time);
    }
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}
