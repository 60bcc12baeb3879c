//! A registration cache of an RDMA library: a mirror for each registered buffer, evicted when there are too many,
//! with a send that blocks and one that is async.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use interval_notifier::{AddressSpace, BeginError, Change, Collision, EventKind, Mirror, MirrorState, Retry};

/// The network card: it pins pages, and sends what was in them when they were pinned.
#[derive(Default)]
struct Nic {
    /// What the application's pages hold; a remap changes it.
    content: AtomicU32,
    pinned: AtomicU32,
    fails_to_pin: AtomicBool,
    sent: Mutex<Vec<u32>>,
}

/// A memory region registered with the card; dropping it unpins the pages.
struct Mr {
    content: u32,
    nic: Arc<Nic>,
}

impl Drop for Mr {
    fn drop(&mut self) {
        self.nic.pinned.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, PartialEq)]
struct PinError(i32);

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pinning failed with error {}", self.0)
    }
}

impl std::error::Error for PinError {}

#[derive(Default)]
struct Reg {
    mr: Option<Mr>,
}

impl MirrorState<usize> for Reg {
    fn invalidate(&mut self, _: &Change<usize>) {
        self.mr = None;
    }
}

/// Address and length.
type Key = (usize, usize);
/// When it was last used, and the registration.
type Entry = (u64, Arc<Mirror<Reg, usize>>);
type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Cache {
    space: AddressSpace<usize>,
    map: Mutex<HashMap<Key, Entry>>,
    clock: AtomicU64,
    capacity: usize,
    nic: Arc<Nic>,
}

impl Cache {
    fn new(capacity: usize) -> Self {
        let (space, nic) = Default::default();
        Cache { space, map: Mutex::default(), clock: AtomicU64::new(0), capacity, nic }
    }

    fn entry(&self, key: Key) -> Result<Arc<Mirror<Reg, usize>>, Failure> {
        let now = self.clock.fetch_add(1, Relaxed);
        let mut map = self.map.lock().unwrap();
        if let Some((used, mirror)) = map.get_mut(&key) {
            *used = now;
            return Ok(Arc::clone(mirror));
        }
        let full = map.len() >= self.capacity;
        let oldest = full.then(|| map.iter().min_by_key(|(_, entry)| entry.0).map(|(key, _)| *key)).flatten();
        let victim = oldest.and_then(|key| map.remove(&key));
        let mirror = Arc::new(self.space.mirror(key.0..key.0 + key.1, Reg::default())?);
        map.insert(key, (now, Arc::clone(&mirror)));
        drop(map);
        drop(victim); // waits for callbacks: never under `map`
        Ok(mirror)
    }

    fn send(&self, key: Key) -> Result<(), Failure> {
        let mirror = self.entry(key)?;
        loop {
            if let Some(mr) = &mirror.lock()?.mr {
                self.post(mr); // the guard is held: an invalidation waits
                return Ok(());
            }
            mirror.update(
                Retry::times(8).and_within(Duration::from_secs(10)),
                |attempt| if attempt.is_stale() { Err(PinError(11)) } else { self.pin() },
                |reg, mr| reg.mr = Some(mr),
            )?;
        }
    }

