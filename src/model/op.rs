//! What a run is made of: operations over a tiny address space, decoded from bytes.
//!
//! Every byte string is a valid program, so a fuzzer can mutate freely and a seed is as good as a file.

use arbitrary::Unstructured;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// A range as a caller writes it: half-open, closed, unbounded, empty or reversed.
pub(crate) type Range = (Bound<u64>, Bound<u64>);

/// All addresses that ranges begin and end at. Few, so that ranges collide; all of them at the edges.
pub(crate) const KEYS: [u64; 8] = [0, 1, 2, 3, u64::MAX - 3, u64::MAX - 2, u64::MAX - 1, u64::MAX];

/// The number of owners that events and toys may belong to.
pub(crate) const OWNERS: u8 = 2;

/// Nobody's event, or one on behalf of an owner below [`OWNERS`].
pub(crate) type MaybeOwner = Option<u8>;

/// Operations nest this deep: in callbacks, between a start and its end, under a mirror lock.
const DEEPEST: u8 = 3;

/// One step of a run. A `u8` that names a subscription, an open invalidation or a build counts modulo how many there are.
#[derive(Clone, Debug)]
pub enum Op {
    /// Subscribes toy mirrors of one kind: one, or a crowd that takes more than one batch to call back.
    Subscribe { range: Range, habits: Habits, crowd: u8 },
    /// Removes a subscription and takes its value back.
    Unsubscribe(u8),
    /// Drops a subscription.
    Drop(u8),
    /// Starts an invalidation that stays open, as an owned guard.
    Start { range: Range, owner: MaybeOwner, blocking: bool },
    /// Ends any open invalidation.
    End(u8),
    /// Starts an invalidation, does something, and ends it, all on this thread.
    Within { range: Range, owner: MaybeOwner, form: Form, inner: Box<Op> },
    /// Begins a build.
    Begin { sub: u8, how: How },
    /// Asks whether a build is stale already.
    Check(u8),
    /// Finishes a build: the toy takes it, or it is stale.
    Commit(u8),
    /// Builds through `Mirror::update`; an invalidation of `disturb` passes during each of the first `times` attempts.
    Update { sub: u8, disturb: Range, times: u32, build_fails: bool },
    /// Throws pages of a `Mirror` away.
    Evict { sub: u8, range: Range },
    /// Does something while holding the guard of a `Mirror`.
    Locked { sub: u8, inner: Box<Op> },
    /// Releases the address space.
    Release,
}

/// How an invalidation is held open around something else.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// `invalidate`, and the guard ends it.
    Guard,
    /// `try_invalidate`, and the guard ends it.
    TryGuard,
    /// `invalidate_while`.
    Closure,
}

/// Which of the three begins.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// `try_read_begin`.
    Try,
    /// `read_begin_timeout` with no time at all.
    Timeout,
    /// `read_begin`, where it need not wait.
    Wait,
}

/// How a toy mirror behaves in its callback.
#[derive(Clone, Debug)]
pub struct Habits {
    /// A `Mirror` rather than a low-level `Subscription`.
    pub high: bool,
    /// Refuses every start that must not block.
    pub refuses: bool,
    /// Panics in every callback, after it has answered.
    pub panics: bool,
    /// Answers twice; the second answer must not count.
    pub twice: bool,
    /// Whose events do not concern it.
    pub owner: MaybeOwner,
    /// What it does in its callback besides, and whether before it answers.
    pub script: Option<(bool, Box<Op>)>,
}

/// The program that `bytes` stands for. It ends where they do.
pub fn ops_from_bytes(bytes: &[u8]) -> Vec<Op> {
    let mut bytes = Bytes::new(bytes);
    std::iter::from_fn(|| bytes.op(0)).collect()
}

