// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A page that becomes private is out of the IOMMU before KVM changes its
//! attributes, and a page that becomes shared is in the IOMMU only afterwards.

use std::error::Error as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::convert::{ConvertError, Engine, Home, ModelPages, PageState, Request};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};
use memory_model::{AddrRange, Listener, MemoryModel, Region, SpaceId};
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_dma::{AddressSpace, DmaLimits, DmaRange, DmaRefusal, SimIommu, SimIommuKind};
use vmm::boot::bus::Handle;
use vmm::boot::dma::{DmaCheck, GuestDma, StillMapped};
use vmm::boot::x86_64::confidential::ram;

const RAM: u64 = 8 << 20;
/// The pages that are converted.
const PAGES: (u64, u64) = (3 << 20, 0x5000);

/// A call on the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Map(AddrRange),
    Unmap(AddrRange),
    /// Whether the attributes make the pages private.
    Attributes(AddrRange, bool),
}

/// The calls in their order, from all that share it.
type Log = Arc<Mutex<Vec<Call>>>;

#[derive(Debug)]
struct TracedIommu(SimIommu, Log);

impl AddressSpace for TracedIommu {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.1.lock().unwrap().push(Call::Map(range.iova()));
        self.0.map(range)
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        self.1.lock().unwrap().push(Call::Unmap(iova));
        self.0.unmap(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        self.0.limits()
    }
}

struct TracedVm(SimVm, Log);

impl Vm for TracedVm {
    fn check_extension(&self, capability: u32) -> i32 {
        self.0.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.0.set_user_memory_region2(region) }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.0.set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.0.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> kvm_slots::PageSize {
        self.0.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        let call = Call::Attributes(range(gpa, size), attributes != 0);
        self.1.lock().unwrap().push(call);
        self.0.set_memory_attributes(gpa, size, attributes)
    }
}

/// Confidential RAM, and devices that reach its shared side.
struct Machine {
    model: MemoryModel<Handle>,
    space: SpaceId,
    engine: Engine<TracedVm>,
    dma: Arc<GuestDma<TracedIommu>>,
    check: Arc<DmaCheck<TracedIommu>>,
    log: Log,
}

impl Machine {
    /// RAM that is shared. The DMA mappings follow conversions only if `follows`.
    fn new(follows: bool) -> Self {
        let log = Log::default();
        let vm = SimVm::new(SimConfig {
            private_pages: true,
            vm_type: VmType::SwProtected,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = Region::container("memory", 1 << 46).with_handle(Handle::default());
        let root = t.add(root).unwrap();
        let (ram, _) = ram::region(&vm, "ram", RAM).unwrap();
        let ram = t.add(ram).unwrap();
        t.place(ram, root, 0, 0).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();

        let limits = DmaLimits::new(0x1000, [range(0, 1 << 46)], None).unwrap();
        let iommu = SimIommu::new(SimIommuKind::Type1, limits);
        let iommu = TracedIommu(iommu, log.clone());
        let policy = DmaPolicy::default().with_unit(2 << 20);
        let dma = DmaListener::new(iommu, model.reader(space), policy);
        let dma = Arc::new(dma.unwrap());
        let listener = dma.clone() as Arc<dyn Listener<Handle>>;
        model.add_listener(space, 1, listener).unwrap();
        let check = Arc::new(DmaCheck::new(dma.clone()));
        let mut engine = Engine::new(TracedVm(vm, log.clone()), Home::VmAttributes);
        if follows {
            engine.add_listener(dma.clone());
        }
        engine.add_listener(check.clone());
        log.lock().unwrap().clear();
        Self {
            model,
            space,
            engine,
            dma,
            check,
            log,
        }
    }

    /// Converts the pages, and returns the calls.
    fn convert(&mut self, to: PageState) -> Result<Vec<Call>, ConvertError> {
        let mut pages = ModelPages::new(&mut self.model, self.space);
        let request = Request::new(PAGES.0, PAGES.1, to)?;
        let _ = self.engine.convert(&mut pages, request)?;
        Ok(std::mem::take(&mut *self.log.lock().unwrap()))
    }

    fn is_mapped(&self) -> bool {
        let table = self.dma.table();
        table.touching(range(PAGES.0, PAGES.1)).next().is_some()
    }
}

fn range(start: u64, size: u64) -> AddrRange {
    AddrRange::new(start, size.into()).unwrap()
}

#[test]
fn pages_are_out_of_the_iommu_while_kvm_takes_them_for_private() {
    let mut machine = Machine::new(true);
    assert!(machine.is_mapped());
    let pages = range(PAGES.0, PAGES.1);

    let calls = machine.convert(PageState::Private).unwrap();
    let attributes = Call::Attributes(pages, true);
    let changed = calls.iter().position(|call| *call == attributes).unwrap();
    let unmapped = |call: &Call| matches!(call, Call::Unmap(range) if range.overlaps(pages));
    assert!(calls[..changed].iter().any(unmapped), "{calls:?}");
    let mapped = |call: &Call| matches!(call, Call::Map(range) if range.overlaps(pages));
    assert!(!calls.iter().any(mapped), "{calls:?}");
    assert!(!machine.is_mapped());
    assert_eq!(machine.check.mapped(), RAM - PAGES.1);

    let calls = machine.convert(PageState::Shared).unwrap();
    assert_eq!(calls[0], Call::Attributes(pages, false), "{calls:?}");
    assert!(calls[1..].iter().any(mapped), "{calls:?}");
    assert_eq!(machine.check.mapped(), RAM);
    assert_eq!(machine.check.converted(), (PAGES.1, PAGES.1));
}

#[test]
fn pages_that_devices_still_reach_do_not_become_private() {
    let mut machine = Machine::new(false);
    let error = machine.convert(PageState::Private).unwrap_err();
    let ConvertError::Failed(failure) = &error else {
        panic!("{error}");
    };
    let refused = failure.cause.source().unwrap();
    let StillMapped { mapped } = refused.downcast_ref().unwrap();
    assert!(mapped.overlaps(range(PAGES.0, PAGES.1)), "{mapped}");
    assert!(failure.not_undone.is_empty());
    // KVM was not called, and the state is as before.
    assert_eq!(*machine.log.lock().unwrap(), []);
    assert!(machine.is_mapped());
    assert!(machine.model.private(machine.space).is_empty());
    assert_eq!(machine.check.converted(), (0, 0));
}
