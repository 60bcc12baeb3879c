//! Memory for a value that wants a cache line of its own.
//!
//! `Box` would do. But allocators, that of the GNU C library among them, may be several times slower where a type asks for
//! more alignment than all memory has. So what is asked for is more memory instead. The value is put at the first place in
//! it that is aligned, and behind it is noted where the memory begins:
//!
//! ```text
//!  begin            place, aligned
//!    │     ...        │ value         │ begin: a word │ ...  │
//!    ├─ at most ROOM ─┤
//! ```

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// What memory is asked for to keep a `T`.
struct Memory<T>(T);

impl<T> Memory<T> {
    /// All memory is aligned to two words.
    const WORDS: usize = 2 * size_of::<usize>();
    const ROOM: usize = align_of::<T>().saturating_sub(Self::WORDS);
    const LAYOUT: Layout = {
        assert!(align_of::<T>() >= align_of::<usize>(), "what is behind it is aligned for a word");
        match Layout::from_size_align(Self::ROOM + size_of::<T>() + size_of::<usize>(), Self::WORDS) {
            Ok(layout) => layout,
            Err(_) => panic!("it does not fit into any memory"),
        }
    };
}

/// Puts a value into memory of its own, to be given to [`free`].
pub(super) fn put<T>(value: T) -> NonNull<T> {
    // SAFETY: the layout has a size: that of a word or more.
    let begin = NonNull::new(unsafe { alloc(Memory::<T>::LAYOUT) });
    let begin = begin.unwrap_or_else(|| handle_alloc_error(Memory::<T>::LAYOUT));
    // No more than ROOM: `begin` is a multiple of two words, and so is the alignment, if it is more than that.
    let offset = begin.addr().get().next_multiple_of(align_of::<T>()) - begin.addr().get();
    // SAFETY: by the layout there are ROOM bytes besides those of the value and the note.
    let place: NonNull<T> = unsafe { begin.add(offset) }.cast();
    // SAFETY: it is in our memory, with room for the value and the note behind it, and aligned.
    unsafe { place.write(value) };
    // SAFETY: there is a word behind the value.
    let note: NonNull<NonNull<u8>> = unsafe { place.add(1) }.cast();
    // SAFETY: it is in our memory, and aligned because sizes are multiples of alignments.
    unsafe { note.write(begin) };
    place
}

/// Drops the value and frees its memory.
///
/// # Safety
/// It came from [`put`], and nobody uses it from now on.
pub(super) unsafe fn free<T>(value: NonNull<T>) {
    // SAFETY: by our clause `put` has left a word behind it.
    let note: NonNull<NonNull<u8>> = unsafe { value.add(1) }.cast();
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
        // Nothing but a tool for memory would notice that there is too little.
        assert_eq!(Memory::<[usize; 3]>::LAYOUT.size(), size_of::<[usize; 4]>());
        assert_eq!(Memory::<Line>::LAYOUT.size(), 64 - 2 * size_of::<usize>() + 64 + size_of::<usize>());
        is_kept([7_usize; 3]);
        is_kept(7_u128);
        is_kept(Line([7; 64]));
        is_kept(Page(7));
    }
}