/// The bytes not decoded yet.
#[derive(Debug)]
pub(crate) struct Bytes<'a>(Unstructured<'a>);

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Bytes(Unstructured::new(bytes))
    }

    /// The next byte. A program ends where its bytes do.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        if self.0.is_empty() { None } else { self.0.arbitrary().ok() }
    }

    /// A range in one byte: two keys and the form of the bounds. Forms 0 and 1 are in order, 2 may be reversed.
    pub(crate) fn range(&mut self) -> Option<Range> {
        let byte = self.byte()?;
        let (a, b) = (KEYS[usize::from(byte & 7)], KEYS[usize::from(byte >> 3 & 7)]);
        Some(match byte >> 6 {
            0 => (Included(a.min(b)), Included(a.max(b))),
            1 => (Included(a.min(b)), Excluded(a.max(b))),
            2 => (Excluded(a), Included(b)),
            _ if a == b => (Unbounded, Unbounded),
            _ if a < b => (Unbounded, Excluded(b)),
            _ => (Included(a), Unbounded),
        })
    }

    /// Nobody is as likely as all owners together.
    fn owner(&mut self) -> Option<MaybeOwner> {
        let byte = self.byte()?;
        Some((byte & 1 == 1).then_some((byte >> 1) % OWNERS))
    }

    fn op(&mut self, depth: u8) -> Option<Op> {
        Some(match self.byte()? % 16 {
            0 => Op::Subscribe { range: self.range()?, habits: self.habits(depth)?, crowd: 1 },
            1 => Op::Subscribe { range: self.range()?, habits: self.habits(depth)?, crowd: self.crowd()? },
            2 => Op::Unsubscribe(self.byte()?),
            3 => Op::Drop(self.byte()?),
            4 => Op::Start { range: self.range()?, owner: self.owner()?, blocking: true },
            5 => Op::Start { range: self.range()?, owner: self.owner()?, blocking: false },
            6 | 7 => Op::End(self.byte()?),
            8 if depth < DEEPEST => {
                let (range, owner, form) = (self.range()?, self.owner()?, self.form()?);
                Op::Within { range, owner, form, inner: Box::new(self.op(depth + 1)?) }
            }
            9 | 10 => Op::Begin { sub: self.byte()?, how: self.how()? },
            11 => Op::Check(self.byte()?),
            12 => Op::Commit(self.byte()?),
            13 => {
                let (sub, disturb, byte) = (self.byte()?, self.range()?, self.byte()?);
                Op::Update { sub, disturb, times: u32::from(byte >> 1) % 3, build_fails: byte & 1 == 1 }
            }
            14 if depth < DEEPEST => Op::Locked { sub: self.byte()?, inner: Box::new(self.op(depth + 1)?) },
            15 => match self.byte()? {
                0..=15 => Op::Release, // Rare: little happens after it.
                sub => Op::Evict { sub, range: self.range()? },
            },
            _ => Op::Commit(self.byte()?),
        })
    }

    /// Mostly a few.
    fn crowd(&mut self) -> Option<u8> {
        Some([1, 1, 2, 2, 3, 3, 5, 40][usize::from(self.byte()? & 7)])
    }

    fn form(&mut self) -> Option<Form> {
        Some([Form::Guard, Form::TryGuard, Form::Closure][usize::from(self.byte()? % 3)])
    }

    fn how(&mut self) -> Option<How> {
        Some([How::Try, How::Timeout, How::Wait][usize::from(self.byte()? % 3)])
    }

    /// Half of the toys are plain; one in eight panics, since little is left of a toy that has.
    fn habits(&mut self, depth: u8) -> Option<Habits> {
        let byte = self.byte()?;
        let scripted = byte & 0x80 != 0 && depth < DEEPEST;
        Some(Habits {
            high: byte & 1 != 0,
            refuses: byte & 0b110 == 0b010,
            panics: byte & 0b1110 == 0b0110,
            twice: byte & 0b10000 != 0,
            owner: (byte & 0b10_0000 != 0).then_some(byte >> 6 & 1),
            script: if scripted { Some((byte & 0b1000 != 0, Box::new(self.op(depth + 1)?))) } else { None },
        })
    }
}
