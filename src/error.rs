//! Errors. They give back what they took, and implement [`Error`] whatever it is.

use std::error::Error;
use std::fmt;

/// `Debug`, `Display` and `Error` for an error that may carry a value which has none of them.
macro_rules! error {
    ($(#[$doc:meta])* $name:ident $(<$value:ident>)?: $message:literal) => {
        impl $(<$value>)? fmt::Debug for $name $(<$value>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
        impl $(<$value>)? fmt::Display for $name $(<$value>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($message)
            }
        }
        impl $(<$value>)? Error for $name $(<$value>)? {}
    };
}

/// A mirror could not follow a non-blocking invalidation at once: it was refused, nothing is left behind.
///
/// A callback gets its own from [`Change::would_block`](crate::Change::would_block); the primary side gets it from
/// [`AddressSpace::try_invalidate`](crate::AddressSpace::try_invalidate).
#[doc(alias = "EAGAIN")]
#[non_exhaustive]
pub struct WouldBlock;
error!(WouldBlock: "a mirror could not be invalidated without blocking");

/// A mirror's state may be half-changed: a callback of it, or something that was changing it, panicked.
///
/// The state is still given back by [`Mirror::unsubscribe`](crate::Mirror::unsubscribe).
#[non_exhaustive]
pub struct Poisoned;
error!(Poisoned: "a callback or a change of the mirror's state panicked");

/// [`AddressSpace::subscribe`](crate::AddressSpace::subscribe) was refused; `ops` are given back.
#[non_exhaustive]
pub struct SubscribeError<T> {
    /// What was to be subscribed.
    pub ops: T,
    /// Why it was refused.
    pub kind: SubscribeErrorKind,
}

/// Why a subscription was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeErrorKind {
    /// The range holds no address.
    Empty,
    /// The address space has been released.
    Released,
}

impl<T> fmt::Debug for SubscribeError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SubscribeError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SubscribeErrorKind::Empty => "the range of the subscription is empty",
            SubscribeErrorKind::Released => "the address space has been released",
        })
    }
}

impl<T> Error for SubscribeError<T> {}

/// Removing a subscription waits for running callbacks, and this thread may be the one they wait for: it runs a
/// callback of the address space, or holds the lock of a [`Mirror`](crate::Mirror) of it. The subscription is given back.
pub struct InsideCallback<T>(pub T);
error!(InsideCallback<T>: "unsubscribe inside a callback of the address space, or under a mirror lock of it, would wait for itself");

/// The range was invalidated while this was built. It is given back; build again.
#[must_use = "what was built from a range that has changed must be undone and built again"]
pub struct Collision<B>(pub B);
error!(Collision<B>: "the range was invalidated during the build");

/// A reader could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeginError {
    /// An overlapping invalidation is active, and the call does not wait (any longer).
    Active,
    /// The begin would wait for an invalidation that may be waiting for this thread: it runs the subscription's own
    /// callback, or holds the lock of a [`Mirror`](crate::Mirror) of the address space.
    InsideCallback,
    /// The begin would wait for an invalidation that this thread itself holds open.
    InsideInvalidation,
    /// A callback of this subscription panicked.
    Poisoned,
    /// The address space has been released.
    Released,
}

impl fmt::Display for BeginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BeginError::Active => "an overlapping invalidation is active",
            BeginError::InsideCallback => {
                "a begin inside the subscription's own callback, or under a mirror lock, would wait for itself"
            }
            BeginError::InsideInvalidation => {
                "this thread holds the overlapping invalidation open: it would wait for itself"
            }
            BeginError::Poisoned => "a callback of the subscription panicked",
            BeginError::Released => "the address space has been released",
        })
    }
}

impl Error for BeginError {}

/// [`Mirror::update`](crate::Mirror::update) gave up.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpdateError<E> {
    /// The builder failed, and not because of a collision; its own error.
    Build(E),
    /// There is no use in trying again.
    Begin(BeginError),
    /// The attempts or the time of the [`Retry`](crate::Retry) policy are used up.
    Exhausted {
        /// How many builds were made (0 if none could begin in time), all of them overtaken by an invalidation. Which one it was last:
        /// [`Mirror::last_collision`](crate::Mirror::last_collision).
        attempts: u32,
    },
}

impl<E: fmt::Display> fmt::Display for UpdateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpdateError::Build(error) => write!(f, "the build failed: {error}"),
            UpdateError::Begin(error) => write!(f, "the build could not begin: {error}"),
            UpdateError::Exhausted { attempts } => {
                write!(f, "gave up, after {attempts} builds that invalidations overtook")
            }
        }
    }
}

impl<E: Error + 'static> Error for UpdateError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            UpdateError::Build(error) => Some(error),
            UpdateError::Begin(error) => Some(error),
            UpdateError::Exhausted { .. } => None,
        }
    }
}

/// A notifier could not be registered; it is given back.
#[non_exhaustive]
pub struct RegisterError<N> {
    /// What was to be registered.
    pub notifier: N,
    /// Why it was refused.
    pub kind: RegisterErrorKind,
}

/// Why a notifier was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterErrorKind {
    /// The address space has been released.
    Released,
    /// Registering waits for the invalidations that are active, and this thread runs a callback of one, or holds the
    /// lock of a [`Mirror`](crate::Mirror) that one may want.
    InsideCallback,
    /// Registering waits for the invalidations that are active, and this thread itself holds one open.
    InsideInvalidation,
    /// There are `usize::MAX` handles already.
    TooManyHandles,
}

impl fmt::Display for RegisterErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegisterErrorKind::Released => "the address space has been released",
            RegisterErrorKind::InsideCallback => "registering inside a callback would wait for itself",
            RegisterErrorKind::InsideInvalidation => {
                "registering inside an own open invalidation would wait for itself"
            }
            RegisterErrorKind::TooManyHandles => "there are too many handles of this notifier",
        })
    }
}

impl Error for RegisterErrorKind {}

impl<N> fmt::Debug for RegisterError<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<N> fmt::Display for RegisterError<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<N> Error for RegisterError<N> {}
