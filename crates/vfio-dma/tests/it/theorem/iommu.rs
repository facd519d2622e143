// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated IOMMU whose calls can fail, and are recorded and checked. It pins what it
//! maps, as a real one does.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use guest_ranges::AddrRange;
use kvm_slots::convert::Home;
use kvm_slots::sim::{PagePin, SimVm};
use vfio_dma::{AddressSpace, DmaLimits, DmaMemory, DmaRange, DmaRefusal, SimIommu, SimIommuKind};

use super::PAGE;
use super::records::Records;
use super::tape::{Can, Tape};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;

#[derive(Debug)]
pub(crate) struct WatchedIommu {
    pub(crate) device: usize,
    kind: SimIommuKind,
    /// The size of the IOMMU's pages.
    page: u64,
    sim: SimIommu,
    vm: SimVm,
    tape: Arc<Tape>,
    records: Arc<Records>,
    /// The references to pages in place, by IOVA.
    pins: Mutex<BTreeMap<u64, PagePin>>,
}

impl WatchedIommu {
    pub(crate) fn new(
        device: usize,
        (kind, page): (SimIommuKind, u64),
        (vm, tape, records): (SimVm, Arc<Tape>, Arc<Records>),
    ) -> Self {
        let all = AddrRange::new(0, u128::from(1024 * PAGE)).unwrap();
        let limits = DmaLimits::new(page, [all], None).unwrap();
        records.state().mapped.insert(device, BTreeMap::new());
        Self {
            device,
            kind,
            page,
            sim: SimIommu::new(kind, limits),
            vm,
            tape,
            records,
            pins: Mutex::default(),
        }
    }

    /// References to the pages in place, for files that care. `None` if a page is private.
    fn pin(&self, range: &DmaRange) -> Option<Vec<(u64, PagePin)>> {
        let mut pins = Vec::new();
        if self.records.home != Home::FileAttributes {
            return Some(pins);
        }
        for (iova, host) in pages(range) {
            let mut files = self.records.in_place.iter();
            let file = files
                .find(|(_, base)| (**base..**base + self.records.window * PAGE).contains(&host));
            let Some((fd, base)) = file else { continue };
            // SAFETY: the world keeps the file open.
            let file = unsafe { BorrowedFd::borrow_raw(*fd) };
            pins.push((iova, self.vm.pin(file, host - base, PAGE).ok()?));
        }
        Some(pins)
    }

    /// Records what the IOMMU maps now.
    fn record(&self) {
        let reach = |page: u64| match self.sim.reach(page * PAGE, false)? {
            DmaMemory::Host(memory) => Some((page * PAGE, memory.address())),
            DmaMemory::File(_) => None,
        };
        let mapped: BTreeMap<u64, u64> = (0..self.records.window).filter_map(reach).collect();
        let mut pins = self.pins.lock().unwrap();
        pins.retain(|iova, _| mapped.contains_key(iova));
        self.records.state().mapped.insert(self.device, mapped);
    }

    fn is_mapped(&self, iova: AddrRange) -> bool {
        let state = self.records.state();
        let mut mapped = state.mapped[&self.device].keys();
        mapped.any(|page| iova.contains(*page))
    }

    /// What an unmapping that fails has unmapped: an iommufd stops at the mapping that it
    /// cannot unmap.
    fn unmap_in_part(&self, iova: AddrRange) {
        let starts = (0..self.records.window).map(|page| page * PAGE);
        let starts = starts.filter(|start| start % self.page == 0);
        let first = starts.map(|start| AddrRange::new(start, self.page.into()).unwrap());
        let mut first = first.filter(|page| iova.covers(*page) && *page != iova);
        if self.kind == SimIommuKind::Iommufd {
            let _ = first.next().map(|page| self.sim.unmap(page));
            self.record();
        }
    }
}

/// The closing of an address space unmaps everything.
impl Drop for WatchedIommu {
    fn drop(&mut self) {
        self.records.state().mapped.remove(&self.device);
    }
}

fn pages(range: &DmaRange) -> Vec<(u64, u64)> {
    let DmaMemory::Host(memory) = range.memory() else {
        panic!("no file is mapped");
    };
    let (iova, host) = (range.iova().start(), memory.address());
    let all = (0..range.size() / PAGE).map(|page| page * PAGE);
    all.map(|offset| (iova + offset, host + offset)).collect()
}

impl AddressSpace for WatchedIommu {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.records.becomes_mapped(self.device, &pages(range));
        let works = || {
            let pins = self.pin(range).ok_or(DmaRefusal::Errno(EFAULT))?;
            self.sim.map(range)?;
            self.pins.lock().unwrap().extend(pins);
            self.record();
            self.records.check("after a mapping");
            Ok(())
        };
        self.tape.call(
            ("map", Can::FailOrPanic),
            || Err(DmaRefusal::Errno(ENOMEM)),
            works,
        )
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        let works = || {
            let result = self.sim.unmap(iova);
            self.record();
            self.records.check("after an unmapping");
            result
        };
        let fails = || {
            let errno = match self.is_mapped(iova) {
                true => EIO,
                // The kernel looks for mappings before anything else can fail.
                false => ENOENT,
            };
            self.unmap_in_part(iova);
            Err(DmaRefusal::Errno(errno))
        };
        self.tape.call(("unmap", Can::FailOrPanic), fails, works)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        self.sim.limits()
    }
}
