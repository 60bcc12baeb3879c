//! In which order the threads of a replay take their steps.
//!
//! A call has two steps, its begin and its return. Both are in the trace with a time, so it says for any two steps of
//! different threads which was first, and the replay keeps of it what matters:
//!
//! * a call begins after all calls that had returned before it began in the trace;
//! * it returns after all that had begun before it returned, so that calls that overlapped do so again, and after all
//!   that had returned before it, since a return changes the one table of what is mapped.
//!
//! Begins between two returns are not ordered among each other: there the threads race. All rules follow one total
//! order, so nobody waits in a circle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::trace::{Call, Trace};

/// When a call may take its steps: how many calls must have begun, and returned, before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which begin of all it is.
    begin: usize,
    /// Which return of all it is.
    end: usize,
    /// So many calls have returned when this one begins.
    returned_before_begin: usize,
    /// So many calls have begun when this one returns.
    begun_before_end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    // Returns come first: of two calls that touch, one was over when the other began.
    Return,
    Begin,
}

/// The turns of all calls, by their index in the trace.
///
/// Each thread offers its next step, and the earliest is taken. So the steps of a thread are in order even where the
/// trace's times, which are rounded, are not.
pub(crate) fn turns(trace: &Trace) -> Vec<Turn> {
    let mut turns = vec![Turn::default(); trace.calls.len()];
    let mut queues = by_thread(trace);
    queues.iter_mut().for_each(|queue| queue.reverse());
    let (mut begun, mut returned) = (0, 0);
    let mut next = BinaryHeap::new();
    let offer_begin = |queue: &mut Vec<usize>, earliest: Duration| {
        queue.pop().map(|call| Reverse((trace.calls[call].begin.max(earliest), Step::Begin, call)))
    };
    next.extend(queues.iter_mut().filter_map(|queue| offer_begin(queue, Duration::ZERO)));
    while let Some(Reverse((time, step, call))) = next.pop() {
        let turn = &mut turns[call];
        let of: &Call = &trace.calls[call];
        match step {
            Step::Begin => {
                (turn.begin, turn.returned_before_begin) = (begun, returned);
                begun += 1;
                next.push(Reverse((of.end.max(time), Step::Return, call)));
            }
            Step::Return => {
                (turn.end, turn.begun_before_end) = (returned, begun);
                returned += 1;
                next.extend(offer_begin(&mut queues[of.thread], time));
            }
        }
    }
    turns
}

/// The calls of each thread, by index.
pub(crate) fn by_thread(trace: &Trace) -> Vec<Vec<usize>> {
    let mut queues = vec![Vec::new(); trace.threads.len()];
    trace.calls.iter().enumerate().for_each(|(index, call)| queues[call.thread].push(index));
    queues
}

/// Lets each thread wait for its turn.
#[derive(Debug)]
pub(crate) struct Order {
    begun: Passed,
    returned: Passed,
}

impl Order {
    pub(crate) fn new(calls: usize, threads: usize) -> Self {
        Order { begun: Passed::new(calls, threads), returned: Passed::new(calls, threads) }
    }

    pub(crate) fn wait_to_begin(&self, turn: &Turn, thread: usize) {
        self.returned.wait_for(turn.returned_before_begin, thread);
    }

    pub(crate) fn has_begun(&self, turn: &Turn) {
        self.begun.mark(turn.begin);
    }

    pub(crate) fn wait_to_return(&self, turn: &Turn, thread: usize) {
        self.begun.wait_for(turn.begun_before_end, thread);
        self.returned.wait_for(turn.end, thread);
    }

    pub(crate) fn has_returned(&self, turn: &Turn) {
        self.returned.mark(turn.end);
    }
}

/// How far the steps of one kind have got.
#[derive(Debug)]
struct Passed {
    marks: Mutex<Marks>,
    /// One for each thread: among hundreds only those whose turn has come are woken.
    wake: Vec<Condvar>,
}

#[derive(Debug)]
struct Marks {
    done: Vec<bool>,
    /// All steps before this one are done.
    passed: usize,
    /// For what, and which thread.
    waiting: BinaryHeap<Reverse<(usize, usize)>>,
}

