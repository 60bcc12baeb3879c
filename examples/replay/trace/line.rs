//! One line: eight fields, or the reason why not.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use super::Effect;

/// A line as it stands.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub(super) begin: Duration,
    pub(super) tid: u64,
    pub(super) op: String,
    pub(super) took: Duration,
    pub(super) failed: bool,
    pub(super) effect: Effect,
}

/// No time of a trace is longer: what sums up or divides times need not fear the largest.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why a line is not one of a trace.
pub(super) type Reason = String;

pub(super) fn parse(line: &str) -> Result<Line, Reason> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [time, tid, op, start, len, flags, took, errno] = fields[..] else {
        return Err(format!("{} fields instead of 8", fields.len()));
    };
    let range = range(number("start", start, Hex::parse)?, number("len", len, u64::from_str)?)?;
    Ok(Line {
        begin: number("time_us", time, micros)?,
        tid: number("tid", tid, u64::from_str)?,
        op: op.to_owned(),
        took: number("dur_us", took, micros)?,
        failed: number("errno", errno, i64::from_str)? != 0,
        effect: effect(op, range, flags)?,
    })
}

/// What the call does. Growing and shrinking mean what they do to the end of the heap.
fn effect(op: &str, range: Range<u64>, flags: &str) -> Result<Effect, Reason> {
    let none = Effect::default();
    Ok(match op {
        "mmap" | "brk_grow" => Effect { map: range, ..none },
        "mmap_fixed" => Effect { change: range.clone(), unmap: range.clone(), map: range },
        "munmap" | "brk_shrink" => Effect { change: range.clone(), unmap: range, ..none },
        "mprotect" => Effect { change: range, ..none },
        "madvise" if drops_pages(number("adv", flag(flags, "adv")?, u64::from_str)?) => {
            Effect { change: range, ..none }
        }
        "mremap" => remap(range, flags)?,
        "madvise" | "brk_query" => none,
        _ => return Err(format!("unknown op {op:?}")),
    })
}

/// Which pieces of advice take pages away: DONTNEED, FREE, REMOVE, PAGEOUT and DONTNEED_LOCKED.
fn drops_pages(advice: u64) -> bool {
    [4, 8, 9, 21, 24].contains(&advice)
}

/// Moves a mapping, or changes its length where it is: then only what is cut off changes.
fn remap(old: Range<u64>, flags: &str) -> Result<Effect, Reason> {
    let hex = |name| number(name, flag(flags, name)?, Hex::parse);
    let new = range(hex("new")?, hex("newlen")?)?;
    if new.start != old.start {
        return Ok(Effect { change: old.clone(), unmap: old, map: new });
    }
    let (cut, grown) = (new.end.min(old.end)..old.end, old.end..new.end.max(old.end));
    Ok(Effect { change: cut.clone(), unmap: cut, map: grown })
}

fn range(start: u64, len: u64) -> Result<Range<u64>, Reason> {
    let end = start.checked_add(len).ok_or_else(|| format!("{len} bytes from {start:x} pass the last address"))?;
    Ok(start..end)
}

/// The value of `name` in `name=value|name=value`.
fn flag<'a>(flags: &'a str, name: &str) -> Result<&'a str, Reason> {
    let value = flags.split('|').find_map(|flag| flag.strip_prefix(name)?.strip_prefix('='));
    value.ok_or_else(|| format!("no {name}= in the flags {flags:?}"))
}

fn number<T, E: std::fmt::Display>(name: &str, text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, Reason> {
    parse(text).map_err(|error| format!("{name} {text:?}: {error}"))
}

/// Hexadecimal digits, as addresses are written.
struct Hex;

impl Hex {
    fn parse(text: &str) -> Result<u64, std::num::ParseIntError> {
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16)
    }
}

