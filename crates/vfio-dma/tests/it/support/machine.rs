// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine with a region of every kind, and devices behind a simulated IOMMU.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, ConvertError, Converted, Engine, Home,
    ModelPages, Request,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, GuestMemfdFlags, Vm};
use memmap2::{MmapOptions, MmapRaw};
use memory_model::{
    AddrRange, Backing, CommitError, FileSlice, GuestAccess, GuestMemfdSides, HostMemory, Kind,
    Listener, ListenerError, Memory, MemoryModel, PrivateMmio, Region, RegionId, SpaceId, Update,
};
use vfio_dma::listener::{DmaListener, DmaPolicy, Peers};
use vfio_dma::{AddressSpace, DmaLimits, DmaMemory, DmaRange, DmaRefusal, SimIommu, SimIommuKind};

use super::{PAGE, When, pages};

/// Addresses that are looked at.
pub(crate) const PAGES: u64 = 72;
/// What no device can have, in pages.
pub(crate) const HOLE: std::ops::Range<u64> = 40..42;

/// Refuses on request, as the last listener: before or after the others have
/// made the change.
#[derive(Debug, Default)]
pub(crate) struct Refuser(pub(crate) AtomicBool, pub(crate) AtomicBool);

impl Refuser {
    fn ask(&self) -> Result<(), &'static str> {
        match self.0.load(Ordering::Relaxed) {
            true => Err("refused"),
            false => Ok(()),
        }
    }
}

impl Listener<()> for Refuser {
    fn name(&self) -> &str {
        "refuser"
    }

    fn prepare(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        match self.1.load(Ordering::Relaxed) {
            true => Err("refused before anything changed".into()),
            false => Ok(()),
        }
    }

    fn apply(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(self.ask()?)
    }
}

impl ConversionListener for Refuser {
    fn name(&self) -> &str {
        "refuser"
    }

    fn prepare(&self, _change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(self.ask()?)
    }
}

/// A simulated IOMMU that can be made to panic.
#[derive(Debug)]
pub(crate) struct Iommu {
    sim: SimIommu,
    panics: Mutex<Option<(u64, When)>>,
}

impl Iommu {
    pub(crate) fn new(kind: SimIommuKind, limits: DmaLimits) -> Self {
        Self {
            sim: SimIommu::new(kind, limits),
            panics: Mutex::default(),
        }
    }

    /// What a device reaches of a page: where, and whether it writes.
    pub(crate) fn reached(&self, page: u64) -> Option<(u64, bool)> {
        let place = |writes| match self.reach(page * PAGE + 0x123, writes)? {
            DmaMemory::Host(memory) => Some(memory.address() - 0x123),
            DmaMemory::File(_) => None,
        };
        let address = place(false)?;
        Some((address, place(true) == Some(address)))
    }

    /// Makes a future call panic, before or after it is carried out; the next
    /// call has number 0.
    pub(crate) fn panics(&self, call: u64, when: When) {
        *self.panics.lock().unwrap() = Some((self.sim.calls() + call, when));
    }

    /// Cancels the panic; returns whether it had not happened yet.
    pub(crate) fn panics_no_more(&self) -> bool {
        self.panics.lock().unwrap().take().is_some()
    }

    fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        let number = self.sim.calls();
        self.panic_if(number, When::Before);
        let result = call();
        self.panic_if(number, When::After);
        result
    }

    fn panic_if(&self, number: u64, when: When) {
        let mut panics = self.panics.lock().unwrap();
        if *panics == Some((number, when)) {
            *panics = None;
            drop(panics);
            // Without the message of a panic.
            std::panic::resume_unwind(Box::new(when));
        }
    }
}

impl Deref for Iommu {
    type Target = SimIommu;

    fn deref(&self) -> &SimIommu {
        &self.sim
    }
}

impl AddressSpace for Iommu {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.call(|| self.sim.map(range))
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        self.call(|| self.sim.unmap(iova))
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        self.sim.limits()
    }
}

