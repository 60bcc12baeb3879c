//! A mirror behind a lock of its own, and all it takes to have it driven.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use interval_notifier::conformance::{Fault, Generation, Setting, Subject, sync::Mutex};
use interval_notifier::{Ack, Call, Invalidate, Subscription, WouldBlock};

/// What the device has of the owner's pages; a generation stands for the frame.
type Pages = BTreeMap<u64, Generation>;

struct Table(Mutex<Pages>);

impl Invalidate for Table {
    type Locked = Pages;

    fn invalidate(&self, call: &Call<'_, Pages>) -> Result<Ack, WouldBlock> {
        let mut pages = match call.is_blockable() {
            true => self.0.lock().unwrap(),
            false => self.0.try_lock().map_err(|_| call.would_block())?,
        };
        let ack = call.set_seq(&mut pages);
        pages.retain(|page, _| !call.overlap().contains(page));
        Ok(ack)
    }
}

pub(crate) struct Right(Subscription<Table>);

impl Subject for Right {
    type Address = u64;

    fn new(setting: &Setting) -> Self {
        Right(setting.space().subscribe(setting.range(), Table(Mutex::default())).unwrap())
    }

    fn fault(&self, fault: &Fault<'_>) {
        while let Ok(seq) = self.0.read_begin() {
            let generation = fault.read(fault.page());
            let mut pages = self.0.ops().0.lock().unwrap();
            if !self.0.read_retry(seq, &pages) {
                pages.insert(fault.page(), generation);
                return;
            }
        }
    }

    fn held(&self, page: u64) -> Option<Generation> {
        self.0.ops().0.lock().unwrap().get(&page).copied()
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        let _pages = self.0.ops().0.lock().unwrap();
        then();
    }
}
