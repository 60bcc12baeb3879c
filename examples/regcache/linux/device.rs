//! What a registration cache needs of a device, and the choice of one that works on this machine.
//!
//! **A device mirrors memory.** Registering a range pins the pages that are there at that moment. From then on the
//! device sends from *those pages*, whatever the owner maps at the addresses later: an RDMA adapter does this, and so
//! do the two devices here, which need no hardware. To send what the owner sees now, the range must be registered anew.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::options::DeviceChoice;
use super::pipe::Pipe;
use super::sys::{Pages, SysError};
use super::uring::Uring;

/// A device that sends from registered memory.
pub(crate) trait Device: Send + Sync + 'static {
    /// A registered range, as the device knows it.
    type Handle: Send + Sync + 'static;

    /// The name on the command line and in the results.
    const NAME: &'static str;
    /// The name, and what the device is made of.
    const DESCRIPTION: &'static str;

    /// Pins the pages of `range`, which must be whole pages, as they are now.
    fn register(&self, range: &Range<usize>) -> Result<Self::Handle, SysError>;

    /// Sends the page at the address `page` of a registered range and returns the generation that arrived.
    fn send(&self, handle: &Self::Handle, page: usize) -> Result<u64, SysError>;

    /// Lets the pinned pages go.
    fn unregister(&self, handle: Self::Handle) -> Result<(), SysError>;
}

/// A registered range that is unregistered when it is dropped, on every path.
pub(crate) struct Registration<D: Device> {
    device: Arc<D>,
    /// Taken by `drop` alone.
    handle: Option<D::Handle>,
}

impl<D: Device> Registration<D> {
    pub(crate) fn new(device: &Arc<D>, range: &Range<usize>) -> Result<Self, SysError> {
        let handle = Some(device.register(range)?);
        Ok(Registration { device: Arc::clone(device), handle })
    }

    pub(crate) fn send(&self, page: usize) -> Result<u64, SysError> {
        self.device.send(self.handle.as_ref().expect("only drop takes it"), page)
    }
}

impl<D: Device> Drop for Registration<D> {
    fn drop(&mut self) {
        let handle = self.handle.take().expect("only drop takes it");
        if let Err(error) = self.device.unregister(handle) {
            // Nothing is wrong with what was sent, but pages stay pinned: say it and go on.
            eprintln!("regcache: {error}");
        }
    }
}

/// Takes a lock of a device whether or not a sender panicked under it: what they protect is whole between any two
/// steps, and registrations must go away while the panic unwinds.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that has been seen to work.
pub(crate) enum Opened {
    Uring(Arc<Uring>),
    Pipe(Arc<Pipe>),
}

/// Opens the device asked for; `auto` takes io_uring if it is allowed here and else pipes, and says why.
pub(crate) fn open(choice: DeviceChoice) -> Result<Opened, SysError> {
    match choice {
        DeviceChoice::Uring => open_uring(),
        DeviceChoice::Pipe => open_pipe(),
        DeviceChoice::Auto => open_uring().or_else(|error| {
            eprintln!("regcache: io_uring cannot be used here ({error}), pipes can");
            open_pipe()
        }),
    }
}

fn open_uring() -> Result<Opened, SysError> {
    let device = Uring::open()?;
    probe(&device)?;
    Ok(Opened::Uring(Arc::new(device)))
}

fn open_pipe() -> Result<Opened, SysError> {
    let device = Pipe::open()?;
    probe(&device)?;
    Ok(Opened::Pipe(Arc::new(device)))
}

/// Registers a page and sends it: containers and old kernels refuse either, each at another call.
fn probe<D: Device>(device: &D) -> Result<(), SysError> {
    const STAMP: u64 = 0x5eed;
    let pages = Pages::map(1)?;
    pages.stamp(0, STAMP);
    let handle = device.register(&pages.range())?;
    let sent = device.send(&handle, pages.range().start);
    device.unregister(handle)?;
    assert_eq!(sent?, STAMP, "{} must deliver the page that was registered", D::NAME);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The property the whole example rests on: the device mirrors pages, not addresses.
    fn a_registration_sends_the_page_it_pinned<D: Device>(device: &Arc<D>) {
        let pages = Pages::map(2).unwrap();
        let (range, neighbour) = (pages.range(), pages.page(1).start);
        pages.stamp(1, 1);
        let old = Registration::new(device, &range).unwrap();

        pages.stamp(1, 2);
        assert_eq!(old.send(neighbour).unwrap(), 2, "a write to the pinned page is seen");

        pages.replace(1).unwrap();
        pages.stamp(1, 3);
        assert_eq!(old.send(neighbour).unwrap(), 2, "the page that was pinned, not the one that is there now");
        let new = Registration::new(device, &range).unwrap();
        assert_eq!(new.send(neighbour).unwrap(), 3);
    }

    /// Far more than there are slots in the ring's table or descriptors for a process.
    fn a_dropped_registration_is_free_again<D: Device>(device: &Arc<D>) {
        let pages = Pages::map(1).unwrap();
        for _ in 0..3000 {
            Registration::new(device, &pages.range()).unwrap();
        }
    }

    #[test]
    fn pipes_are_a_device() {
        let device = Arc::new(Pipe::open().unwrap());
        a_registration_sends_the_page_it_pinned(&device);
        a_dropped_registration_is_free_again(&device);
    }

    #[test]
    fn io_uring_is_a_device() {
        match open_uring() {
            Ok(Opened::Uring(device)) => {
                a_registration_sends_the_page_it_pinned(&device);
                a_dropped_registration_is_free_again(&device);
            }
            _ => eprintln!("skipped: io_uring is not allowed here"),
        }
    }
}
