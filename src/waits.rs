//! Who waits for whom: finds threads that wait for each other in a circle, and says so instead of hanging.
//!
//! On in debug builds and with the feature `checked`; otherwise, and under the model checkers, which report deadlocks
//! themselves, nothing of it is left. Only threads that are about to sleep come here. Those that wait for callbacks of a
//! notifier do not: who runs them is noted nowhere.
//!
//! # Why what it reports is true
//!
//! Every thread that waits looks again and again who keeps it waiting, and counts its looks. A circle is reported by a
//! thread that has seen it twice, all others having looked again in between. Between the two sights each of them was in
//! the same wait all the time, so none has let go of anything; and each was kept waiting by the next one at some moment in
//! between, hence still is.

#[cfg(all(any(debug_assertions, feature = "checked"), not(any(loom, shuttle))))]
mod arm {
    use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use crate::sync::{thread_token, try_lock};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;
    use std::time::{Duration, Instant};

    /// How long a thread sleeps between two looks.
    const LOOK: Duration = Duration::from_millis(20);
    /// How long it sleeps before it tries a lock again, and how often it tries without sleeping.
    const NAP: Duration = Duration::from_micros(100);
    const TRIES: usize = 100;

    /// The whole process's: circles may lead through several spaces.
    static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());

    fn waits() -> MutexGuard<'static, Vec<Wait>> {
        WAITS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    struct Wait {
        thread: usize,
        name: String,
        what: String,
        /// The thread that keeps it waiting; 0: nobody in particular.
        holder: usize,
        looks: u64,
    }

    /// This thread waits, until this is dropped.
    pub(crate) struct Waiting {
        thread: usize,
        /// A circle that was seen: its threads and how often each had looked.
        seen: Vec<(usize, u64)>,
        /// Has it been printed?
        printed: bool,
    }

    impl Waiting {
        /// For `what`, of which the sentence "thread waits for" speaks.
        pub(crate) fn new(what: impl FnOnce() -> String) -> Self {
            let thread = thread_token();
            let name = std::thread::current().name().unwrap_or("without a name").to_owned();
            waits().push(Wait { thread, name, what: what(), holder: 0, looks: 0 });
            Waiting { thread, seen: Vec::new(), printed: false }
        }

        /// When to look again, at the latest.
        pub(crate) fn next_look(&self, deadline: Option<Instant>) -> Option<Instant> {
            let look = Instant::now() + LOOK;
            Some(deadline.map_or(look, |at| at.min(look)))
        }

        /// It still waits, for the thread that `holder` names.
        ///
        /// # Panics
        ///
        /// If that thread waits for this one. A panic that unwinds already is not followed by another, which would abort:
        /// then the circle is printed, for one of the others to break.
        pub(crate) fn look(&mut self, holder: impl FnOnce() -> usize) {
            let mut waits = waits();
            // Under the lock: what a thread let go of before it came to wait is not taken for its own any more.
            let holder = holder();
            if let Some(own) = waits.iter_mut().find(|wait| wait.thread == self.thread) {
                own.holder = holder;
                own.looks += 1;
            }
            let circle = circle(&waits, self.thread);
            let looked_again = |(before, now): (&(usize, u64), &(usize, u64))| before.0 == now.0 && before.1 < now.1;
            let is_known = !circle.is_empty() && circle.len() == self.seen.len();
            if is_known && self.seen.iter().zip(&circle).all(looked_again) {
                let report = report(&waits, &circle);
                if thread::panicking() {
                    if !std::mem::replace(&mut self.printed, true) {
                        eprintln!("{report}");
                    }
                    return;
                }
                // It is broken now: nobody else is to report it.
                waits.retain(|wait| wait.thread != self.thread);
                drop(waits);
                panic!("{report}");
            }
            if !is_known || self.seen.iter().zip(&circle).any(|(before, now)| before.0 != now.0) {
                self.seen = circle;
            }
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            waits().retain(|wait| wait.thread != self.thread);
        }
    }

    /// Locks it; `owner` is the thread that has it.
    pub(crate) fn lock_watched<'m, T>(mutex: &'m Mutex<T>, owner: &AtomicUsize, what: &str) -> MutexGuard<'m, T> {
        for () in std::iter::repeat_n((), TRIES) {
            if let Some(guard) = try_lock(mutex) {
                return guard;
            }
            thread::yield_now();
        }
        let mut waiting = Waiting::new(|| what.to_owned());
        let mut looked = Instant::now();
        loop {
            if let Some(guard) = try_lock(mutex) {
                return guard;
            }
            thread::sleep(NAP);
            if looked.elapsed() >= LOOK {
                // Relaxed: see `look`.
                waiting.look(|| owner.load(Relaxed));
                looked = Instant::now();
            }
        }
    }

    /// The threads from `first` on, each waiting for the next and the last for `first`; empty if they are not a circle.
    fn circle(waits: &[Wait], first: usize) -> Vec<(usize, u64)> {
        let mut circle = Vec::new();
        let mut thread = first;
        while circle.len() <= waits.len() {
            let Some(wait) = waits.iter().find(|wait| wait.thread == thread) else { return Vec::new() };
            circle.push((thread, wait.looks));
            thread = wait.holder;
            if thread == first {
                return circle;
            }
        }
        Vec::new() // It leads into a circle that `first` is not in: for those to report.
    }

    fn report(waits: &[Wait], circle: &[(usize, u64)]) -> String {
        let named = |thread| waits.iter().find(|wait| wait.thread == thread);
        let lines = circle.iter().filter_map(|&(thread, _)| {
            let wait = named(thread)?;
            let holder = named(wait.holder)?;
            Some(format!("\n    thread `{}` waits for {}, which thread `{}` holds", wait.name, wait.what, holder.name))
        });
        format!("these wait for each other, for ever:{}", lines.collect::<String>())
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::panic::{AssertUnwindSafe, catch_unwind};

        /// Threads that there are not: no thread has the address of one of these for its token.
        struct Others<'a>(&'a [u8]);

        impl Others<'_> {
            fn token(&self, at: usize) -> usize {
                std::ptr::from_ref(&self.0[at]).addr()
            }

            fn looks_again(&self, at: usize) {
                waits().iter_mut().find(|wait| wait.thread == self.token(at)).expect("it waits").looks += 1;
            }
        }

        impl Drop for Others<'_> {
            fn drop(&mut self) {
                waits().retain(|wait| (0..self.0.len()).all(|at| wait.thread != self.token(at)));
            }
        }

        #[test]
        fn a_circle_is_reported_when_all_others_have_looked_again() {
            let others = Others(&[0; 2]);
            let mut waiting = Waiting::new(|| "the first".to_owned());
            for (at, holder) in [(0, others.token(1)), (1, thread_token())] {
                let (name, what) = (format!("other {at}"), "the next".to_owned());
                waits().push(Wait { thread: others.token(at), name, what, holder, looks: 0 });
            }
            // Who has not looked again may have been let go.
            waiting.look(|| others.token(0));
            waiting.look(|| others.token(0));
            others.looks_again(0);
            waiting.look(|| others.token(0));
            others.looks_again(1);
            let report = catch_unwind(AssertUnwindSafe(|| waiting.look(|| others.token(0)))).unwrap_err();
            assert!(
                report.downcast::<String>().unwrap().contains("`other 0` waits for the next, which thread `other 1`")
            );
        }
    }
}

#[cfg(not(all(any(debug_assertions, feature = "checked"), not(any(loom, shuttle)))))]
mod arm {
    use crate::sync::atomic::AtomicUsize;
    use crate::sync::{Mutex, MutexGuard, lock};
    use std::time::Instant;

    pub(crate) struct Waiting;

    pub(crate) fn lock_watched<'m, T>(mutex: &'m Mutex<T>, _owner: &AtomicUsize, _what: &str) -> MutexGuard<'m, T> {
        lock(mutex)
    }

    impl Waiting {
        pub(crate) fn new(_what: impl FnOnce() -> String) -> Self {
            Waiting
        }
        pub(crate) fn next_look(&self, deadline: Option<Instant>) -> Option<Instant> {
            deadline
        }
        pub(crate) fn look(&mut self, _holder: impl FnOnce() -> usize) {}
    }
}

pub(crate) use arm::{Waiting, lock_watched};