pub(crate) struct Machine {
    pub(crate) model: MemoryModel,
    pub(crate) space: SpaceId,
    pub(crate) root: RegionId,
    pub(crate) regions: Vec<RegionId>,
    pub(crate) engine: Engine<SimVm>,
    pub(crate) iommu: Arc<Iommu>,
    pub(crate) dma: Arc<DmaListener<Arc<Iommu>, ()>>,
    pub(crate) refuser: Arc<Refuser>,
    has_peers: bool,
    iommu_page: u64,
}

/// The regions, by their number in [`Machine::regions`].
pub(crate) const PLAIN: usize = 0;
pub(crate) const APART: usize = 1;
pub(crate) const IN_PLACE: usize = 2;
pub(crate) const ROM: usize = 3;
pub(crate) const ROM_DEVICE: usize = 4;
pub(crate) const BAR: usize = 5;
pub(crate) const PRIVATE_BAR: usize = 6;
pub(crate) const REGISTERS: usize = 7;
pub(crate) const REGIONS: usize = 8;

/// The size of the IOMMU's pages where they are larger than the guest's.
pub(crate) const LARGE_PAGE: u64 = 4 * PAGE;

/// Memory that is aligned to large pages.
/// Host memory at a multiple of [`LARGE_PAGE`].
pub(crate) fn host(pages: u64) -> HostMemory {
    let size = pages * PAGE;
    let map = MmapOptions::new()
        .len(usize::try_from(size + LARGE_PAGE).unwrap())
        .map_anon();
    let map = Arc::new(MmapRaw::from(map.unwrap()));
    let address = map.as_mut_ptr().expose_provenance() as u64;
    let address = address.next_multiple_of(LARGE_PAGE);
    // SAFETY: the bytes are mapped while their owner lives, and nothing here refers to them.
    unsafe { HostMemory::new(address, size, map) }.unwrap()
}

fn memfd(vm: &SimVm, pages: u64, sides: GuestMemfdSides) -> Memory {
    let file = vm.create_guest_memfd(pages * PAGE, GuestMemfdFlags::empty());
    let file = slice(file.unwrap(), pages);
    Memory::with_guest_memfd(host(pages), file, sides).unwrap()
}

pub(crate) fn slice(file: OwnedFd, pages: u64) -> FileSlice {
    let file = Arc::new(file);
    FileSlice::new(file, 0, pages * PAGE).unwrap()
}

impl Machine {
    pub(crate) fn new(kind: SimIommuKind, policy: DmaPolicy<()>, mappings: Option<u64>) -> Self {
        Self::with_iommu_page(PAGE, kind, policy, mappings)
    }

