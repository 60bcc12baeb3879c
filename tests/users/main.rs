//! Three users' programs against the public interface alone: a GPU driver, a registration cache, a foreign event
//! source. The interface was shaped with them; that they compile is half of the test.

#[cfg(not(any(loom, shuttle)))]
mod foreign;
#[cfg(not(any(loom, shuttle)))]
mod gpusvm;
#[cfg(not(any(loom, shuttle)))]
mod probes;
#[cfg(not(any(loom, shuttle)))]
mod regcache;
