// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest with some memory, devices that come and go, and everything that can happen
//! to them.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use kvm_slots::convert::{
    ConvertError, Engine, Home, ModelPages, PageRange, PageState, PrivateStays, Request,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, GuestMemfdFlags, SlotListener, Slots, VcpusStopped, Vm};
use memory_model::{
    Backing, FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel, PrivateMmio, Region,
    RegionId, SpaceId,
};
use vfio_dma::SimIommuKind;
use vfio_dma::listener::{DmaListener, DmaPolicy, Peers};

use super::PAGE;
use super::iommu::WatchedIommu;
use super::probe::Probe;
use super::records::Records;
use super::tape::{Call, Faults, Injected, Tape};
use super::vm::WatchedVm;

/// The kind and the size in pages of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// RAM whose private pages are in a guest_memfd.
    Split(u64),
    /// RAM with both sides in one guest_memfd.
    InPlace(u64),
    /// RAM without private pages.
    Plain(u64),
    /// Registers that only the guest can access.
    PrivateMmio(u64),
    /// A device's memory that other devices reach.
    Bar(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A region appears, moves or disappears. Later regions hide earlier ones.
    Place(usize, Option<u64>),
    Convert(u64, u64, PageState),
    Revoke(u64, u64),
    Attach(usize),
    Detach(usize),
}

/// A device, by the kind of its IOMMU, and the guest pages of a unit of its mappings and of
/// an IOMMU page.
pub(crate) type Kind = (SimIommuKind, u64, u64);

/// What there is in a world.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) home: Home,
    /// The number of pages that anything is at.
    pub(crate) window: u64,
    pub(crate) regions: Vec<What>,
    pub(crate) devices: Vec<Kind>,
}

/// An attached device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) dma: Arc<DmaListener<WatchedIommu, ()>>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Refused,
    /// Refused, and the error says that nothing has changed.
    Undone,
    Panicked,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) model: MemoryModel,
    pub(crate) space: SpaceId,
    root: RegionId,
    regions: Vec<RegionId>,
    pub(crate) places: Vec<Option<u64>>,
    /// The region of each guest_memfd.
    pub(crate) files: BTreeMap<i32, i32>,
    engine: Engine<WatchedVm>,
    pub(crate) devices: Vec<Device>,
    tape: Arc<Tape>,
    pub(crate) records: Arc<Records>,
    vm: SimVm,
    last: Arc<Probe>,
}

