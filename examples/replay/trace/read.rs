//! Reads a file, or standard input, gzipped or not.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::line::{Line, Reason, parse};
use super::{Call, Trace};
use crate::mappings::count_windows;

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The replay has a thread for each of the program's, and machines let a process have only so many.
const MOST_THREADS: usize = 4096;
/// How many windows one call may map: each gets a subscription.
const MOST_WINDOWS: u64 = 1 << 16;

/// What is wrong with a trace, and where.
#[derive(Debug)]
pub(crate) struct TraceError {
    file: String,
    /// From 1; `None` for the file as a whole.
    line: Option<u64>,
    reason: Reason,
}

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.reason),
            None => write!(f, "{}: {}", self.file, self.reason),
        }
    }
}

impl Error for TraceError {}

/// Reads the trace in a file; `-` is standard input. What it maps is to be cut into windows of that size, if any.
pub(crate) fn read(path: &Path, window: Option<u64>) -> Result<Trace, TraceError> {
    let file = path.display().to_string();
    let source: Result<Box<dyn Read>, _> = match file.as_str() {
        "-" => Ok(Box::new(io::stdin().lock())),
        _ => File::open(path).map(|file| Box::new(file) as _),
    };
    let text = source.and_then(plain);
    let text = text.map_err(|error| TraceError { file: file.clone(), line: None, reason: unreadable(&error) })?;
    parse_all(&file, text, window)
}

/// The text, whether it is gzipped or not.
fn plain(source: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut source = BufReader::new(source);
    let gzipped = source.fill_buf()?.starts_with(&GZIP);
    Ok(if gzipped { Box::new(BufReader::new(MultiGzDecoder::new(source))) } else { Box::new(source) })
}

fn parse_all(file: &str, text: impl BufRead, window: Option<u64>) -> Result<Trace, TraceError> {
    let wrong = |line, reason| TraceError { file: file.to_owned(), line, reason };
    let mut trace = Trace { name: name(file), calls: Vec::new(), threads: Vec::new(), failed: 0 };
    let mut threads = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.map_err(|error| wrong(Some(number), unreadable(&error)))?;
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let line = parse(&line).map_err(|reason| wrong(Some(number), reason))?;
        if line.failed {
            trace.failed += 1;
            continue;
        }
        refuse_windows(&line, window).map_err(|reason| wrong(Some(number), reason))?;
        let thread = *threads.entry(line.tid).or_insert_with(|| {
            trace.threads.push(line.tid);
            trace.threads.len() - 1
        });
        if threads.len() > MOST_THREADS {
            return Err(wrong(Some(number), format!("more than {MOST_THREADS} threads")));
        }
        trace.calls.push(call(number, thread, line));
    }
    if trace.calls.is_empty() {
        return Err(wrong(None, "it holds no call that succeeded".to_owned()));
    }
    trace.calls.sort_by_key(|call| call.begin);
    Ok(trace)
}

/// Refuses what would take longer than anybody waits, and more memory than there is.
fn refuse_windows(line: &Line, window: Option<u64>) -> Result<(), Reason> {
    let count = window.map_or(0, |size| count_windows(&line.effect.map, size));
    if count <= MOST_WINDOWS { Ok(()) } else { Err(format!("{count} windows in one call, more than {MOST_WINDOWS}")) }
}

fn unreadable(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the gzip stream ends too early: the file is cut short".to_owned(),
        _ => error.to_string(),
    }
}

fn call(number: u64, thread: usize, line: Line) -> Call {
    let Line { begin, op, took, effect, .. } = line;
    Call { line: number, thread, op, begin, end: begin.saturating_add(took), effect }
}

/// The trace that these lines are.
#[cfg(test)]
pub(crate) fn of(lines: &str) -> Trace {
    parse_all("lines", lines.as_bytes(), None).unwrap()
}

