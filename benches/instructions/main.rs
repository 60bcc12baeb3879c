//! One path, repeated: what `.ci/instructions` counts the instructions of. By itself it shows nothing.
//!
//! `instructions WORKLOAD N TIMES`. It is built against two versions of the library, so it uses nothing but its public
//! interface, and no other crate.

#[path = "../layout/mod.rs"]
mod layout;

use interval_notifier::{Ack, AddressSpace, Call, EventKind, Invalidate, Subscription, WouldBlock};
use layout::SplitMix64;
use std::process::ExitCode;
use std::sync::Mutex;

/// A mutex of the user's, and nothing else to do.
struct Own(Mutex<u64>);

impl Invalidate for Own {
    type Locked = u64;
    fn invalidate(&self, call: &Call<'_, u64>) -> Result<Ack, WouldBlock> {
        Ok(call.set_seq(&mut self.0.lock().unwrap()))
    }
}

#[derive(Clone, Copy)]
enum Workload {
    W1,
    W3,
    W4,
    W5,
    W6,
}

struct Filled {
    space: AddressSpace,
    subs: Vec<Subscription<Own>>,
    n: u64,
}

fn filled(n: u64) -> Filled {
    let space = AddressSpace::new();
    let subscribe = |range| space.subscribe(range, Own(Mutex::new(0))).expect("the range is not empty");
    Filled { subs: layout::slots(n).into_iter().map(subscribe).collect(), space, n }
}

/// The counter looks at nothing but this function and what it calls. `W1` is so written that whatever is stored or called
/// in its loop is the library's.
#[inline(never)]
fn measured(workload: Workload, filled: &Filled, times: u64) -> u64 {
    let Filled { space, subs, n } = filled;
    let (random, mut stale) = (&mut SplitMix64(7), 0);
    match workload {
        Workload::W1 => {
            for _ in 0..times {
                let Ok(seq) = subs[0].read_begin() else { return 1 };
                stale |= u64::from(subs[0].check_retry(&seq));
            }
        }
        Workload::W3 => (0..times).for_each(|_| space.invalidate(layout::miss(random, *n), EventKind::Clear).end()),
        Workload::W4 => (0..times).for_each(|_| space.invalidate(layout::hit_1(random, *n), EventKind::Clear).end()),
        Workload::W5 => (0..times).for_each(|_| space.invalidate(layout::hit_100(random, *n), EventKind::Clear).end()),
        Workload::W6 => (0..times).for_each(|_| {
            let sub = space.subscribe(layout::in_gap(random, *n, 0, 1), Own(Mutex::new(0)));
            drop(sub.expect("the range is not empty").unsubscribe());
        }),
    }
    stale
}

fn parse(args: &[String]) -> Option<(Workload, u64, u64)> {
    let [workload, n, times] = args else { return None };
    let workload = match workload.as_str() {
        "W1" => Workload::W1,
        "W3" => Workload::W3,
        "W4" => Workload::W4,
        "W5" => Workload::W5,
        "W6" => Workload::W6,
        _ => return None,
    };
    let n = n.parse().ok().filter(|&n| n >= 100)?;
    Some((workload, n, times.parse().ok()?))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["--bench"] {
        println!("instructions: run .ci/instructions, which counts them");
        return ExitCode::SUCCESS;
    }
    let Some((workload, n, times)) = parse(&args) else {
        eprintln!("usage: instructions W1|W3|W4|W5|W6 N TIMES, with N at least 100");
        return ExitCode::from(2);
    };
    let filled = filled(n);
    // So that what happens once, such as a thread's registration, is not counted.
    measured(workload, &filled, 1);
    match measured(workload, &filled, times) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
