//! The shared part of one subscription.

use super::memory;
use crate::error::WouldBlock;
use crate::event::Change;
use crate::finish::Finish;
use crate::range::Address;
use crate::seq::Sequence;
use crate::slots::{Identity, Slots};
use crate::sync::epoch;
use crate::tree::Key;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// What one callback is told.
pub(crate) struct Context<'a, A: Address> {
    pub(crate) change: Change<A>,
    pub(crate) sequence: &'a Sequence,
    pub(crate) identity: Identity,
    pub(crate) slots: &'a Slots<A>,
    #[cfg(feature = "checked")]
    pub(crate) taken: &'a crate::checked::Taken,
}

/// A value that can be called back.
pub(crate) trait Listener<A: Address>: Send + Sync + 'static {
    fn hear(&self, context: &Context<'_, A>) -> Answer;
}

/// What a callback answers: done, or to be finished when all have started; or refused.
pub(crate) type Answer = Result<Option<Box<dyn Finish>>, WouldBlock>;

/// What an entry can do whose type of value is forgotten.
struct Table<A: Address> {
    /// # Safety
    /// 1. The entry is of the type the table was made for, and alive.
    /// 2. Its value is still in it and is not taken out before the call returns.
    hear: unsafe fn(NonNull<Header<A>>, &Context<'_, A>) -> Answer,
    /// Drops the value and retires the memory.
    ///
    /// # Safety
    /// 1. The entry is of the type the table was made for, and alive.
    /// 2. Its value is still in it; nobody refers to it, and nobody will (invariant 3).
    /// 3. No new reference to the header can come from a published tree (invariant 2).
    bury: unsafe fn(NonNull<Header<A>>),
}

/// The part of an entry that does not depend on the type of its value: a cache line, in which there is only what hardly
/// ever changes but by a collision.
#[repr(C, align(64))]
struct Header<A: Address> {
    sequence: Sequence,
    table: &'static Table<A>,
}

/// A header, followed by the user's value.
#[repr(C)]
struct Entry<T, A: Address> {
    header: Header<A>,
    value: ManuallyDrop<T>,
}

impl<T: Listener<A>, A: Address> Entry<T, A> {
    const TABLE: &'static Table<A> = &Table { hear: Self::hear, bury: Self::bury };

    unsafe fn hear(header: NonNull<Header<A>>, context: &Context<'_, A>) -> Answer {
        // SAFETY: by clause 1 the header is the first field of a live `Entry<T, A>`, and the pointer was made from one
        // to the whole; by clause 2 its value is there. Only shared references to an entry exist while it lives.
        let entry = unsafe { header.cast::<Self>().as_ref() };
        entry.value.hear(context)
    }

    unsafe fn bury(header: NonNull<Header<A>>) {
        let entry = header.cast::<Self>();
        // SAFETY: our clauses are those of `take`, number by number.
        drop(unsafe { Self::take(entry) });
    }
}

impl<T, A: Address> Entry<T, A> {
    /// The value; the memory is retired.
    ///
    /// # Safety
    /// The clauses of [`Table::bury`].
    unsafe fn take(entry: NonNull<Self>) -> T {
        // SAFETY: alive and of this type by clause 1.
        let value = unsafe { &raw const (*entry.as_ptr()).value };
        // SAFETY: present and unshared by clause 2; it is `ManuallyDrop`, so the copy that stays behind is not dropped.
        let value = unsafe { value.read() };
        let retired = Retired(entry);
        let guard = epoch::pin();
        // SAFETY: by clause 3 and invariant 2 only those pinned now can still look at the header. The memory is freed
        // once, as nobody else calls `take` for it (clause 2). Freeing it runs no code of the user.
        unsafe { guard.defer_unchecked(move || retired.free()) };
        drop(guard);
        ManuallyDrop::into_inner(value)
    }
}

/// Memory of an entry whose value is gone.
struct Retired<T, A: Address>(NonNull<Entry<T, A>>);

impl<T, A: Address> Retired<T, A> {
    fn free(self) {
        // SAFETY: it came from `memory::put` in `Handle::new` and nobody can refer to it any more; only `take` makes a
        // `Retired`, once an entry. The value is `ManuallyDrop`, so this frees memory and nothing else.
        unsafe { memory::free(self.0) };
    }
}

/// What trees and batches hold: the address of an entry. It can be copied and compared, but used only in this module.
pub(crate) struct EntryRef<A: Address>(NonNull<Header<A>>);

impl<A: Address> Clone for EntryRef<A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A: Address> Copy for EntryRef<A> {}
// SAFETY: it is an address; what is done with it is argued where it is done. Entries hold `Sync + Send` values only
// (`Listener`), and a header is made of atomics and locks, so entries may be used from and freed by any thread.
unsafe impl<A: Address> Send for EntryRef<A> {}
// SAFETY: as for `Send`.
unsafe impl<A: Address> Sync for EntryRef<A> {}

impl<A: Address> EntryRef<A> {
    pub(super) fn address(self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Fetches the header and the beginning of the value: they are about to be used, and those of many entries are fetched
    /// at once.
    #[inline]
    pub(super) fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let header: *const i8 = self.0.as_ptr().cast();
            let value = header.wrapping_add(size_of::<Header<A>>());
            // SAFETY: a prefetch is a hint, and reads nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(header) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(value) };
        }
    }

