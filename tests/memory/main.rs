//! What the crate does to memory, counted by an allocator of the test.
//!
//! What the C library allocates for itself, such as the list of a thread's destructors, is not seen by it.
//!
//! The tests run one after the other: the epoch is the whole process's, and what one of them has retired is freed by
//! the next.

mod churn;
mod counting;
mod late;
mod no_alloc;
mod toy;
