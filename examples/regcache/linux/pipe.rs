//! Pipes as a device, for machines where io_uring is forbidden: a registration is a pipe into which the pages were
//! put with `vmsplice`, which pins them; a send duplicates them with `tee` into a second pipe and reads that.

#![expect(unsafe_code, reason = "vmsplice takes raw addresses; every block says why it is sound")]

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Mutex;

use super::device::{Device, lock};
use super::sys::{SysError, check, check_fd};

pub(crate) struct Pipe {
    /// One lock for the wire and what is read from it: one send is in flight at a time.
    wire: Mutex<Ends>,
}

impl Pipe {
    pub(crate) fn open() -> Result<Self, SysError> {
        Ok(Pipe { wire: Mutex::new(Ends::open()?) })
    }
}

/// The two ends of a pipe.
struct Ends {
    read: File,
    write: File,
}

/// A pipe that holds the pages of a range.
pub(crate) struct Pinned {
    pages: Ends,
    range: Range<usize>,
}

impl Device for Pipe {
    type Handle = Pinned;

    const NAME: &'static str = "pipe";
    const DESCRIPTION: &'static str = "pipe: pages put into a pipe with vmsplice, sent with tee";

    fn register(&self, range: &Range<usize>) -> Result<Pinned, SysError> {
        let pages = Ends::open()?;
        populate(range)?;
        pages.splice_in(range)?;
        Ok(Pinned { pages, range: range.clone() })
    }

    fn send(&self, pinned: &Pinned, page: usize) -> Result<u64, SysError> {
        let mut sent = vec![0; pinned.range.len()];
        let mut wire = lock(&self.wire);
        wire.duplicate(&pinned.pages, sent.len())?;
        wire.read.read_exact(&mut sent).map_err(|error| SysError::new("read", error))?;
        drop(wire);
        let page = &sent[page - pinned.range.start..];
        Ok(u64::from_ne_bytes(page[..8].try_into().expect("eight bytes")))
    }

    fn unregister(&self, pinned: Pinned) -> Result<(), SysError> {
        // Closing the pipe drops the last references to the pages.
        drop(pinned);
        Ok(())
    }
}

impl Ends {
    fn open() -> Result<Self, SysError> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // SAFETY: the array has room for the two descriptors the call writes.
        let returned = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
        check("pipe2", returned)?;
        Ok(Ends { read: check_fd("pipe2", ends[0])?.into(), write: check_fd("pipe2", ends[1])?.into() })
    }

    /// Puts the pages of `range` themselves into the pipe: no copy is made, the pipe refers to them.
    fn splice_in(&self, range: &Range<usize>) -> Result<(), SysError> {
        let buffer = libc::iovec { iov_base: ptr::with_exposed_provenance_mut(range.start), iov_len: range.len() };
        // SAFETY: one buffer is given and one is said to be there; the kernel takes its own references to the pages,
        // and answers EFAULT if there are none. SPLICE_F_NONBLOCK: too small a pipe is an error, not a hang.
        let spliced = unsafe { libc::vmsplice(self.write.as_raw_fd(), &buffer, 1, libc::SPLICE_F_NONBLOCK) };
        whole("vmsplice", check("vmsplice", spliced)?, range.len())
    }

    /// Puts what is in `from` into this empty pipe too; `from` keeps it.
    fn duplicate(&self, from: &Ends, len: usize) -> Result<(), SysError> {
        let (from, to) = (from.read.as_raw_fd(), self.write.as_raw_fd());
        // SAFETY: both descriptors are open; the call touches no memory of ours.
        let copied = unsafe { libc::tee(from, to, len, libc::SPLICE_F_NONBLOCK) };
        whole("tee", check("tee", copied)?, len)
    }
}

fn whole(call: &'static str, done: usize, asked: usize) -> Result<(), SysError> {
    if done == asked { Ok(()) } else { Err(SysError::short(call)) }
}

/// Makes the pages present as a device that may write would. `vmsplice` pins for reading, and of a page nobody has
/// touched yet it would pin the zero page of the system, which no later write of the owner reaches. A remap between
/// this and the pinning is one that meets the build, as any other.
fn populate(range: &Range<usize>) -> Result<(), SysError> {
    let start = ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: populating changes no content, and the kernel checks the range.
    let returned = unsafe { libc::madvise(start, range.len(), libc::MADV_POPULATE_WRITE) };
    check("madvise(MADV_POPULATE_WRITE)", returned).map(drop)
}