/// Microseconds with a fraction, a year at most.
fn micros(text: &str) -> Result<Duration, Reason> {
    let micros: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let time = Duration::try_from_secs_f64(micros / 1e6).map_err(|error| error.to_string())?;
    if time <= LONGEST { Ok(time) } else { Err("longer than a year".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect_of(op: &str, flags: &str) -> Effect {
        parse(&format!("0.0,0,{op},1000,8192,{flags},1.0,0")).unwrap().effect
    }

    #[test]
    fn every_field_is_read() {
        let read = parse("295.6,7,munmap,7fa1b809a000,8192,,13.9,0").unwrap();
        let range = 0x7fa1_b809_a000..0x7fa1_b809_c000;
        assert_eq!((read.begin, read.took), (Duration::from_nanos(295_600), Duration::from_nanos(13_900)));
        assert_eq!((read.tid, read.op.as_str(), read.failed), (7, "munmap", false));
        assert_eq!(read.effect, Effect { change: range.clone(), unmap: range, map: 0..0 });
        assert!(parse("1,7,munmap,0x1000,0,,1,22").unwrap().failed);
    }

    #[test]
    fn a_call_does_what_the_kernel_does() {
        let whole = || 0x1000..0x3000;
        let changes = || Effect { change: whole(), ..Effect::default() };
        assert_eq!(effect_of("mmap", "prot=3|flags=22"), Effect { map: whole(), ..Effect::default() });
        assert_eq!(effect_of("brk_grow", ""), Effect { map: whole(), ..Effect::default() });
        assert_eq!(effect_of("mprotect", "prot=1"), changes());
        assert_eq!(effect_of("madvise", "adv=4"), changes());
        assert_eq!(effect_of("madvise", "adv=14"), Effect::default());
        assert_eq!(effect_of("brk_query", ""), Effect::default());
        assert_eq!(effect_of("munmap", ""), Effect { unmap: whole(), ..changes() });
        assert_eq!(effect_of("mmap_fixed", "prot=3|flags=32"), Effect { unmap: whole(), map: whole(), ..changes() });
    }

    #[test]
    fn a_remap_moves_grows_or_shrinks() {
        let moved = |from: Range<u64>, map| Effect { change: from.clone(), unmap: from, map };
        assert_eq!(effect_of("mremap", "flags=1|new=9000|newlen=4000"), moved(0x1000..0x3000, 0x9000..0xd000));
        assert_eq!(effect_of("mremap", "flags=1|new=1000|newlen=1000"), moved(0x2000..0x3000, 0x3000..0x3000));
        assert_eq!(effect_of("mremap", "flags=1|new=1000|newlen=4000"), moved(0x3000..0x3000, 0x3000..0x5000));
    }

    #[test]
    fn what_is_malformed_is_told_with_the_field() {
        for (text, reason) in [
            ("1,2,3", "3 fields instead of 8"),
            ("", "1 fields instead of 8"),
            ("0.0,0,mmap,1000,8192,,1.0,0,9", "9 fields instead of 8"),
            ("soon,0,mmap,1000,8192,,1.0,0", "time_us \"soon\": invalid float literal"),
            (
                "-1,0,mmap,1000,8192,,1.0,0",
                "time_us \"-1\": cannot convert float seconds to Duration: value is negative",
            ),
            ("1.8e25,0,mmap,1000,8192,,1.0,0", "time_us \"1.8e25\": longer than a year"),
            ("31536000000000,0,mmap,1000,8192,,31536000000001,0", "dur_us \"31536000000001\": longer than a year"),
            ("0,-3,mmap,1000,8192,,1.0,0", "tid \"-3\": invalid digit found in string"),
            ("0,0,fork,1000,8192,,1.0,0", "unknown op \"fork\""),
            ("0,0,mmap,1000g,8192,,1.0,0", "start \"1000g\": invalid digit found in string"),
            ("0,0,mmap,1000,8k,,1.0,0", "len \"8k\": invalid digit found in string"),
            ("0,0,mmap,fffffffffffff000,8192,,1.0,0", "8192 bytes from fffffffffffff000 pass the last address"),
            ("0,0,mmap,1000,8192,,,0", "dur_us \"\": cannot parse float from empty string"),
            ("0,0,mmap,1000,8192,,1.0,ENOMEM", "errno \"ENOMEM\": invalid digit found in string"),
            ("0,0,madvise,1000,8192,,1.0,0", "no adv= in the flags \"\""),
            ("0,0,mremap,1000,8192,flags=1|new=2000,1.0,0", "no newlen= in the flags \"flags=1|new=2000\""),
        ] {
            assert_eq!(parse(text).unwrap_err(), reason, "{text}");
        }
        for time in ["inf", "NaN", "1e300"] {
            assert!(parse(&format!("{time},0,mmap,1000,8192,,1.0,0")).unwrap_err().starts_with("time_us"), "{time}");
        }
    }
}