fn host(number: usize) -> u64 {
    0x7000_0000_0000 + ((number as u64) << 32)
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let vm = SimVm::new(SimConfig {
            private_pages: true,
            vm_type: VmType::SwProtected,
            home: setup.home,
            abi: AbiProfile::FD_OFFSET_BIT_4,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let (mut files, mut in_place) = (BTreeMap::new(), BTreeMap::new());
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let mut regions = Vec::new();
        for (number, what) in setup.regions.iter().enumerate() {
            let bytes = |pages: u64| {
                // SAFETY: nothing accesses the addresses, which the process does not map.
                unsafe { HostMemory::new(host(number), pages * PAGE, Arc::new(())) }.unwrap()
            };
            let mut memfd = |pages: u64, sides| {
                let flags = match (setup.home, sides) {
                    (Home::FileAttributes, _) => GuestMemfdFlags::all(),
                    (_, GuestMemfdSides::Both) => GuestMemfdFlags::MMAP,
                    _ => GuestMemfdFlags::empty(),
                };
                let file = vm.create_guest_memfd(pages * PAGE, flags).unwrap();
                files.insert(file.as_raw_fd(), i32::try_from(number).unwrap());
                if sides == GuestMemfdSides::Both {
                    in_place.insert(file.as_raw_fd(), host(number));
                }
                let file = FileSlice::new(Arc::new(file), 0, pages * PAGE).unwrap();
                Memory::with_guest_memfd(bytes(pages), file, sides).unwrap()
            };
            let name = format!("{what:?}");
            let region = match *what {
                What::Split(pages) => Region::ram(&name, memfd(pages, GuestMemfdSides::Private)),
                What::InPlace(pages) => Region::ram(&name, memfd(pages, GuestMemfdSides::Both)),
                What::Plain(pages) => Region::ram(&name, Memory::host_only(bytes(pages))),
                What::Bar(pages) => Region::device_ram(&name, bytes(pages)),
                What::PrivateMmio(pages) => {
                    let file = Arc::new(vm.create_dma_buf(pages * PAGE).unwrap());
                    let file = FileSlice::new(file, 0, pages * PAGE).unwrap();
                    Region::private_mmio(&name, PrivateMmio::new(file))
                }
            };
            regions.push(t.add(region).unwrap());
        }
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let tape = Arc::new(Tape::default());
        let records = Arc::new(Records::new(setup.home, setup.window, in_place));
        let watched = WatchedVm {
            sim: vm.clone(),
            tape: tape.clone(),
            records: records.clone(),
        };
        // SAFETY: only these slots are made, of memory that no one accesses.
        let slots = unsafe { Slots::new(watched.clone(), AbiProfile::FD_OFFSET_BIT_4) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        let probe = || {
            Arc::new(Probe {
                tape: tape.clone(),
                records: records.clone(),
            })
        };
        let (first, last) = (probe(), probe());
        let stays = Arc::new(PrivateStays::new(setup.home));
        model.add_listener(space, -2, stays).unwrap();
        model.add_listener(space, -1, first.clone()).unwrap();
        model.add_listener(space, 0, slots.clone()).unwrap();
        model.add_listener(space, 2, last.clone()).unwrap();
        let mut engine = Engine::new(watched, setup.home);
        engine.add_listener(slots);
        engine.add_listener(first);
        engine.add_listener(last.clone());
        Self {
            places: vec![None; setup.regions.len()],
            files,
            setup: setup.clone(),
            model,
            space,
            root,
            regions,
            engine,
            devices: Vec::new(),
            tape,
            records,
            vm,
            last,
        }
    }

    /// Whether an operation would be one at all.
    pub(crate) fn is_possible(&self, op: Op) -> bool {
        let attached = |number| self.devices.iter().any(|device| device.number == number);
        match op {
            Op::Place(region, at) => self.places[region] != at,
            Op::Attach(number) => !attached(number),
            Op::Detach(number) => attached(number),
            Op::Convert(..) | Op::Revoke(..) => true,
        }
    }

    /// Carries out an operation with these faults. Returns how it ended, and for each call
    /// of a platform or a listener whether it could have failed.
    pub(crate) fn run(&mut self, op: Op, faults: &Faults) -> Result<(End, Vec<Call>), String> {
        let before = self.of_kvm();
        let view = self.model.view(self.space);
        self.tape.start(faults);
        let result = catch_unwind(AssertUnwindSafe(|| self.carry_out(op)));
        let calls = self.tape.stop();
        let end = result.unwrap_or_else(injected);
        self.follow(op);
        if end == End::Undone && self.of_kvm() != before {
            return Err("changed although it was undone".into());
        }
        // Listeners are called only if the view differs.
        let resyncs = end == End::Done && !Arc::ptr_eq(&view, &self.model.view(self.space));
        self.check(resyncs)
            .map_err(|broken| format!("{broken}: {end:?} after {calls:?}"))?;
        Ok((end, calls))
    }

    fn carry_out(&mut self, op: Op) -> End {
        let ended = |done: bool| if done { End::Done } else { End::Refused };
        match op {
            Op::Place(region, at) => {
                let (id, root) = (self.regions[region], self.root);
                let was = self.places[region];
                let priority = i32::try_from(region).unwrap();
                let mut t = self.model.transaction();
                match (was, at) {
                    (None, Some(page)) => t.place(id, root, page * PAGE, priority).unwrap(),
                    (Some(_), Some(page)) => t.move_to(id, page * PAGE).unwrap(),
                    (_, None) => t.unplace(id).unwrap(),
                }
                ended(t.commit().is_ok())
            }
            Op::Convert(page, count, to) => {
                let request = Request::new(page * PAGE, count * PAGE, to).unwrap();
                let mut pages = ModelPages::new(&mut self.model, self.space);
                match self.engine.convert(&mut pages, request) {
                    Ok(_) => End::Done,
                    Err(ConvertError::Failed(failure)) => {
                        match failure.not_undone.pages.is_empty() {
                            true => End::Undone,
                            false => End::Refused,
                        }
                    }
                    Err(_) => End::Undone,
                }
            }
            Op::Revoke(page, count) => {
                let range = PageRange::new(page * PAGE, count * PAGE).unwrap();
                let mut pages = ModelPages::new(&mut self.model, self.space);
                let revoked = self.engine.revoke(&mut pages, range);
                ended(revoked.not_shared.is_empty())
            }
            Op::Attach(number) => {
                let (kind, unit, page) = self.setup.devices[number];
                let watched = (self.vm.clone(), self.tape.clone(), self.records.clone());
                let iommu = WatchedIommu::new(number, (kind, page * PAGE), watched);
                let policy = DmaPolicy::default()
                    .with_unit(unit * PAGE)
                    .with_peers(Peers::HostAddress);
                let dma = DmaListener::new(iommu, self.model.reader(self.space), policy);
                let dma = Arc::new(dma.unwrap());
                // If it is refused, the address space is closed with the listener.
                if self.model.add_listener(self.space, 1, dma.clone()).is_err() {
                    return End::Refused;
                }
                self.engine.remove_listener(&self.last);
                self.engine.add_listener(dma.clone());
                self.engine.add_listener(self.last.clone());
                self.devices.push(Device { number, dma });
                End::Done
            }
            Op::Detach(number) => {
                let mut devices = self.devices.iter();
                let at = devices.position(|d| d.number == number).unwrap();
                let dma = self.devices[at].dma.clone();
                if self.model.remove_listener(self.space, &dma).is_err() {
                    return End::Refused;
                }
                self.engine.remove_listener(&dma);
                self.devices.remove(at);
                End::Done
            }
        }
    }

    /// After a panic, the model alone knows whether its transaction was made.
    fn follow(&mut self, op: Op) {
        if let Op::Place(region, _) = op {
            let id = self.regions[region];
            let place = self.model.tree().place(id).unwrap();
            self.places[region] = place.map(|place| place.address / PAGE);
        }
    }

    /// The private pages, as KVM has them.
    pub(crate) fn of_kvm(&self) -> Vec<u64> {
        let pages = (0..self.setup.window).map(|page| page * PAGE);
        pages.filter(|gpa| self.records.is_private(*gpa)).collect()
    }

    /// The host address that a device should reach at a page. An IOMMU page of so many
    /// guest pages is mapped as a whole or not at all.
    fn due(&self, gpa: u64, pages: u64) -> Option<u64> {
        let size = pages * PAGE;
        let inside = gpa % size;
        let host = self.shared(gpa - inside)?;
        let mut offsets = (0..pages).map(|page| page * PAGE);
        let is_whole = offsets.all(|at| self.shared(gpa - inside + at) == Some(host + at));
        (host % size == 0 && is_whole).then_some(host + inside)
    }

    /// The host address of a page that the guest shares with devices.
    fn shared(&self, gpa: u64) -> Option<u64> {
        let private = match self.has_state(gpa) {
            true => self.records.is_private(gpa),
            false => self.model.private(self.space).contains(gpa),
        };
        if private {
            return None;
        }
        let view = self.model.view(self.space);
        let run = view.find(gpa)?;
        let at = memory_model::AddrRange::new(gpa, u128::from(PAGE))?;
        match run.backing_of(at)? {
            Backing::Memory(memory) => Some(memory.host().address()),
            Backing::DeviceRam(memory) => Some(memory.address()),
            Backing::PrivateMmio(_) | Backing::Nothing => None,
        }
    }

    /// Whether KVM has a state of this page. A file's page has one while a memslot shows
    /// it: a rollback that failed can have left none.
    fn has_state(&self, gpa: u64) -> bool {
        self.setup.home != Home::FileAttributes || self.records.shows_file(gpa)
    }

    /// Checks what must hold between two operations.
    fn check(&self, resyncs: bool) -> Result<(), String> {
        self.records.check("at the end");
        if let Some(broken) = self.records.state().broken.first() {
            return Err(broken.clone());
        }
        let private = self.model.private(self.space);
        for page in 0..self.setup.window {
            let gpa = page * PAGE;
            let recorded = private.contains(gpa);
            if self.has_state(gpa) && recorded != self.records.is_private(gpa) {
                return Err(format!("{gpa:#x} is recorded as private: {recorded}"));
            }
        }
        let state = self.records.state();
        let mapped = state.mapped.clone();
        drop(state);
        for Device { number, dma } in &self.devices {
            if dma.needs_resync() {
                if resyncs {
                    return Err(format!("a transaction did not resync device {number}"));
                }
                continue;
            }
            for page in 0..self.setup.window {
                let reached = mapped[number].get(&(page * PAGE)).copied();
                let due = self.due(page * PAGE, self.setup.devices[*number].2);
                if reached != due {
                    return Err(format!(
                        "device {number} reaches {reached:x?} at page {page}, not {due:x?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn injected(panic: Box<dyn Any + Send>) -> End {
    match panic.downcast::<Injected>() {
        Ok(_) => End::Panicked,
        Err(other) => resume_unwind(other),
    }
}
