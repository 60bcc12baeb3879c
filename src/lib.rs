//! Ranged invalidation notifiers with collision-retry: Linux's [`mmu_interval_notifier`] for user space.
//!
//! Code that mirrors an address range which somebody else owns (GPU shared memory, a registration cache for RDMA or
//! io_uring, an IOTLB, a shadow page table, a JIT's code cache) reads the range, builds something from it that takes
//! time, and keeps it. The owner may change the range at any moment, also while the mirror is being built; then what
//! is installed is wrong from the start, and nobody will ever say so. This crate makes it impossible to miss:
//!
//! * the owner brackets every change with **start** and **end** ([`AddressSpace::invalidate_while`]);
//! * start calls back exactly the mirrors that the change overlaps, and they drop what they hold;
//! * a build is bracketed by **begin** and **retry**: begin waits for changes that are under way, retry says under the
//!   mirror's lock whether another one came in between ([`Mirror::update`] is the whole loop).
//!
//! ```
//! use interval_notifier::{AddressSpace, Change, EventKind, MirrorState, Retry};
//! use std::collections::BTreeMap;
//! use std::convert::Infallible;
//! use std::ops::RangeBounds;
//! use std::sync::Mutex;
//!
//! // The mirror: translations of pages, here page -> frame.
//! #[derive(Default)]
//! struct Device(BTreeMap<u64, u32>);
//!
//! impl MirrorState for Device {
//!     fn invalidate(&mut self, change: &Change) {
//!         self.0.retain(|page, _| !change.overlap().contains(page));
//!     }
//! }
//!
//! let space = AddressSpace::new();
//! let frames = Mutex::new(BTreeMap::from([(3, 30), (4, 40)])); // what the owner has mapped
//! let device = space.mirror(0..1024, Device::default())?;
//!
//! // The device faults on page 3: look it up without the device's lock, install it if nothing has changed.
//! let fault = |page: u64| {
//!     device.update(
//!         Retry::forever(),
//!         |_attempt| Ok::<_, Infallible>(frames.lock().unwrap().get(&page).copied()),
//!         |state, frame| frame.map(|frame| state.0.insert(page, frame)),
//!     )
//! };
//! fault(3)?;
//! assert_eq!(device.with(|state| state.0.get(&3).copied())?, Some(30));
//!
//! // Meanwhile the owner moves the page, on a thread of its own.
//! std::thread::scope(|s| {
//!     s.spawn(|| space.invalidate_while(3..4, EventKind::Unmap, || frames.lock().unwrap().insert(3, 31)));
//!     s.spawn(|| fault(4).unwrap());
//! });
//! assert_eq!(device.with(|state| state.0.get(&3).copied())?, None); // dropped before the page moved
//! fault(3)?;
//! assert_eq!(device.with(|state| (state.0[&3], state.0[&4]))?, (31, 40)); // page 4 was not disturbed
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Promise
//!
//! For every subscription, with `start..end` an invalidation that overlaps it:
//!
//! 1. **No stale commit.** A build that is accepted (begin, lock, retry says no, install) saw nothing that an
//!    invalidation changed which started before the commit and ended after the begin.
//! 2. **Nothing mapped inside.** From the return of start until end the mirror holds nothing for the invalidated part,
//!    and no build can be committed into it.
//! 3. **No false alarm.** A reader never waits for, and never builds again because of, an invalidation that does not
//!    overlap its subscription. (The kernel's waits for *all* invalidations of the address space that are active.)
//! 4. **Removal is final.** When [`Subscription::unsubscribe`] returns, no callback runs or will run, and the value is
//!    back with the caller.
//! 5. **Insertion is total.** Once [`AddressSpace::subscribe`] has returned, every overlapping invalidation that starts
//!    calls back, and every one that was active is waited for by the next begin.
//! 6. **The owner is never blocked by a reader** beyond the mirror's own short lock; [`AddressSpace::try_invalidate`]
//!    never blocks at all, and a refusal leaves nothing behind on any side.
//! 7. **No silent hang.** Waiting for oneself is an error that names the rule. A callback that panics poisons its
//!    subscription and nothing else. (Then 2 ends for that one: it is not called again, and its owner has to take it
//!    down.)
//!
//! The promise holds if every change of the range is bracketed. What the owner does not announce, the crate cannot
//! know: page migration, swapping and copy on write by the kernel are invisible in user space. They do no harm to
//! mirrors of virtual addresses or of pinned pages.
//!
//! # How it works
//!
//! ```text
//!  primary side                                      mirror side
//!  invalidate(range)                                 read_begin()    wait while an overlapping one is active
//!    1 publish the range in a slot ───────────────►    returns ReadSeq
//!    2 search the tree ──► never blocked by writers
//!    3 each overlapping subscription                 build           no lock held, may sleep
//!        ──► lock the mirror; set_seq; drop
//!                                                    commit          lock the mirror
//!  ... change the range ...                            read_retry?  ── yes ──► begin again
//!                                                                   └─ no ───► install
//!  drop(Invalidation)
//!    4 free the slot, wake who waits for it
//! ```
//!
//! The kernel keeps one counter of active invalidations and one odd/even sequence for the whole address space; so its
//! readers wait until *nothing* is being invalidated anywhere. Here the sequence of a subscription names the
//! invalidation that hit it last, and a reader waits for that one (and for others that overlapped), found by its slot.
//! An invalidation pays per call, not per hit: a hit costs the callback and a few plain stores, an end is one atomic
//! operation however many were hit.
//!
//! # Choosing an interface
//!
//! * [`Mirror`], with a [`MirrorState`] of yours behind a lock of ours. Forgetting the sequence, taking the wrong lock and
//!   installing without a retry do not compile.
//! * [`Subscription`], with an [`Invalidate`] of yours: where one lock of yours covers many subscriptions, as in GPU
//!   drivers. The witness `&mut Locked` keeps the lock from being forgotten; which lock it is is up to you. (std's mutex
//!   is not fair: a busy reader can keep callbacks waiting, which the lock of a `Mirror` does not allow.)
//! * [`Notifier`], for everything in a space, where there is no range to subscribe to.
#![cfg_attr(
    feature = "table",
    doc = "* [`TranslationTable`]: a ready secondary page table for the inside of either (feature `table`)."
)]
#![cfg_attr(
    not(feature = "table"),
    doc = "* `TranslationTable`: a ready secondary page table for the inside of either (feature `table`)."
)]
#![cfg_attr(
    feature = "checked",
    doc = "* [`checked`], for tests: locks of your own are watched, rare events forced (feature `checked`)."
)]
#![cfg_attr(
    not(feature = "checked"),
    doc = "* `checked`, for tests: locks of your own are watched, rare events forced (feature `checked`)."
)]
//!
//! # Cost and progress
//!
//! With *n* subscriptions, *k* of them hit:
//!
//! | operation | steps | progress |
//! |---|---|---|
//! | `read_begin`, nothing active | two loads, no store | wait-free |
//! | `read_begin`, first after a collision | one look at each overlapping invalidation that was active | blocks until those end |
//! | `check_retry`, `read_retry` | two loads | wait-free |
//! | `try_read_begin` | as `read_begin`, without waiting | wait-free |
//! | `invalidate` | O(log *n* + *k*), plus the callbacks | lock-free but for the callbacks |
//! | `try_invalidate` | the same | lock-free if the callbacks keep their word |
//! | end | one atomic operation, plus the callbacks of notifiers | lock-free; if somebody waits for this one, takes its short lock to wake them |
//! | `subscribe` | O(log *n*), copies one leaf of the tree, rarely the path to it | takes a lock against other subscribers |
//! | `unsubscribe`, drop | the same | and waits for running callbacks |
//! | `release` | as `invalidate` over everything | and waits for the callbacks of notifiers |
//!
//! An invalidation that hits nothing writes nothing that others share but its own slot. Memory is reclaimed through
//! `crossbeam-epoch`; none of your code runs under a pin. The library allocates in `subscribe` and `unsubscribe`. An
//! invalidation allocates only on the first use of the crate by a thread (the epoch registers it), when more than sixteen
//! are in flight in a space for the first time, when more than two overlap on one subscription for the first time, and
//! for those that answer with a [`Finish`]. Where subscriptions come and go meanwhile, every 128th start of a thread may free
//! some hundred blocks of what others have retired, and allocate a few for the epoch's own lists. Begins and ends do
//! neither. (`tests/memory` counts all of it.)
//!
//! # Trade-offs
//!
//! * **A subscription costs more than the kernel's.** It is not intrusive: inserting allocates an entry and copies a leaf of the tree. Keep
//!   subscriptions for as long as a range is of interest; do not make one per access.
//! * **A reader can be overtaken for ever** by a storm of invalidations that do overlap. [`Retry`] bounds it.
//! * **`unsubscribe` waits for the other callbacks of the same invalidation too**, up to 32 of them, as the kernel's does.
//! * **Nothing is remembered about what has changed.** A mirror that wants to keep the unaffected rest of a half-made
//!   build subscribes smaller ranges.
//!
//! # From the kernel
//!
//! The [porting guide](porting) has a row for every name of the kernel's interface, with what changes for the caller; and
//! the documentation finds kernel names (`mmu_interval_read_begin` and the others are aliases of what takes their place).
//!
//! # Testing a mirror of yours
//!
#![cfg_attr(
    all(feature = "conformance", not(loom)),
    doc = "The module [`conformance`] (feature `conformance`) drives a mirror of yours and shows the shortest history in"
)]
#![cfg_attr(
    not(all(feature = "conformance", not(loom))),
    doc = "The module `conformance` (feature `conformance`) drives a mirror of yours and shows the shortest history in"
)]
//! which it is wrong.
//!
//! Built with `--cfg shuttle` or `--cfg loom` the crate uses the primitives of those checkers, so that your own scenarios
//! can explore it together with your mirror. Under both, time does not pass: limits of time are not observed.
//!
//! [`mmu_interval_notifier`]: https://docs.kernel.org/mm/hmm.html
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "checked")]
pub mod checked;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod coarse;
#[cfg(all(feature = "conformance", not(loom)))]
pub mod conformance;
mod error;
mod event;
mod finish;
mod held;
mod list;
mod mirror;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
mod notifier;
mod notifiers;
mod panics;
mod primary;
mod range;
mod rcu;
mod seq;
mod shared;
mod slots;
mod subscription;
mod sync;
#[cfg(feature = "table")]
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod waits;

pub use error::{
    BeginError, Collision, InsideCallback, Poisoned, RegisterError, RegisterErrorKind, SubscribeError,
    SubscribeErrorKind, UpdateError, WouldBlock,
};
pub use event::{Change, Event, EventKind, Owner};
pub use finish::Finish;
pub use mirror::{Attempt, Mirror, MirrorGuard, MirrorState, Retry};
pub use notifier::{Notifier, Registration, SecondaryTlb, SharedNotifier};
pub use primary::{AddressSpace, Invalidation, OwnedInvalidation};
pub use range::{Address, Span};
pub use subscription::{Ack, Call, Invalidate, ReadSeq, Subscription};
#[cfg(feature = "table")]
pub use table::{DeviceCache, TargetOverflow, TranslationTable};

#[doc = include_str!("checking.md")]
pub mod checking {}

#[doc = include_str!("porting.md")]
pub mod porting {}
