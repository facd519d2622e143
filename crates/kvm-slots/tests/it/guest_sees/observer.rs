// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records all possible results of an access between two steps of a commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::SimVm;
use memory_model::{AddrRange, FlatView, ViewReader};

use crate::common::PAGE;
use crate::common::pages::Pages;

/// How many pages the guest has.
pub const PAGES: u64 = 4;
/// The answer at an empty address.
pub const NOTHING: u64 = 0;

/// A load, a store, or the fetch of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Load,
    Store,
    Fetch,
}

pub const ACCESSES: [Access; 3] = [Access::Load, Access::Store, Access::Fetch];

/// The result of the processor. Memory is identified by its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    Memory(u64),
    Exit,
}

/// The result of looking up an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Answer(u64),
    /// The view has direct memory without a host address.
    NoAnswer,
}

/// All possible results of an access between two steps of a commit, for each page and
/// each kind of access.
#[derive(Clone, Debug)]
pub struct Point {
    /// No vCPU is in the guest, so that no access starts.
    pub held: bool,
    /// The readers' view of each page.
    pub published: Vec<u64>,
    pub reached: Vec<[Reached; 3]>,
    pub found: Vec<[Found; 3]>,
}

/// Looks at everything between two steps.
#[derive(Debug)]
pub struct Observer {
    pub vm: SimVm,
    pub memory: Vec<Arc<Pages>>,
    pub reader: Mutex<Option<ViewReader<u64>>>,
    pub held: AtomicBool,
    pub points: Mutex<Vec<Point>>,
}

/// Notes that there was an exit.
pub struct Exits(pub bool);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, _gpa: u64, _data: &mut [u8]) {
        self.0 = true;
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {
        self.0 = true;
    }
}

impl Observer {
    pub fn look(&self) {
        let reader = self.reader.lock().unwrap();
        let Some(reader) = &*reader else {
            return;
        };
        let view = reader.view();
        let each = |page: u64| ACCESSES.map(|access| (page * PAGE, access));
        let point = Point {
            held: self.held.load(Ordering::SeqCst),
            published: things(&view),
            reached: (0..PAGES)
                .map(|page| each(page).map(|(gpa, access)| self.reach(gpa, access)))
                .collect(),
            found: (0..PAGES)
                .map(|page| each(page).map(|(gpa, access)| self.find(&view, gpa, access)))
                .collect(),
        };
        self.points.lock().unwrap().push(point);
    }

    pub fn load(&self, gpa: u64) -> Option<u64> {
        let (mut data, mut exits) = ([0; 8], Exits(false));
        let loaded = self.vm.guest_load(gpa, &mut data, &mut exits);
        loaded.expect("no fault");
        (!exits.0).then(|| u64::from_le_bytes(data))
    }

    pub fn reach(&self, gpa: u64, access: Access) -> Reached {
        let direct = match access {
            Access::Load | Access::Fetch => self.load(gpa),
            Access::Store => {
                // Behind the stamp.
                let (value, mut exits) = (0x5ca1_ab1e_u64 ^ gpa, Exits(false));
                let stored = self
                    .vm
                    .guest_store(gpa + 8, &value.to_le_bytes(), &mut exits);
                stored.expect("no fault");
                let lands = || assert_eq!(self.load(gpa + 8), Some(value), "a store is lost");
                (!exits.0).then(lands).and_then(|()| self.load(gpa))
            }
        };
        direct.map_or(Reached::Exit, Reached::Memory)
    }

    /// A vCPU thread, by the documentation of `SlotListener`.
    pub fn find(&self, view: &FlatView<u64>, gpa: u64, access: Access) -> Found {
        let Some(run) = view.find(gpa) else {
            return Found::Answer(NOTHING);
        };
        let direct = match access {
            Access::Load | Access::Fetch => run.access().reads_directly(),
            Access::Store => run.access().writes_directly(),
        };
        if !direct {
            return Found::Answer(thing(view, gpa / PAGE));
        }
        let at = AddrRange::from_bounds(gpa, gpa).unwrap();
        match run.backing_of(at).unwrap().host() {
            Some(host) => Found::Answer(self.host_stamp(host.address())),
            None => Found::NoAnswer,
        }
    }

    pub fn host_stamp(&self, address: u64) -> u64 {
        let inside = |pages: &&Arc<Pages>| {
            (pages.address()..pages.address() + pages.size()).contains(&address)
        };
        let pages = self.memory.iter().find(inside).expect("memory of a region");
        let offset = usize::try_from(address - pages.address()).unwrap();
        u64::from_le_bytes(pages.read(offset))
    }
}

/// The stamp of a page of a region.
pub fn stamp(region: usize, page: u64) -> u64 {
    (region as u64 + 1) << 8 | page
}

/// The stamp of a page in a view.
pub fn thing(view: &FlatView<u64>, page: u64) -> u64 {
    let gpa = page * PAGE;
    view.find(gpa).map_or(NOTHING, |run| {
        run.region().handle() + run.offset_of(gpa).unwrap() / PAGE
    })
}

pub fn things(view: &FlatView<u64>) -> Vec<u64> {
    (0..PAGES).map(|page| thing(view, page)).collect()
}