/// The file without its folder and its endings.
fn name(file: &str) -> String {
    if file == "-" {
        return "standard input".to_owned();
    }
    let name = Path::new(file).file_name().map_or_else(|| file.into(), |name| name.to_string_lossy());
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.strip_suffix(".csv").unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    const GOOD: &str =
        "# a comment\n5.0,31,mmap,1000,4096,,1.0,0\n1.0,30,mmap,5000,4096,,1.0,0\n2.0,31,munmap,0,1,,1,22\n";

    fn gzip(text: &str) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    }

    fn read_bytes(bytes: impl Into<Vec<u8>>) -> Result<Trace, String> {
        read_in_windows(bytes, None)
    }

    fn read_in_windows(bytes: impl Into<Vec<u8>>, window: Option<u64>) -> Result<Trace, String> {
        let text = plain(Cursor::new(bytes.into())).unwrap();
        parse_all("some/trace.csv.gz", text, window).map_err(|error| error.to_string())
    }

    #[test]
    fn plain_and_gzipped_are_the_same() {
        for bytes in [GOOD.as_bytes().to_vec(), gzip(GOOD), GOOD.replace('\n', "\r\n").into_bytes()] {
            let trace = read_bytes(bytes).unwrap();
            assert_eq!((trace.name.as_str(), trace.failed), ("trace", 1));
            assert_eq!(trace.threads, [31, 30]);
            let order: Vec<_> = trace.calls.iter().map(|call| (call.line, call.thread)).collect();
            assert_eq!(order, [(3, 1), (2, 0)], "in the order in which they began");
        }
    }

    #[test]
    fn a_malformed_line_is_told_by_its_number() {
        let bad = format!("{GOOD}\n\n9.0,1,mmap,zz,4096,,1.0,0\n");
        let error = read_bytes(bad.as_str()).unwrap_err();
        assert_eq!(error, "some/trace.csv.gz:7: start \"zz\": invalid digit found in string");
        assert_eq!(read_bytes(gzip(&bad)).unwrap_err(), error);
    }

    #[test]
    fn a_gzip_stream_that_is_cut_short_is_told() {
        let whole = gzip(&GOOD.repeat(1000));
        for cut in [whole.len() / 2, whole.len() - 1, 11, 3] {
            let error = read_bytes(&whole[..cut]).unwrap_err();
            assert!(error.ends_with("the gzip stream ends too early: the file is cut short"), "{cut}: {error}");
        }
        let mut damaged = whole;
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        read_bytes(damaged).unwrap_err();
    }

    #[test]
    fn what_holds_no_call_is_no_trace() {
        for empty in ["", "# nothing but a comment\n", "2.0,31,munmap,0,1,,1,22\n"] {
            assert_eq!(read_bytes(empty).unwrap_err(), "some/trace.csv.gz: it holds no call that succeeded");
        }
        assert_eq!(
            read_bytes(b"\xff\xfe,0,mmap,1000,4096,,1.0,0\n").unwrap_err(),
            "some/trace.csv.gz:1: stream did not contain valid UTF-8"
        );
    }

    #[test]
    fn more_windows_than_anybody_waits_for_are_refused() {
        let mapped = |bytes: u64| format!("# one\n0,0,mmap,0,{bytes},,1,0\n");
        let refused = |bytes| read_in_windows(mapped(bytes), Some(4096)).unwrap_err();
        read_in_windows(mapped(MOST_WINDOWS * 4096), Some(4096)).unwrap();
        assert_eq!(refused(MOST_WINDOWS * 4096 + 1), "some/trace.csv.gz:2: 65537 windows in one call, more than 65536");
        assert!(refused(u64::MAX).starts_with("some/trace.csv.gz:2: 4503599627370496 windows"));
        read_bytes(mapped(u64::MAX)).unwrap();
    }

    #[test]
    fn more_threads_than_a_machine_has_are_refused() {
        let threads = |count: usize| (0..count).map(|tid| format!("0,{tid},mmap,0,4096,,1,0\n")).collect::<String>();
        assert_eq!(read_bytes(threads(MOST_THREADS)).unwrap().threads.len(), MOST_THREADS);
        let error = read_bytes(threads(MOST_THREADS + 10)).unwrap_err();
        assert_eq!(error, "some/trace.csv.gz:4097: more than 4096 threads");
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let error = read(Path::new("no/such/trace.csv"), None).unwrap_err().to_string();
        assert!(error.starts_with("no/such/trace.csv: "), "{error}");
    }
}
