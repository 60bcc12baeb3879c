//! The system calls of this example behind safe functions, and an error that names the call.

#![expect(unsafe_code, reason = "system calls; every block says why it is sound")]

use std::error::Error;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io, ptr};

/// A system call that failed: its name and what the kernel said, errno included.
#[derive(Debug)]
pub(crate) struct SysError {
    call: &'static str,
    source: io::Error,
}

impl SysError {
    pub(crate) fn new(call: &'static str, source: io::Error) -> Self {
        SysError { call, source }
    }

    /// The call succeeded for only a part of what it was asked for.
    pub(crate) fn short(call: &'static str) -> Self {
        Self::new(call, io::Error::new(io::ErrorKind::WriteZero, "not all of it was done"))
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.source)
    }
}

// The text above already holds the cause, so there is no `source`: a chain would print it twice.
impl Error for SysError {}

/// Turns the C convention (negative: see errno) into a `Result`. Call it before anything else can set errno.
pub(crate) fn check(call: &'static str, returned: impl TryInto<usize>) -> Result<usize, SysError> {
    returned.try_into().map_err(|_| SysError::new(call, io::Error::last_os_error()))
}

/// Takes ownership of the descriptor that `returned` is, if it is one.
pub(crate) fn check_fd(call: &'static str, returned: RawFd) -> Result<OwnedFd, SysError> {
    check(call, returned)?;
    // SAFETY: the call named has just created this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(returned) })
}

pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("every Linux has a page size")
}

/// A file in memory: where a device under test delivers what it sends.
pub(crate) fn memory_file() -> Result<File, SysError> {
    // SAFETY: the name is a C string, and the call reads nothing else.
    let fd = unsafe { libc::memfd_create(c"regcache".as_ptr(), libc::MFD_CLOEXEC) };
    Ok(check_fd("memfd_create", fd)?.into())
}

/// Anonymous pages that their owner may replace one by one while devices hold on to the old ones.
#[derive(Debug)]
pub(crate) struct Pages {
    base: usize,
    count: usize,
    size: usize,
}

impl Pages {
    pub(crate) fn map(count: usize) -> Result<Self, SysError> {
        let size = page_size();
        // SAFETY: without MAP_FIXED no existing mapping is touched.
        let base = unsafe { map_anonymous(0, count * size, 0) }?;
        Ok(Pages { base, count, size })
    }

    /// The addresses of all pages.
    pub(crate) fn range(&self) -> Range<usize> {
        self.base..self.base + self.count * self.size
    }

    /// The addresses of one page.
    pub(crate) fn page(&self, index: usize) -> Range<usize> {
        assert!(index < self.count, "page {index} of {}", self.count);
        let start = self.base + index * self.size;
        start..start + self.size
    }

    /// Puts a new page of zeros in the place of an old one. A device that has pinned the old page keeps it.
    pub(crate) fn replace(&self, index: usize) -> Result<(), SysError> {
        let page = self.page(index);
        // SAFETY: the page is one of our own mapping, into which nobody holds a Rust reference.
        unsafe { map_anonymous(page.start, page.len(), libc::MAP_FIXED) }.map(drop)
    }

    /// Writes the generation of a page into it.
    pub(crate) fn stamp(&self, index: usize, generation: u64) {
        let stamp = ptr::with_exposed_provenance_mut::<u64>(self.page(index).start);
        // SAFETY: `page` has checked that the address is inside our mapping; it is aligned to a page, every page
        // stays mapped and writable until drop, and all accesses from user space are atomic.
        let stamp = unsafe { AtomicU64::from_ptr(stamp) };
        // Relaxed: the application's lock orders the stamps; the device reads through the kernel.
        stamp.store(generation, Ordering::Relaxed);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let base = ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: the mapping is ours and no reference into it outlives a call of `stamp`.
        let returned = unsafe { libc::munmap(base, self.count * self.size) };
        debug_assert_eq!(returned, 0, "munmap of our own mapping: {}", io::Error::last_os_error());
    }
}

/// Maps pages of zeros at `place` with `MAP_FIXED` among the `flags`, anywhere without.
///
/// # Safety
///
/// With `MAP_FIXED` the addresses must be the caller's own, and no Rust reference may point into them.
unsafe fn map_anonymous(place: usize, len: usize, flags: libc::c_int) -> Result<usize, SysError> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let place = ptr::with_exposed_provenance_mut(place);
    // SAFETY: what MAP_FIXED replaces is the caller's to replace, as this function demands.
    let mapped = unsafe { libc::mmap(place, len, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(SysError::new("mmap", io::Error::last_os_error()));
    }
    Ok(mapped.expose_provenance())
}
