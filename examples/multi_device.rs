//! Several devices mirror the same pages of one process, each with a subscription of its own.
//!
//! - **Owners.** A device takes pages into its own memory. The migration is an invalidation like any other, but carries
//!   the device's name: its own callback answers `unaffected`, all others drop the pages.
//! - **Two passes.** A device takes a while to let go of pages. The callback only starts it and returns a finish that
//!   waits; all callbacks run before the first finish, so the process waits for the slowest device and not for the sum.
//!
//! `cargo run --release --example multi_device`

#[path = "dmirror/sim/mod.rs"]
#[allow(dead_code, reason = "each user of the simulation takes its part")]
mod sim;

use std::error::Error;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sim::device::Device;
use sim::memory::Memory;
use sim::pages::{Access, Fault, Mapping};
use sim::primary::Primary;

const PAGES: u64 = 32;
const DEVICES: usize = 8;
/// How long a device takes to let go of pages.
const FLUSH: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    owners().map_err(|fault| format!("{fault:?}"))?;
    two_passes().map_err(|fault| format!("{fault:?}"))?;
    Ok(())
}

/// Callbacks of a device that it has ignored, and the others.
fn calls(device: &Device) -> String {
    format!("{:?} calls ignored, {:?} not", device.mirror.ignored, device.mirror.hits)
}

fn owners() -> Result<(), Fault> {
    let process = Primary::new(&Memory::new());
    process.map(0..PAGES, Access::Write, Mapping::Private);
    process.store_all(0..PAGES, 0)?;
    let [one, two] = [(); 2].map(|()| Device::open(&process));
    for device in [&one, &two] {
        assert_eq!(device.read(0..PAGES)?.1.faults, 1);
    }

    assert_eq!(one.migrate(0..PAGES / 2)?, PAGES / 2);
    assert_eq!((one.spans(0..PAGES / 2), two.spans(0..PAGES / 2)), (1, 0));
    println!("device 1 took {} pages: it has {}; device 2 has {}", PAGES / 2, calls(&one), calls(&two));

    one.write(0, &[7])?;
    assert_eq!(two.read(0..1)?.0, [7]);
    assert_eq!((one.spans(0..1), two.spans(0..1)), (0, 1));
    println!("device 2 reads what device 1 has written: the page has left device 1, which was told");

    assert_eq!(two.make_exclusive(0..4)?, 4);
    assert_eq!((one.spans(0..4), two.exclusive(0..4)), (0, 4));
    one.read(0..4)?;
    assert_eq!(two.exclusive(0..4), 0);
    println!("device 2 had 4 pages for itself alone, until device 1 wanted them");

    let everything = (0..PAGES).map(|page| if page == 0 { 7 } else { page });
    assert!(process.load_all(0..PAGES)?.into_iter().eq(everything));
    Ok(())
}

fn two_passes() -> Result<(), Fault> {
    let process = Primary::new(&Memory::new());
    process.map(0..PAGES, Access::Write, Mapping::Private);
    let devices = [(); DEVICES].map(|()| Device::open_slow(&process, FLUSH));
    let flush = || {
        devices.iter().try_for_each(|device| device.read(0..PAGES).map(drop))?;
        let start = Instant::now();
        process.protect(0..PAGES, Access::Write);
        Ok(start.elapsed())
    };

    let together = flush()?;
    devices.iter().for_each(|device| device.mirror.out_of_memory.store(true, Relaxed));
    let one_by_one = flush()?;
    println!("{DEVICES} devices that take {FLUSH:?} each: {together:?} in two passes, {one_by_one:?} in one");
    assert!(together >= FLUSH && together < FLUSH * DEVICES as u32 / 2);
    assert!(one_by_one >= FLUSH * DEVICES as u32);

    // Who may not wait for a device is refused, and nothing is left behind.
    devices[0].read(0..PAGES)?;
    assert!(process.reap(0..PAGES).is_err());
    devices.iter().try_for_each(|device| device.read(0..PAGES).map(drop))?;
    println!("an owner that may not wait was refused, and every device reads on");
    Ok(())
}
