//! The primitives that a mirror under test is built on: the standard library's, or Shuttle's where that is in charge.
//!
//! Shuttle sees what goes through its own primitives. A mirror that locks the standard library's under it would stop all
//! its tasks at once, and its schedules would say nothing. So let the mirror take its lock and its threads from here, or
//! switch them itself as this file does.

#[cfg(shuttle)]
pub use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic, mpsc},
    thread,
};
#[cfg(not(shuttle))]
pub use std::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic, mpsc},
    thread,
};
