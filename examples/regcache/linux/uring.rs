//! io_uring's registered buffers as a device: a registration is a slot of the ring's buffer table, a send is one
//! `WRITE_FIXED` from it to a file in memory.

#![expect(unsafe_code, reason = "io_uring takes raw addresses; every block says why it is sound")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::Mutex;

use io_uring::{IoUring, opcode, types};

use super::device::{Device, lock};
use super::sys::{self, SysError};

/// How many registrations may exist at once: one per sender, and those that wait to be freed.
const SLOTS: u32 = 256;

pub(crate) struct Uring {
    /// One lock for the submission and the completion queue: one request is in flight at a time.
    ring: Mutex<IoUring>,
    free: Mutex<Vec<u32>>,
    wire: File,
    page_size: u32,
}

impl Uring {
    pub(crate) fn open() -> Result<Self, SysError> {
        let ring = IoUring::new(4).map_err(|error| SysError::new("io_uring_setup", error))?;
        ring.submitter()
            .register_buffers_sparse(SLOTS)
            .map_err(|error| SysError::new("io_uring_register(IORING_REGISTER_BUFFERS2)", error))?;
        Ok(Uring {
            ring: Mutex::new(ring),
            free: Mutex::new((0..SLOTS).collect()),
            wire: sys::memory_file()?,
            page_size: u32::try_from(sys::page_size()).expect("pages are small"),
        })
    }

    /// Makes `slot` of the buffer table refer to `range`; an empty one clears it.
    fn update(&self, slot: u32, range: &Range<usize>) -> Result<(), SysError> {
        let buffer = libc::iovec { iov_base: ptr::with_exposed_provenance_mut(range.start), iov_len: range.len() };
        let ring = lock(&self.ring);
        // SAFETY: the kernel pins the pages itself, so they stay valid whatever the owner maps there later; sends
        // only read from them.
        unsafe { ring.submitter().register_buffers_update(slot, &[buffer], None) }
            .map_err(|error| SysError::new("io_uring_register(IORING_REGISTER_BUFFERS_UPDATE)", error))
    }
}

impl Device for Uring {
    type Handle = u32;

    const NAME: &'static str = "uring";
    const DESCRIPTION: &'static str = "uring: io_uring registered buffers, sent with WRITE_FIXED";

    fn register(&self, range: &Range<usize>) -> Result<u32, SysError> {
        let slot = lock(&self.free).pop();
        let slot = slot.ok_or_else(|| SysError::new("buffer table", io::Error::from_raw_os_error(libc::ENOSPC)))?;
        self.update(slot, range).inspect_err(|_| lock(&self.free).push(slot))?;
        Ok(slot)
    }

    fn send(&self, &slot: &u32, page: usize) -> Result<u64, SysError> {
        let from = ptr::with_exposed_provenance::<u8>(page);
        let index = u16::try_from(slot).expect("the table is small");
        let write = opcode::WriteFixed::new(types::Fd(self.wire.as_raw_fd()), from, self.page_size, index).build();
        // Held until the page has been read back: the next send overwrites it.
        let mut ring = lock(&self.ring);
        // SAFETY: the request reads the page that the slot has pinned; the descriptor lives as long as the ring.
        unsafe { ring.submission().push(&write) }.expect("the queue is empty between sends");
        let written = complete(&mut ring).map_err(|error| SysError::new("io_uring_enter", error))?;
        if written < 0 {
            return Err(SysError::new("IORING_OP_WRITE_FIXED", io::Error::from_raw_os_error(-written)));
        }
        let mut generation = [0; 8];
        self.wire.read_exact_at(&mut generation, 0).map_err(|error| SysError::new("pread", error))?;
        Ok(u64::from_ne_bytes(generation))
    }

    fn unregister(&self, slot: u32) -> Result<(), SysError> {
        self.update(slot, &(0..0))?;
        lock(&self.free).push(slot);
        Ok(())
    }
}

/// Submits the request in the queue and waits for its result. A stop signal interrupts the wait, not the request.
fn complete(ring: &mut IoUring) -> io::Result<i32> {
    loop {
        if let Some(done) = ring.completion().next() {
            return Ok(done.result());
        }
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}
