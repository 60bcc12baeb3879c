//! Who is subscribed, and who is being called.

use super::entry::{Answer, Context, EntryRef, Handle, Listener};
use crate::event::random_u64;
use crate::finish::Finish;
use crate::panics::Panics;
use crate::range::{Address, Span};
use crate::seq::{BIRTH, Sequence};
use crate::slots::{BATCH, Identity, Slot, Slots};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use crate::sync::{CHECKED, Mutex, epoch, lock};
use crate::tree::{Key, Tree};
use arrayvec::ArrayVec;
use std::ops::{ControlFlow, Deref, DerefMut};

/// A new subscription.
pub(crate) struct Inserted<T, A: Address> {
    pub(crate) handle: Handle<T, A>,
    /// The invalidations that were active over it when it was inserted.
    pub(crate) births: Box<[Identity]>,
}

/// The subscriptions of a space, the invalidations in flight, and how they keep out of each other's way.
pub(crate) struct Registry<A: Address> {
    tree: Tree<A, EntryRef<A>>,
    /// Number of the next subscription; written under the tree's lock.
    next_id: AtomicU64,
    /// Does `insert` refuse? Under the tree's lock.
    released: AtomicBool,
    pub(crate) slots: Slots<A>,
    /// Removed where nobody may wait: marked, but perhaps still called.
    graveyard: Mutex<Vec<EntryRef<A>>>,
    /// How many are in the graveyard; a hint.
    buried: AtomicUsize,
}

impl<A: Address> Registry<A> {
    pub(crate) fn new() -> Self {
        // Numbers start anywhere, so that a `ReadSeq` of another space is known for what it is.
        let next_id = if CHECKED { 1 } else { random_u64() >> 2 | 1 };
        Registry {
            tree: Tree::new(),
            next_id: AtomicU64::new(next_id),
            released: AtomicBool::new(false),
            slots: Slots::new(),
            graveyard: Mutex::new(Vec::new()),
            buried: AtomicUsize::new(0),
        }
    }

    /// Adds a subscription; gives the value back if the space is released.
    pub(crate) fn insert<T: Listener<A>>(&self, span: Span<A>, value: T) -> Result<Inserted<T, A>, T> {
        let mut tree = self.tree.write();
        // Relaxed, all three: written under the lock. Searches read `next_id` without it: see `Batch::search`.
        if self.released.load(Relaxed) {
            return Err(value);
        }
        let id = self.next_id.load(Relaxed);
        let key = Key::new(span, id);
        let handle = Handle::new(key, value);
        tree.insert(key, handle.entry_ref());
        self.next_id.store(id + 1, Relaxed);
        drop(tree);

        let births = self.slots.active_over(span);
        if births.is_empty() {
            // If it has been closed already, its begins will say so.
            let _ = handle.sequence().settle(BIRTH);
        }
        Ok(Inserted { handle, births })
    }

    /// From now on `insert` refuses. False if it was so already.
    pub(crate) fn release(&self) -> bool {
        let _writing = self.tree.write();
        // Relaxed, both: under the lock.
        let released = self.released.load(Relaxed);
        self.released.store(true, Relaxed);
        !released
    }

    /// Takes the subscription out: no invalidation that starts now finds it, no batch that looks now calls it.
    fn unlink<T>(&self, handle: &Handle<T, A>) {
        let removed = self.tree.write().remove(handle.key());
        assert!(removed, "it is in the tree until its handle takes it out");
        handle.sequence().mark_removed();
    }

    /// Ends a subscription and gives its value back. Waits for the batches that hold it.
    pub(crate) fn remove<T>(&self, handle: Handle<T, A>) -> T {
        self.unlink(&handle);
        let unwinding = BuryOnDrop { registry: self, entry: handle.entry_ref() };
        self.slots.wait_uncalled(handle.entry_ref().address());
        std::mem::forget(unwinding);
        // SAFETY: 1. `unlink` has taken it out of the tree; 2. and marked it, after which we have waited.
        unsafe { handle.into_value() }
    }

    /// Ends a subscription where nobody may wait; its value is dropped by a later [`sweep`](Self::sweep).
    pub(crate) fn bury<T>(&self, handle: Handle<T, A>) {
        self.unlink(&handle);
        self.inter(handle.into_entry_ref());
    }

    fn inter(&self, entry: EntryRef<A>) {
        let mut graveyard = lock(&self.graveyard);
        graveyard.push(entry);
        self.buried.store(graveyard.len(), Relaxed);
    }

    /// Is anything in the graveyard? A hint.
    pub(crate) fn has_buried(&self) -> bool {
        self.buried.load(Relaxed) != 0
    }