    /// # Safety
    /// The entry stays alive during `'a`: it is in a tree loaded under a pin that outlasts `'a`, or in a batch that
    /// does, or in the graveyard, or its handle does.
    pub(super) unsafe fn sequence<'a>(self) -> &'a Sequence {
        // SAFETY: by our clause; there are only shared references to headers.
        let header: &'a Header<A> = unsafe { self.0.as_ref() };
        &header.sequence
    }

    /// Calls the value back.
    ///
    /// # Safety
    /// The entry is in a batch that outlasts the call (invariant 3: its value is there and stays).
    pub(super) unsafe fn hear(self, context: &Context<'_, A>) -> Answer {
        // SAFETY: it is alive by our clause.
        let header = unsafe { self.0.as_ref() };
        // SAFETY: 1. the table was put there together with the value's type, alive by our clause; 2. our clause.
        unsafe { (header.table.hear)(self.0, context) }
    }

    /// Drops the value here and retires the memory.
    ///
    /// # Safety
    /// 1. The entry was given to the graveyard and taken from it by the caller alone (invariant 4).
    /// 2. It was seen in no slot's `current` after it was marked removed (invariant 3).
    pub(super) unsafe fn bury(self) {
        // SAFETY: alive, because nobody but the caller frees it (1).
        let header = unsafe { self.0.as_ref() };
        // SAFETY: 1. as in `hear`; 2. by our clauses 1 and 2; 3. what is in the graveyard has been unlinked.
        unsafe { (header.table.bury)(self.0) }
    }
}

/// The one owner of an entry.
pub(crate) struct Handle<T, A: Address> {
    entry: NonNull<Entry<T, A>>,
    /// Where it is in the tree.
    key: Key<A>,
}

// SAFETY: the handle gives `&T` to whoever has `&Handle` and the `T` itself to whoever has the handle; the rest of the
// entry is atomics. Values are also called back, through `&T`, and dropped by other threads, hence both bounds.
unsafe impl<T: Send + Sync, A: Address> Send for Handle<T, A> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync, A: Address> Sync for Handle<T, A> {}

impl<T: Listener<A>, A: Address> Handle<T, A> {
    pub(super) fn new(key: Key<A>, value: T) -> Self {
        let header = Header { sequence: Sequence::new(), table: Entry::<T, A>::TABLE };
        Handle { entry: memory::put(Entry { header, value: ManuallyDrop::new(value) }), key }
    }
}

impl<T, A: Address> Handle<T, A> {
    fn entry(&self) -> &Entry<T, A> {
        // SAFETY: the handle owns the entry, and gives it up only by value.
        unsafe { self.entry.as_ref() }
    }

    pub(crate) fn key(&self) -> &Key<A> {
        &self.key
    }

    #[inline]
    pub(crate) fn sequence(&self) -> &Sequence {
        &self.entry().header.sequence
    }

    pub(crate) fn value(&self) -> &T {
        &self.entry().value
    }

    pub(super) fn entry_ref(&self) -> EntryRef<A> {
        EntryRef(self.entry.cast())
    }

    /// The value; the memory is retired.
    ///
    /// # Safety
    /// 1. It has been taken out of the tree (invariant 2).
    /// 2. It was then marked removed and, after that, seen in no slot's `current` (invariant 3).
    pub(super) unsafe fn into_value(self) -> T {
        // SAFETY: 1. we own it; 2. by our clause 2, and the handle is used up; 3. by our clause 1.
        unsafe { Entry::take(self.entry) }
    }

    /// Gives the entry to the graveyard (invariant 4).
    pub(super) fn into_entry_ref(self) -> EntryRef<A> {
        self.entry_ref()
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Header<u64>>() == 64, "a reader touches one line");
