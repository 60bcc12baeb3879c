//! A registration cache over a real device, with and without begin/retry.
//!
//! Registering memory with a device (an RDMA adapter, io_uring) is slow, so that libraries keep registrations and use
//! them again. A registration refers to the pages that were there when it was made; when the owner maps other pages at
//! these addresses, the cache must forget it. The caches in use are told of a change once, and a registration that is
//! being made at that moment slips through: from then on the device sends pages that no longer exist.
//!
//! This program runs a correct application (`linux/application.rs`) over such caches (`notify.rs`, `notify_locked.rs`)
//! and over one built on this crate (`begin_retry.rs`), on a device that needs no hardware (`uring.rs`, `pipe.rs`),
//! and counts the sends that delivered an old page.
//!
//! ```text
//! cargo run --release --example regcache -- --seconds 5 --build-latency-us 30
//! ```
//!
//! The exit code is 0 if begin-retry, when it ran, had no stale send; 1 if it had one or the device failed; 2 if the
//! command line is wrong.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::run(&clap::Parser::parse())
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("regcache: its devices, io_uring and vmsplice, exist on Linux only");
    std::process::ExitCode::FAILURE
}