    /// Drops what was buried and is no longer called. The caller holds no lock that the drop of a value may want.
    pub(crate) fn sweep(&self) {
        while let Some(entry) = self.exhume() {
            // SAFETY: 1. `exhume` has taken it from the graveyard for us; 2. and has looked into every slot.
            unsafe { entry.bury() };
        }
    }

    /// Takes one that nobody calls any more out of the graveyard.
    fn exhume(&self) -> Option<EntryRef<A>> {
        let mut graveyard = lock(&self.graveyard);
        let uncalled = graveyard.iter().position(|entry| self.slots.is_uncalled(entry.address()))?;
        let entry = graveyard.swap_remove(uncalled);
        self.buried.store(graveyard.len(), Relaxed);
        Some(entry)
    }

    pub(crate) fn len(&self) -> usize {
        self.tree.write().len()
    }
}

impl<A: Address> Drop for Registry<A> {
    fn drop(&mut self) {
        // Nobody is called any more, as nobody has the space.
        self.sweep();
    }
}

/// A wait for callbacks that ends in a panic, as it would never end otherwise: the value is dropped by a later sweep.
struct BuryOnDrop<'r, A: Address> {
    registry: &'r Registry<A>,
    entry: EntryRef<A>,
}

impl<A: Address> Drop for BuryOnDrop<'_, A> {
    fn drop(&mut self) {
        // INVARIANT 4: its handle is dropped by the same panic, and not used again.
        self.registry.inter(self.entry);
    }
}

/// How far a search has come.
#[derive(Debug)]
pub(crate) struct Cursor<A: Address> {
    span: Span<A>,
    /// The last one that was found.
    after: Option<Key<A>>,
    /// Subscriptions with this number or a higher one were not there at the first look. They have found this
    /// invalidation in its slot and wait for it; calling them too could go on for ever.
    limit: Option<u64>,
    exhausted: bool,
}

impl<A: Address> Cursor<A> {
    pub(crate) fn new(span: Span<A>) -> Self {
        Cursor { span, after: None, limit: None, exhausted: false }
    }
}

/// A subscription that is to be called back.
#[derive(Clone, Copy)]
struct Found<A: Address> {
    key: Key<A>,
    entry: EntryRef<A>,
}

/// Those to be called back next. While they are in here, removers wait for them.
pub(crate) struct Batch<'r, A: Address> {
    registry: &'r Registry<A>,
    slot: &'r Slot<A>,
    found: ArrayVec<Found<A>, BATCH>,
    /// How many the slot holds for us; some of them may have been removed before we looked.
    held: usize,
}

impl<'r, A: Address> Batch<'r, A> {
    /// A batch of the invalidation that has claimed `slot`, empty at first.
    pub(crate) fn new(registry: &'r Registry<A>, slot: &'r Slot<A>) -> Self {
        Batch { registry, slot, found: ArrayVec::new(), held: 0 }
    }

    pub(crate) fn slot(&self) -> &'r Slot<A> {
        self.slot
    }

    /// Searches for the first ones. False if there are none.
    #[inline]
    pub(crate) fn fill_first(&mut self, cursor: &mut Cursor<A>) -> bool {
        self.search(cursor);
        // If all that were found have been removed, the slot holds them still.
        !self.found.is_empty() || (self.held != 0 && self.fill(cursor))
    }

    /// Lets go of the last ones and searches for the next. False if there are no more.
    pub(crate) fn fill(&mut self, cursor: &mut Cursor<A>) -> bool {
        loop {
            self.let_go();
            if cursor.exhausted {
                return false;
            }
            self.search(cursor);
            if !self.found.is_empty() {
                return true;
            }
        }
    }

    #[inline]
    fn search(&mut self, cursor: &mut Cursor<A>) {
        let guard = epoch::pin();
        // Relaxed: the fence in `Slot::open` came before. If that of a subscriber came before ours, we see that its number
        // is taken, and its subscription is there to be found; otherwise it finds us in our slot.
        let limit = *cursor.limit.get_or_insert_with(|| self.registry.next_id.load(Relaxed));
        let found = &mut self.found;
        self.registry.tree.overlapping(&guard, cursor.span, cursor.after, |key, entry| {
            if key.id < limit {
                entry.prefetch();
                found.push(Found { key, entry });
            }
            if found.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        cursor.exhausted = !found.is_full();
        if let Some(last) = found.last() {
            cursor.after = Some(last.key);
            self.hold(guard);
        }
    }

    /// Keeps removers from what was found, and drops what has been removed.
    fn hold(&mut self, guard: epoch::Guard) {
        let found = &mut self.found;
        self.slot.hold(found.iter().map(|hit| hit.entry.address()));
        self.held = found.len();
        // Only those that were not marked when we looked, after the fence in `hold`, are protected by `current`
        // (invariant 3); the others are not to be touched after the pin.
        // SAFETY: the entry was found in a tree loaded under `guard`, which is still pinned.
        let is_silent = |hit: &Found<A>| unsafe { hit.entry.sequence() }.is_silent();
        if found.iter().any(is_silent) {
            found.retain(|hit| !is_silent(hit));
        }
        drop(guard);
    }

    /// Whoever fills a batch and finds something has it let go.
    pub(crate) fn let_go_on_drop(&mut self) -> LetGoOnDrop<'_, 'r, A> {
        LetGoOnDrop(self)
    }

    fn let_go(&mut self) {
        self.found.clear();
        match std::mem::take(&mut self.held) {
            0 => {}
            held => self.slot.let_go(held),
        }
    }

    /// Those of this batch, ascending.
    pub(crate) fn hits(&self) -> impl Iterator<Item = Hit<'_, A>> {
        self.found.iter().map(|found| Hit { found, batch: self })
    }
}

