//! Places the threads of a run on different processors.
//!
//! The races that are shown need two threads that run at the same moment. On a busy machine a scheduler may keep both
//! on one processor for a whole run, where they take turns, and a cache that is wrong then looks right.

#![expect(unsafe_code, reason = "system calls; every block says why it is sound")]

use std::mem;

use super::sys::{SysError, check};

/// A part of the processors that this process may use; none means that the scheduler chooses.
#[derive(Clone, Debug)]
pub(crate) struct Processors(Vec<usize>);

/// Where the threads of a run are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) remapper: Processors,
    pub(crate) senders: Processors,
}

impl Places {
    /// One processor for the remapper and the others for the senders. If there is only one, or the system does not
    /// let a thread choose, the scheduler does.
    pub(crate) fn choose() -> Self {
        let all = Processors::allowed().unwrap_or_else(|error| {
            eprintln!("regcache: the threads cannot be placed apart ({error})");
            Vec::new()
        });
        match all.split_last() {
            Some((&last, others)) if !others.is_empty() => {
                Places { remapper: Processors(vec![last]), senders: Processors(others.to_vec()) }
            }
            _ => Places { remapper: Processors(Vec::new()), senders: Processors(Vec::new()) },
        }
    }
}

impl Processors {
    /// The numbers of those that the calling thread may use, and may keep to.
    fn allowed() -> Result<Vec<usize>, SysError> {
        let mut set = empty_set();
        // SAFETY: the size given is that of the set, which the call writes.
        let returned = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
        check("sched_getaffinity", returned)?;
        let most = usize::try_from(libc::CPU_SETSIZE).expect("a positive constant");
        // SAFETY: the numbers are below the size of the set.
        let all = Processors((0..most).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect());
        all.keep_to()?;
        Ok(all.0)
    }

    /// Keeps the calling thread on these.
    pub(crate) fn keep_to(&self) -> Result<(), SysError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut set = empty_set();
        for &cpu in &self.0 {
            // SAFETY: the numbers came from such a set, so they are below its size.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
        // SAFETY: the size given is that of the set, which the call reads.
        let returned = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
        check("sched_setaffinity", returned).map(drop)
    }
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: a set of processors is an array of words, for which zero is a value.
    unsafe { mem::zeroed() }
}