impl Passed {
    fn new(steps: usize, threads: usize) -> Self {
        let marks = Marks { done: vec![false; steps], passed: 0, waiting: BinaryHeap::new() };
        Passed { marks: Mutex::new(marks), wake: (0..threads).map(|_| Condvar::new()).collect() }
    }

    fn wait_for(&self, needed: usize, thread: usize) {
        let mut marks = self.marks();
        if marks.passed < needed {
            marks.waiting.push(Reverse((needed, thread)));
        }
        while marks.passed < needed {
            marks = self.wake[thread].wait(marks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn mark(&self, step: usize) {
        let mut marks = self.marks();
        marks.done[step] = true;
        while marks.done.get(marks.passed) == Some(&true) {
            marks.passed += 1;
        }
        while let Some(&Reverse((needed, thread))) = marks.waiting.peek() {
            if needed > marks.passed {
                break;
            }
            marks.waiting.pop();
            self.wake[thread].notify_one();
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Effect;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread;

    /// Calls of (thread, begin, end), in nanoseconds.
    fn trace(calls: &[(usize, u64, u64)]) -> Trace {
        let call = |(line, &(thread, begin, end)): (u64, &(usize, u64, u64))| Call {
            line,
            thread,
            op: "munmap".to_owned(),
            begin: Duration::from_nanos(begin),
            end: Duration::from_nanos(end),
            effect: Effect::default(),
        };
        let threads = 1 + calls.iter().map(|call| call.0).max().unwrap();
        let calls = (1..).zip(calls).map(call).collect();
        Trace { name: String::new(), calls, threads: (0..threads as u64).collect(), failed: 0 }
    }

    fn turn(begin: usize, end: usize, returned_before_begin: usize, begun_before_end: usize) -> Turn {
        Turn { begin, end, returned_before_begin, begun_before_end }
    }

    #[test]
    fn what_was_over_is_waited_for_and_what_overlapped_is_not() {
        // thread 0 |----|    |--|
        // thread 1    |----|     |-|
        let turns = turns(&trace(&[(0, 0, 5), (1, 3, 8), (0, 10, 13), (1, 14, 16)]));
        assert_eq!(turns, [turn(0, 0, 0, 2), turn(1, 1, 0, 2), turn(2, 2, 2, 3), turn(3, 3, 3, 4)]);
    }

    #[test]
    fn the_steps_of_one_thread_stay_in_order_whatever_their_times() {
        // The second begins before the first is over, the third lasts no time, the fourth begins with it.
        let turns = turns(&trace(&[(0, 0, 5), (0, 4, 4), (0, 6, 6), (0, 6, 7)]));
        for (index, turn) in turns.iter().enumerate() {
            let before = (turn.begin, turn.end, turn.returned_before_begin, turn.begun_before_end);
            assert_eq!(before, (index, index, index, index + 1));
        }
    }

    #[test]
    fn threads_keep_the_order_and_nobody_waits_for_ever() {
        const CALLS: u64 = 400;
        let calls: Vec<_> = (0..CALLS).map(|i| (i as usize % 7, i * 10, i * 10 + i % 4 * 9)).collect();
        let trace = trace(&calls);
        let (turns, queues) = (turns(&trace), by_thread(&trace));
        let order = Order::new(trace.calls.len(), queues.len());
        let (begun, returned) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for (thread, queue) in queues.iter().enumerate() {
                let (order, turns, begun, returned) = (&order, &turns, &begun, &returned);
                scope.spawn(move || {
                    for turn in queue.iter().map(|&call| &turns[call]) {
                        order.wait_to_begin(turn, thread);
                        assert!(returned.load(SeqCst) >= turn.returned_before_begin);
                        begun.fetch_add(1, SeqCst);
                        order.has_begun(turn);
                        order.wait_to_return(turn, thread);
                        assert!(begun.load(SeqCst) >= turn.begun_before_end);
                        assert_eq!(returned.fetch_add(1, SeqCst), turn.end);
                        order.has_returned(turn);
                    }
                });
            }
        });
        assert_eq!(returned.into_inner() as u64, CALLS);
    }
}