/// Lets go of a batch, whatever happens: nothing of it is called after this.
pub(crate) struct LetGoOnDrop<'b, 'r, A: Address>(&'b mut Batch<'r, A>);

impl<'r, A: Address> Deref for LetGoOnDrop<'_, 'r, A> {
    type Target = Batch<'r, A>;
    fn deref(&self) -> &Batch<'r, A> {
        self.0
    }
}

impl<A: Address> DerefMut for LetGoOnDrop<'_, '_, A> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0
    }
}

impl<A: Address> Drop for LetGoOnDrop<'_, '_, A> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// One of a batch.
pub(crate) struct Hit<'b, A: Address> {
    found: &'b Found<A>,
    batch: &'b Batch<'b, A>,
}

impl<'b, A: Address> Hit<'b, A> {
    pub(crate) fn key(&self) -> &'b Key<A> {
        &self.found.key
    }

    pub(crate) fn sequence(&self) -> &'b Sequence {
        // SAFETY: the entry is in `batch`, which is borrowed for `'b`.
        unsafe { self.found.entry.sequence() }
    }

    /// Calls it back.
    pub(crate) fn call(&self, context: &Context<'_, A>) -> Answer {
        self.batch.slot.set_calling(self.found.key.id);
        // SAFETY: the entry is in `batch`, which is borrowed for longer than this call.
        unsafe { self.found.entry.hear(context) }
    }
}

/// A finish that has yet to run, and whose it is.
struct Pending<A: Address> {
    id: u64,
    entry: EntryRef<A>,
    finish: Box<dyn Finish>,
}

/// The second pass of an invalidation. Those that take part in it are not removed before it is over.
///
/// Dropping it runs what has not run yet: also after a refusal and after a panic every start is finished.
pub(crate) struct Finishing<'r, A: Address> {
    slot: &'r Slot<A>,
    pending: Vec<Pending<A>>,
}

impl<'r, A: Address> Finishing<'r, A> {
    /// The second pass of the invalidation that has claimed `slot`.
    pub(crate) fn new(slot: &'r Slot<A>) -> Self {
        Finishing { slot, pending: Vec::new() }
    }

    /// `hit` has started and is to be finished.
    pub(crate) fn push(&mut self, hit: &Hit<'_, A>, finish: Box<dyn Finish>) {
        let Found { key, entry } = *hit.found;
        self.slot.hold_longer(entry.address());
        self.pending.push(Pending { id: key.id, entry, finish });
    }

    /// Runs the finishes, in the order of their starts, and what they return after them. All of them run; a panic of
    /// one poisons its subscription and goes on when all have run.
    #[inline]
    pub(crate) fn run(&mut self) {
        if !self.pending.is_empty() {
            self.run_pending();
        }
    }

    #[cold]
    fn run_pending(&mut self) {
        let panics = Panics::default();
        while !self.pending.is_empty() {
            for Pending { id, entry, finish } in std::mem::take(&mut self.pending) {
                self.slot.set_calling(id);
                match panics.catch(|| finish.finish()) {
                    Some(None) => {}
                    Some(Some(finish)) => self.pending.push(Pending { id, entry, finish }),
                    // SAFETY: the slot holds the entry in `finishing`, as it would in `current` (invariant 3).
                    None => unsafe { entry.sequence() }.silence(),
                }
            }
        }
        self.slot.set_calling(0);
        self.slot.let_finished_go();
        panics.resume();
    }
}

impl<A: Address> Drop for Finishing<'_, A> {
    fn drop(&mut self) {
        self.run();
    }
}
