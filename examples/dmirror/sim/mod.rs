//! The simulation behind the examples `dmirror` and `multi_device` and behind `tests/kernel`: processes with page
//! tables, and a device that mirrors them as the kernel's own test driver does (`lib/test_hmm.c`).
//!
//! | file | what it is | the kernel's name |
//! |---|---|---|
//! | `memory.rs` | frames, in RAM and on devices | `struct page` |
//! | `pages.rs` | one process's page table, and what a fault does to it | `mm_struct`, page faults |
//! | `primary.rs` | the system calls: each brackets its change with start and end | core mm |
//! | `device.rs` | the device: one mutex, a shadow page table, begin and retry | `struct dmirror` |
//!
//! # The oracle
//!
//! Frame numbers are never used twice, so an entry of a shadow page table that has become stale can be told from a good
//! one for ever. After every change, in the middle of every change, and whenever a test asks for it, every entry of
//! every device is compared with its process's page table: the same frame, no more permissions, on no device but its own,
//! and nothing at all for a range that is being changed. Besides, memory knows which frames are free: an access through
//! a stale entry is a use after free, and panics.

pub(crate) mod device;
pub(crate) mod memory;
pub(crate) mod pages;
pub(crate) mod primary;
