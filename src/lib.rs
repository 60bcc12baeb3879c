//! placeholder
mod error;
mod event;
mod held;
mod mirror;
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
mod tree;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
#[cfg(test)]
mod tests;

pub use error::{
    BeginError, Collision, InsideCallback, Poisoned, SubscribeError, SubscribeErrorKind, UpdateError, WouldBlock,
};
pub use event::{Change, Event, EventKind, Owner};
pub use mirror::{Attempt, Mirror, MirrorGuard, MirrorState, Retry};
pub use primary::{AddressSpace, Invalidation, OwnedInvalidation};
pub use range::{Address, Span};
pub use subscription::{Ack, Call, Invalidate, ReadSeq, Subscription};
#[cfg(feature = "table")]
pub use table::{DeviceCache, TargetOverflow, TranslationTable};
