//! What a program of notifiers is made of, decoded from bytes as [`ops_from_bytes`](crate::model::ops_from_bytes) does.

use crate::model::op::{Bytes, Range};

/// Types of which a space may have one notifier each.
pub(super) const TYPES: u8 = 2;

/// Operations nest this deep: in callbacks, and between a start and its end.
const DEEPEST: u8 = 3;

/// One step. A `u8` that names something counts modulo how many there are.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Register {
        tlb: bool,
        habits: Habits,
    },
    Unregister(u8),
    DropRegistration(u8),
    /// `get_or_register`; the notifier that it makes, and what it does while it makes it.
    Get {
        of: u8,
        habits: Habits,
        making: Option<Box<Op>>,
    },
    Clone(u8),
    Put(u8),
    Synchronize,
    Start {
        range: Range,
        blocking: bool,
    },
    End(u8),
    Within {
        range: Range,
        blocking: bool,
        inner: Box<Op>,
    },
    Ask(Question, Range),
    /// A subscription, of which only the order of the calls matters here.
    Subscribe {
        range: Range,
        refuses: bool,
    },
    Unsubscribe(u8),
    Release,
}

/// What is called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Start,
    End,
    Asked(Question),
    Release,
}

/// What the owner asks of all, or tells all, besides starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    ClearFlushYoung,
    ClearYoung,
    TestYoung,
    InvalidateTlbs,
}

/// All four.
const QUESTIONS: [Question; 4] =
    [Question::ClearFlushYoung, Question::ClearYoung, Question::TestYoung, Question::InvalidateTlbs];

/// How a notifier behaves.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// Refuses every start that must not block.
    pub(super) refuses: bool,
    /// Panics in this callback, after all else.
    pub(super) panics: Option<Told>,
    /// Its pages are young.
    pub(super) young: bool,
    /// What it does in a callback.
    pub(super) script: Option<(Told, Box<Op>)>,
}

/// The program that `bytes` stands for. It ends where they do.
pub(super) fn ops(bytes: &[u8]) -> Vec<Op> {
    let mut bytes = Bytes::new(bytes);
    std::iter::from_fn(|| op(&mut bytes, 0)).collect()
}

fn op(bytes: &mut Bytes<'_>, depth: u8) -> Option<Op> {
    Some(match bytes.byte()? % 20 {
        0 | 1 => Op::Register { tlb: false, habits: habits(bytes, depth)? },
        2 => Op::Register { tlb: true, habits: habits(bytes, depth)? },
        3 => Op::Unregister(bytes.byte()?),
        4 => Op::DropRegistration(bytes.byte()?),
        5 | 6 => {
            let byte = bytes.byte()?;
            let making =
                if byte & 0b110 == 0b110 && depth < DEEPEST { Some(Box::new(op(bytes, depth + 1)?)) } else { None };
            Op::Get { of: byte % TYPES, habits: habits(bytes, depth)?, making }
        }
        7 => Op::Clone(bytes.byte()?),
        8 | 9 => Op::Put(bytes.byte()?),
        10 => Op::Synchronize,
        11 | 12 => Op::Start { range: bytes.range()?, blocking: bytes.byte()? & 1 == 0 },
        13 | 14 => Op::End(bytes.byte()?),
        15 if depth < DEEPEST => {
            let (range, blocking) = (bytes.range()?, bytes.byte()? & 1 == 0);
            Op::Within { range, blocking, inner: Box::new(op(bytes, depth + 1)?) }
        }
        15..=17 => Op::Ask(QUESTIONS[usize::from(bytes.byte()? & 3)], bytes.range()?),
        18 => Op::Subscribe { range: bytes.range()?, refuses: bytes.byte()? & 3 == 0 },
        _ => match bytes.byte()? {
            0..=15 => Op::Release, // Rare: little happens after it.
            sub => Op::Unsubscribe(sub),
        },
    })
}

fn told(byte: u8) -> Told {
    match byte & 7 {
        0 | 1 => Told::Start,
        2 => Told::End,
        3 => Told::Release,
        _ => Told::Asked(QUESTIONS[usize::from(byte & 3)]),
    }
}

fn habits(bytes: &mut Bytes<'_>, depth: u8) -> Option<Habits> {
    let (byte, when) = (bytes.byte()?, bytes.byte()?);
    let scripted = byte & 0b1000 != 0 && depth < DEEPEST;
    Some(Habits {
        refuses: byte & 0b11 == 0b01,
        panics: (byte & 0b11_0000 == 0b11_0000).then(|| told(when)),
        young: byte & 0b100 != 0,
        script: if scripted { Some((told(when >> 3), Box::new(op(bytes, depth + 1)?))) } else { None },
    })
}