    async fn send_async(&self, key: Key) -> Result<(), Failure> {
        let mirror = self.entry(key)?;
        loop {
            if let Some(mr) = &mirror.lock()?.mr {
                self.post(mr);
                return Ok(());
            }
            let seq = match mirror.try_read_begin() {
                Ok(seq) => seq,
                Err(BeginError::Active) => {
                    YieldNow::default().await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let mr = self.pin_async().await?;
            match mirror.commit(seq, mr, |reg, mr| reg.mr = Some(mr)) {
                Ok(()) => {}
                Err(Collision(mr)) => drop(mr),
            }
        }
    }

    fn pin(&self) -> Result<Mr, PinError> {
        if self.nic.fails_to_pin.load(Relaxed) {
            return Err(PinError(14));
        }
        self.nic.pinned.fetch_add(1, Relaxed);
        Ok(Mr { content: self.nic.content.load(Relaxed), nic: Arc::clone(&self.nic) })
    }

    /// The pages are read at once, and handed over at the next poll.
    async fn pin_async(&self) -> Result<Mr, PinError> {
        let mr = self.pin();
        YieldNow::default().await;
        mr
    }

    fn post(&self, mr: &Mr) {
        assert_eq!(mr.content, self.nic.content.load(Relaxed), "a stale page is sent");
        self.nic.sent.lock().unwrap().push(mr.content);
    }

    /// The application remaps its pages.
    fn remap(&self, content: u32) {
        self.space.invalidate_while(.., EventKind::Unmap, || self.nic.content.store(content, Relaxed));
    }

    fn sent(&self) -> Vec<u32> {
        self.nic.sent.lock().unwrap().clone()
    }
}

/// Ready when it is polled for the second time.
#[derive(Default)]
struct YieldNow(bool);

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

const BUFFER: Key = (0x1000, 0x2000);

#[test]
fn a_registration_is_reused_until_its_pages_are_remapped() {
    let cache = Cache::new(8);
    cache.send(BUFFER).unwrap();
    cache.send(BUFFER).unwrap();
    cache.remap(1);
    assert_eq!(cache.nic.pinned.load(Relaxed), 0, "an invalidated registration is unpinned");
    cache.send(BUFFER).unwrap();
    assert_eq!(cache.sent(), [0, 0, 1]);
}

#[test]
fn sends_from_several_threads_during_remaps_are_never_stale() {
    let cache = Cache::new(8);
    const REMAPS: u32 = 500;
    let pause = || thread::sleep(Duration::from_micros(1));
    thread::scope(|scope| {
        for buffer in [BUFFER, (0x2000, 0x2000)] {
            let cache = &cache;
            scope.spawn(move || {
                while cache.nic.content.load(Relaxed) < REMAPS {
                    cache.send(buffer).unwrap();
                    pause();
                    block_on(cache.send_async(buffer)).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for content in 1..=REMAPS {
                cache.remap(content);
                pause();
            }
        });
    });
    let mut sent = cache.sent();
    sent.dedup();
    assert!(sent.len() > 10, "too few remaps came between the sends: {}", sent.len());
}

#[test]
fn the_oldest_registration_is_evicted() {
    let cache = Cache::new(2);
    for page in [1, 2, 1, 3] {
        cache.send((page << 12, 1 << 12)).unwrap();
    }
    assert_eq!(cache.nic.pinned.load(Relaxed), 2);
    let map = cache.map.lock().unwrap();
    let mut kept: Vec<_> = map.keys().map(|key| key.0 >> 12).collect();
    kept.sort();
    assert_eq!(kept, [1, 3]);
}

#[test]
fn a_failure_to_pin_is_given_back_as_it_is() {
    let cache = Cache::new(8);
    cache.nic.fails_to_pin.store(true, Relaxed);
    let error = cache.send(BUFFER).unwrap_err();
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&PinError(14)));
    let error = block_on(cache.send_async(BUFFER)).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&PinError(14)));
}

#[test]
fn an_async_build_that_was_overtaken_is_done_again() {
    fn spawnable<F: Future + Send>(future: F) -> F {
        future
    }
    let cache = Cache::new(8);
    let mut send = pin!(spawnable(cache.send_async(BUFFER)));
    let pending = send.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(pending.is_pending(), "the pages are pinned, the registration is not committed");
    cache.remap(1);
    block_on(send).unwrap();
    assert_eq!(cache.sent(), [1]);
    assert_eq!(cache.nic.pinned.load(Relaxed), 1, "the overtaken registration was given back and dropped");
}

#[test]
fn an_async_send_waits_without_blocking_while_its_pages_are_remapped() {
    let cache = Cache::new(8);
    let change = cache.space.invalidate(.., EventKind::Unmap);
    let mut send = pin!(cache.send_async(BUFFER));
    assert!(send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(cache.nic.pinned.load(Relaxed), 0, "it has not begun");
    change.end();
    block_on(send).unwrap();
    assert_eq!(cache.sent(), [0]);
}

#[test]
fn the_state_comes_back_when_its_mirror_goes() {
    let cache = Cache::new(8);
    let mirror: Mirror<Reg, usize> = cache.space.mirror(.., Reg::default()).unwrap();
    mirror.update(Retry::forever(), |_| cache.pin(), |reg, mr| reg.mr = Some(mr)).unwrap();
    drop(mirror.evict(|reg| reg.mr.take()).unwrap());
    assert_eq!(cache.nic.pinned.load(Relaxed), 0);
    let reg: Reg = mirror.unsubscribe().unwrap();
    assert!(reg.mr.is_none());
}
