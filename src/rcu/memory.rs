//! Memory for a value that wants a cache line of its own.
//!
//! `Box` would do. But allocators, that of the GNU C library among them, may be several times slower where a type asks for
//! more alignment than all memory has. So what is asked for is more memory instead. The value is put where it is aligned,
//! and before it is noted where its memory begins:
//!
//! ```text
//!  begin                     place, aligned
//!    │  ...  │ begin: a word │ value ...         │  ...  │
//!    ├──── at most ALIGN ────┤
//! ```

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// What memory is asked for to keep a `T`.
struct Memory<T>(T);

impl<T> Memory<T> {
    /// All memory is aligned to two words.
    const WORDS: usize = 2 * size_of::<usize>();
    const ALIGN: usize = if align_of::<T>() > Self::WORDS { align_of::<T>() } else { Self::WORDS };
    const LAYOUT: Layout = match Layout::from_size_align(size_of::<T>() + Self::ALIGN, Self::WORDS) {
        Ok(layout) => layout,
        Err(_) => panic!("it does not fit into any memory"),
    };
}

/// Puts a value into memory of its own, to be given to [`free`].
pub(super) fn put<T>(value: T) -> NonNull<T> {
    // SAFETY: the layout has a size.
    let begin = NonNull::new(unsafe { alloc(Memory::<T>::LAYOUT) });
    let begin = begin.unwrap_or_else(|| handle_alloc_error(Memory::<T>::LAYOUT));
    // Two words or more, and no more than ALIGN: `begin` is a multiple of two words, and so is ALIGN.
    let offset = Memory::<T>::ALIGN - begin.addr().get() % Memory::<T>::ALIGN;
    // SAFETY: by the layout there are ALIGN bytes before what is left for the value.
    let place: NonNull<T> = unsafe { begin.add(offset) }.cast();
    // SAFETY: there are two words or more before `place`.
    let note: NonNull<NonNull<u8>> = unsafe { place.cast().sub(1) };
    // SAFETY: it is in our memory, and aligned because `place` is, to two words or more.
    unsafe { note.write(begin) };
    // SAFETY: it is in our memory, with room for the value behind it, and aligned to ALIGN.
    unsafe { place.write(value) };
    place
}

/// Drops the value and frees its memory.
///
/// # Safety
/// It came from [`put`], and nobody uses it from now on.
pub(super) unsafe fn free<T>(value: NonNull<T>) {
    // SAFETY: by our clause `put` has left a word before it.
    let note: NonNull<NonNull<u8>> = unsafe { value.cast().sub(1) };
    // SAFETY: and has noted there where the memory begins.
    let begin = unsafe { note.read() };
    // SAFETY: the value is there, and nobody else's, by our clause.
    unsafe { value.drop_in_place() };
    // SAFETY: it was allocated by `put` with this layout, and is used no more by our clause.
    unsafe { dealloc(begin.as_ptr(), Memory::<T>::LAYOUT) };
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn is_kept<T: Copy + PartialEq + std::fmt::Debug>(value: T) {
        let places: Vec<_> = (0..20).map(|_| put(value)).collect();
        for place in places {
            assert!(place.is_aligned());
            // SAFETY: just put there, and freed below.
            assert_eq!(unsafe { place.read() }, value);
            // SAFETY: it came from `put` and is dropped from the list.
            unsafe { free(place) };
        }
    }

    #[test]
    fn a_value_of_any_alignment_is_kept() {
        #[repr(align(64))]
        #[derive(Clone, Copy, Debug, PartialEq)]
        struct Line([u8; 64]);
        #[repr(align(4096))]
        #[derive(Clone, Copy, Debug, PartialEq)]
        struct Page(u64);
        is_kept(());
        is_kept(7_u8);
        is_kept(7_u128);
        is_kept(Line([7; 64]));
        is_kept(Page(7));
    }
}