    /// A machine whose IOMMU has pages of `iommu_page` bytes.
    pub(crate) fn with_iommu_page(
        iommu_page: u64,
        kind: SimIommuKind,
        policy: DmaPolicy<()>,
        mappings: Option<u64>,
    ) -> Self {
        let vm = SimVm::new(SimConfig {
            private_pages: true,
            vm_type: VmType::SwProtected,
            abi: AbiProfile::FD_OFFSET_BIT_4,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let memfd = |pages, sides| memfd(&vm, pages, sides);
        let registers = PrivateMmio::new(slice(vm.create_dma_buf(4 * PAGE).unwrap(), 4));
        let all = [
            Region::ram("plain", Memory::host_only(host(12))),
            Region::ram("apart", memfd(16, GuestMemfdSides::Private)),
            Region::ram("in place", memfd(8, GuestMemfdSides::Both)),
            Region::rom("rom", Memory::host_only(host(4))),
            Region::rom_device("flash", Memory::host_only(host(4))),
            Region::device_ram("bar", host(4)),
            Region::private_mmio("private bar", registers),
            Region::mmio("registers", 0x100),
        ];
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let regions = all.map(|region| t.add(region).unwrap()).to_vec();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();

        let allowed = [0..HOLE.start, HOLE.end..1 << 30];
        let allowed = allowed.map(|all| pages(all.start, all.end - all.start));
        let limits = DmaLimits::new(iommu_page, allowed, mappings).unwrap();
        let iommu = Arc::new(Iommu::new(kind, limits));
        let has_peers = !matches!(policy.peers, Peers::Nothing);
        let dma = DmaListener::new(Arc::clone(&iommu), model.reader(space), policy);
        let dma = Arc::new(dma.unwrap().keeping_latest_plan());
        let refuser = Arc::new(Refuser::default());
        model.add_listener(space, 1, dma.clone()).unwrap();
        model.add_listener(space, -1, refuser.clone()).unwrap();
        let mut engine = Engine::new(vm.clone(), Home::probe(&vm).unwrap());
        engine.add_listener(dma.clone());
        engine.add_listener(refuser.clone());
        Self {
            model,
            space,
            root,
            regions,
            engine,
            iommu,
            dma,
            refuser,
            has_peers,
            iommu_page,
        }
    }

    /// Puts a region at a page, or some bytes behind.
    pub(crate) fn place(
        &mut self,
        region: usize,
        at: u64,
        priority: i32,
    ) -> Result<(), CommitError> {
        let (id, root) = (self.regions[region], self.root);
        let mut t = self.model.transaction();
        // It may have no place yet.
        let _ = t.unplace(id);
        t.place(id, root, at, priority).unwrap();
        t.commit()
    }

    /// Adds RAM with a private side beside the regions.
    pub(crate) fn add_ram(&mut self, at: u64, count: u64) {
        let memory = memfd(self.engine.vm(), count, GuestMemfdSides::Private);
        let mut t = self.model.transaction();
        let ram = t.add(Region::ram("more", memory)).unwrap();
        t.place(ram, self.root, at * PAGE, 0).unwrap();
        t.commit().unwrap();
    }

    pub(crate) fn convert(
        &mut self,
        range: AddrRange,
        private: bool,
    ) -> Result<Converted, ConvertError> {
        let count = u64::try_from(range.size()).unwrap() / PAGE;
        let request = Request::hypercall(range.start(), count, u64::from(private) << 4).unwrap();
        let mut pages = ModelPages::new(&mut self.model, self.space);
        self.engine.convert(&mut pages, request)
    }

    /// What a device is to reach of a page, the slow way: where, and whether it writes. The
    /// guest pages of an IOMMU page are mapped together or not at all.
    pub(crate) fn due(&self, page: u64) -> Option<(u64, bool)> {
        let count = self.iommu_page / PAGE;
        let inside = page % count;
        let (address, writes) = self.shared(page - inside)?;
        let is_aligned = address % self.iommu_page == 0;
        let at = |n: u64| Some((address + n * PAGE, writes));
        let is_whole = (0..count).all(|n| self.shared(page - inside + n) == at(n));
        at(inside).filter(|_| is_aligned && is_whole)
    }

    /// What devices share of a page with the guest: where, and whether they write.
    fn shared(&self, page: u64) -> Option<(u64, bool)> {
        let whole = pages(page, 1);
        if HOLE.contains(&page) || self.model.private(self.space).covers(whole) {
            return None;
        }
        let view = self.model.view(self.space);
        let run = view.find(page * PAGE)?;
        let is_peer = matches!(run.region().kind(), Kind::DeviceRam(_));
        let writes = match run.access() {
            GuestAccess::ReadWrite => true,
            GuestAccess::ReadOnly | GuestAccess::ReadTrapWrite => false,
            GuestAccess::Trap => return None,
        };
        match run.backing_of(whole)? {
            Backing::Memory(memory) => Some((memory.host().address(), writes)),
            Backing::DeviceRam(memory) if is_peer && self.has_peers => {
                Some((memory.address(), writes))
            }
            _ => None,
        }
    }

    pub(crate) fn reached(&self, page: u64) -> Option<(u64, bool)> {
        self.iommu.reached(page)
    }

    /// That devices reach what they shall, and nothing else.
    pub(crate) fn check(&self) {
        for page in 0..PAGES {
            assert_eq!(self.reached(page), self.due(page), "page {page}");
        }
        assert_eq!(self.dma.table().len(), self.iommu.mappings());
    }
}
