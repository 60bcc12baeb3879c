//! A trace: what one program did to its address space, call by call.
//!
//! A line is `time_us,tid,op,start(hex),len,prot/flags,dur_us,errno`: one system call that has returned. `time_us` is
//! when it began and `dur_us` how long it took, so that start and end of every change are known. Lines that begin with
//! `#` are comments. `traces/README.md` tells where the kept ones come from.

mod line;
mod read;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

#[cfg(test)]
pub(crate) use self::read::of;
pub(crate) use self::read::read;

/// The calls of a program, in the order in which they began.
#[derive(Debug)]
pub(crate) struct Trace {
    /// What to call it in the results.
    pub(crate) name: String,
    pub(crate) calls: Vec<Call>,
    /// The numbers of its threads, as traced; [`Call::thread`] is an index of it.
    pub(crate) threads: Vec<u64>,
    /// Calls that the kernel refused. They changed nothing and are not replayed.
    pub(crate) failed: usize,
}

impl Trace {
    /// How long the program ran.
    pub(crate) fn length(&self) -> Duration {
        self.calls.iter().map(|call| call.end).max().unwrap_or_default()
    }

    /// The call that stands in a line of the file.
    pub(crate) fn call_at(&self, line: u64) -> Option<&Call> {
        self.calls.iter().find(|call| call.line == line)
    }
}

/// One system call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// The line it stands in, from 1. A line is read once, so this names the call.
    pub(crate) line: u64,
    pub(crate) thread: usize,
    pub(crate) op: String,
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
    pub(crate) effect: Effect,
}

/// What a call does to the address space. Ranges may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effect {
    /// Changes while the call runs: start at its begin, end at its return.
    pub(crate) change: Range<u64>,
    /// Is gone when it returns.
    pub(crate) unmap: Range<u64>,
    /// Is there when it returns.
    pub(crate) map: Range<u64>,
}

impl Effect {
    /// Is another mapping put in the place of what is there?
    pub(crate) fn replaces(&self) -> bool {
        !self.map.is_empty() && self.map == self.change
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { line, op, begin, end, .. } = self;
        write!(f, "line {line}, {op} from {:.1} to {:.1} us", micros(*begin), micros(*end))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
