//! A registration cache: one subscription per page, made when the page is first faulted in, and one lock for all.

use interval_notifier::conformance::sync::Mutex;
use interval_notifier::conformance::{Fault, Generation, Setting, Subject};
use interval_notifier::{Ack, AddressSpace, Call, Invalidate, Subscription, WouldBlock};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeBounds;
use std::sync::Arc;

type Pages = BTreeMap<u64, Generation>;

struct Registration(Arc<Mutex<Pages>>);

impl Invalidate for Registration {
    type Locked = Pages;

    fn invalidate(&self, call: &Call<'_, Pages>) -> Result<Ack, WouldBlock> {
        let mut pages = match call.is_blockable() {
            true => self.0.lock().unwrap(),
            false => self.0.try_lock().map_err(|_| call.would_block())?,
        };
        pages.retain(|page, _| !call.overlap().contains(page));
        Ok(call.set_seq(&mut pages))
    }
}

pub(crate) struct Lazy {
    space: AddressSpace,
    registrations: Mutex<BTreeMap<u64, Subscription<Registration>>>,
    pages: Arc<Mutex<Pages>>,
}

impl Subject for Lazy {
    type Address = u64;
    const SUBSCRIBES_AT_ONCE: bool = false;

    fn new(setting: &Setting) -> Self {
        Lazy { space: setting.space().clone(), registrations: Mutex::default(), pages: Arc::default() }
    }

    fn fault(&self, fault: &Fault<'_>) {
        let page = fault.page();
        let mut registrations = self.registrations.lock().unwrap();
        if let Entry::Vacant(place) = registrations.entry(page) {
            let Ok(new) = self.space.subscribe(page..=page, Registration(Arc::clone(&self.pages))) else { return };
            place.insert(new);
        }
        let registration = &registrations[&page];
        while let Ok(seq) = registration.read_begin() {
            let generation = fault.read(page);
            let mut pages = self.pages.lock().unwrap();
            if !registration.read_retry(seq, &pages) {
                pages.insert(page, generation);
                return;
            }
        }
    }

    fn held(&self, page: u64) -> Option<Generation> {
        self.pages.lock().unwrap().get(&page).copied()
    }

    fn while_locked(&self, then: &mut dyn FnMut()) {
        let _pages = self.pages.lock().unwrap();
        then();
    }
}
