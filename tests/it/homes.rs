// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One trace of a guest, wherever the state of its pages is: conversions, acceptance,
//! revocation, a device's DMA, and failures. What the guest, the device and the VMM
//! observe is the same.
//!
//! Where the state of memory is differs in what the kernel promises about the bytes of a
//! page that changes in place, so the trace stores before it loads. Where the memslot
//! itself is private, a guest reaches registers before it accepts them, so the trace
//! accepts them first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, ConvertError, Engine, Home,
    ModelPages, PageRange, Request,
};
use kvm_slots::exit::MmioHandler;
use kvm_slots::rebuild::{Followed, rebuild};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, SlotListener, Slots, VcpusStopped, Vm};
use memory_model::{
    FileSlice, GuestMemfdSides, Memory, MemoryModel, PrivateMmio, Region, RegionId, SpaceId,
};
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_dma::{AddrRange, DmaLimits, SimIommu, SimIommuKind};
use vmm::HostMapping;

const PAGE: u64 = 4096;
const RAM: u64 = 0x1_0000;
const RAM_PAGES: u64 = 8;
const BAR: u64 = 0x8000_0000;
const BAR_PAGES: u64 = 4;
/// `KVM_HC_MAP_GPA_RANGE`: encrypted.
const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

/// What was observed of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// The result of a request: converted bytes, or whether it was refused or failed.
    Request(Result<u64, &'static str>),
    /// What a guest loads from a page, if anything.
    Guest(u64, Option<u64>),
    /// What the host finds on the shared side of a page.
    Host(u64, u64),
    /// The pages of RAM that the device can reach.
    Device(Vec<u64>),
    /// The pages that are private, and those that are accepted.
    State(Vec<u64>, Vec<u64>),
    /// Accepted bytes that were revoked.
    Revoked(u64),
}

/// A VM whose pages have their state there.
fn vm(home: Home) -> SimVm {
    let has_private_pages = home.has_private_pages();
    let vm = SimVm::new(SimConfig {
        home: match has_private_pages {
            true => home,
            false => Home::VmAttributes,
        },
        private_pages: home == Home::VmAttributes,
        vm_type: match has_private_pages {
            true => VmType::SwProtected,
            false => VmType::Plain,
        },
        abi: AbiProfile::FD_OFFSET_BIT_4,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    assert_eq!(Home::probe(&vm), Ok(home));
    vm
}

struct Guest {
    vm: SimVm,
    model: MemoryModel<()>,
    space: SpaceId,
    bar: RegionId,
    engine: Engine<SimVm>,
    slots: Arc<SlotListener<SimVm>>,
    iommu: Arc<SimIommu>,
    host: Arc<HostMapping>,
    registers: OwnedFd,
    refuse: Arc<Refuser>,
    seen: Vec<Seen>,
}

/// A listener that refuses while it is told to.
#[derive(Debug, Default)]
struct Refuser {
    now: AtomicBool,
}

impl ConversionListener for Refuser {
    fn name(&self) -> &str {
        "refuser"
    }

    fn prepare(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        match self.now.load(Ordering::Relaxed) {
            true => Err("it refuses".into()),
            false => Ok(()),
        }
    }
}

impl Guest {
    /// A VM with RAM that a device reaches, and a BAR.
    fn new(home: Home) -> Self {
        let has_private_pages = home.has_private_pages();
        let vm = vm(home);
        let mut model = MemoryModel::new();
        let mut change = model.transaction();
        let root = change.add(Region::container("memory", 1 << 40)).unwrap();
        let size = RAM_PAGES * PAGE;
        let host = Arc::new(HostMapping::anonymous(size).unwrap());
        let memory = match has_private_pages {
            true => {
                let file = vm.create_guest_memfd(size, home.file_flags()).unwrap();
                let file = FileSlice::new(Arc::new(file), 0, size).unwrap();
                let sides = GuestMemfdSides::Private;
                Memory::with_guest_memfd(host.host_memory(), file, sides).unwrap()
            }
            false => Memory::host_only(host.host_memory()),
        };
        let ram = change.add(Region::ram("ram", memory)).unwrap();
        change.place(ram, root, RAM, 0).unwrap();
        let size = BAR_PAGES * PAGE;
        let registers = vm.create_dma_buf(size).unwrap();
        let file = Arc::new(registers.try_clone().unwrap());
        let slice = FileSlice::new(file, 0, size).unwrap();
        let bar = Region::private_mmio("bar", PrivateMmio::new(slice));
        let bar = change.add(bar).unwrap();
        change.place(bar, root, BAR, 0).unwrap();
        change.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();

        // SAFETY: the VM is new, and only this model makes its memslots. The simulated
        // kernel has this profile.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::FD_OFFSET_BIT_4) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        model.add_listener(space, 0, slots.clone()).unwrap();
        let all = AddrRange::new(0, 1 << 40).unwrap();
        let limits = DmaLimits::new(PAGE, [all], None).unwrap();
        let iommu = Arc::new(SimIommu::new(SimIommuKind::Type1, limits));
        let dma = DmaListener::new(iommu.clone(), model.reader(space), DmaPolicy::default());
        let dma = Arc::new(dma.unwrap());
        model.add_listener(space, 1, dma.clone()).unwrap();
        let mut engine = Engine::new(vm.clone(), home);
        let refuse = Arc::new(Refuser::default());
        engine.add_listener(dma);
        engine.add_listener(refuse.clone());
        Self {
            vm,
            model,
            space,
            bar,
            engine,
            slots,
            iommu,
            host,
            registers,
            refuse,
            seen: Vec::new(),
        }
    }

    fn request(&mut self, request: Request) {
        let mut pages = ModelPages::new(&mut self.model, self.space);
        let result = match self.engine.convert(&mut pages, request) {
            Ok(converted) => {
                assert!(converted.not_discarded.is_empty());
                Ok(converted.bytes)
            }
            Err(ConvertError::Failed(failure)) => {
                assert!(failure.not_undone.is_empty());
                Err("failed")
            }
            Err(ConvertError::Refused(_) | ConvertError::Unsupported(_)) => Err("refused"),
            Err(other) => panic!("{other}"),
        };
        self.seen.push(Seen::Request(result));
        self.look();
    }

    fn hypercall(&mut self, gpa: u64, pages: u64, to: u64) {
        self.request(Request::hypercall(gpa, pages, to).unwrap());
    }

    fn revoke(&mut self, gpa: u64, pages: u64) {
        let range = PageRange::new(gpa, pages * PAGE).unwrap();
        let mut state = ModelPages::new(&mut self.model, self.space);
        let revoked = self.engine.revoke(&mut state, range);
        assert!(revoked.not_shared.is_empty());
        self.seen.push(Seen::Revoked(revoked.bytes));
        self.look();
    }

    fn store(&mut self, gpa: u64, value: u64) {
        let stored = self.vm.guest_store(gpa, &value.to_le_bytes(), &mut Bus);
        assert_eq!(stored, Ok(()));
    }

    fn load(&mut self, gpa: u64) {
        let mut data = [0; 8];
        let loaded = self.vm.guest_load(gpa, &mut data, &mut Bus);
        let value = loaded.is_ok().then(|| u64::from_le_bytes(data));
        self.seen.push(Seen::Guest(gpa, value));
    }

    fn host(&mut self, page: u64) {
        let mut data = [0; 8];
        self.host.read(page * PAGE, &mut data).unwrap();
        self.seen.push(Seen::Host(page, u64::from_le_bytes(data)));
    }

    /// Observes the state of all pages, and what the device reaches.
    fn look(&mut self) {
        let all = [(RAM, RAM_PAGES), (BAR, BAR_PAGES)];
        let pages = || {
            all.into_iter()
                .flat_map(|(start, count)| (0..count).map(move |page| start + page * PAGE))
        };
        let private = self.model.private(self.space);
        let accepted = self.model.accepted(self.space);
        let state = Seen::State(
            pages().filter(|gpa| private.contains(*gpa)).collect(),
            pages().filter(|gpa| accepted.contains(*gpa)).collect(),
        );
        self.seen.push(state);
        let reached = pages().filter(|gpa| self.iommu.reach(*gpa, true).is_some());
        self.seen.push(Seen::Device(reached.collect()));
    }

    /// Conversions of RAM, with failures.
    fn memory(&mut self) {
        self.look();
        for page in 0..RAM_PAGES {
            self.store(RAM + page * PAGE, 100 + page);
        }
        self.hypercall(RAM + PAGE, 3, PRIVATE);
        for page in 0..RAM_PAGES {
            self.host(page);
        }
        self.load(RAM + PAGE);
        self.store(RAM + PAGE, 7);
        self.load(RAM + PAGE);
        self.host(1);
        // Half of it has the state already; then all has.
        self.hypercall(RAM + 2 * PAGE, 4, PRIVATE);
        self.hypercall(RAM + 2 * PAGE, 4, PRIVATE);
        // A listener refuses, in both directions.
        self.refuse.now.store(true, Ordering::Relaxed);
        self.hypercall(RAM, 8, PRIVATE);
        self.hypercall(RAM, 8, SHARED);
        self.refuse.now.store(false, Ordering::Relaxed);
        self.load(RAM + PAGE);
        // The IOMMU refuses.
        self.iommu.fail(0, libc::ENOMEM);
        self.hypercall(RAM, 8, SHARED);
        self.iommu.fail_no_more();
        // A hole cannot be private.
        self.hypercall(RAM + 6 * PAGE, 4, PRIVATE);
        self.hypercall(RAM, 8, SHARED);
        for page in 0..RAM_PAGES {
            self.load(RAM + page * PAGE);
            self.host(page);
        }
        self.hypercall(RAM, 8, PRIVATE);
        self.load(RAM + PAGE);
    }

    /// Acceptance of registers, changes of the BAR, revocation, and failures.
    fn registers(&mut self) {
        self.request(Request::accept(BAR, 2 * PAGE).unwrap());
        self.load(BAR);
        self.store(BAR + 8, 5);
        self.load(BAR + 8);
        // Accepted pages cannot move.
        let (bar, to) = (self.bar, BAR + 0x10_0000);
        let mut change = self.model.transaction();
        change.move_to(bar, to).unwrap();
        assert!(change.commit().is_err());
        self.look();
        // More than there is.
        self.request(Request::accept(BAR, (BAR_PAGES + 1) * PAGE).unwrap());
        self.request(Request::accept(BAR, BAR_PAGES * PAGE).unwrap());
        self.refuse.now.store(true, Ordering::Relaxed);
        self.hypercall(BAR, 2, SHARED);
        self.refuse.now.store(false, Ordering::Relaxed);
        self.load(BAR + 8);
        // The device does not respond.
        self.vm.set_revoked(self.registers.as_fd(), true).unwrap();
        self.load(BAR);
        self.revoke(BAR, BAR_PAGES);
        self.vm.set_revoked(self.registers.as_fd(), false).unwrap();
        let mut change = self.model.transaction();
        change.move_to(bar, to).unwrap();
        change.commit().unwrap();
        self.request(Request::accept(to, BAR_PAGES * PAGE).unwrap());
        self.load(to + 8);
        // The guest gives registers back itself.
        self.hypercall(to, 1, SHARED);
        self.revoke(to, BAR_PAGES);
        self.look();
    }
}

/// Loads without memory.
struct Bus;

impl MmioHandler for Bus {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}

fn seen(home: Home, trace: fn(&mut Guest)) -> Vec<Seen> {
    let mut guest = Guest::new(home);
    trace(&mut guest);
    guest.seen
}

fn same(homes: &[Home], trace: fn(&mut Guest)) {
    let first = seen(homes[0], trace);
    assert!(first.len() > 30, "{}", first.len());
    for home in &homes[1..] {
        let other = seen(*home, trace);
        for (step, (one, other)) in first.iter().zip(&other).enumerate() {
            assert_eq!(one, other, "observation {step} with the state in {home}");
        }
        assert_eq!(first.len(), other.len());
    }
}

#[test]
fn conversions_are_observed_to_be_the_same_in_every_home() {
    let homes = [Home::VmAttributes, Home::FileAttributes, Home::Platform];
    same(&homes, Guest::memory);
}

#[test]
fn registers_are_observed_to_be_the_same_in_every_home() {
    let homes = [
        Home::VmAttributes,
        Home::FileAttributes,
        Home::Slot,
        Home::Platform,
    ];
    same(&homes, Guest::registers);
}

#[test]
fn no_observation_of_memory_has_a_device_reach_a_private_page() {
    for home in [Home::VmAttributes, Home::FileAttributes, Home::Platform] {
        let seen = seen(home, Guest::memory);
        let pairs = seen.windows(2).filter_map(|pair| match pair {
            [Seen::State(private, _), Seen::Device(reached)] => Some((private, reached)),
            _ => None,
        });
        let mut changes = 0;
        for (private, reached) in pairs {
            assert!(reached.iter().all(|gpa| !private.contains(gpa)), "{home}");
            assert_eq!(
                reached.len() + private.len(),
                usize::try_from(RAM_PAGES).unwrap()
            );
            changes += usize::from(!private.is_empty());
        }
        assert!(changes > 5);
    }
}

#[test]
fn a_guest_on_a_new_vm_has_its_memory_and_devices_keep_their_mappings() {
    for home in [Home::VmAttributes, Home::FileAttributes, Home::Platform] {
        let mut guest = Guest::new(home);
        guest.store(RAM, 5);
        guest.hypercall(RAM + 2 * PAGE, 3, PRIVATE);
        guest.store(RAM + 2 * PAGE, 6);
        guest.look();
        let (before, calls) = (
            guest.seen[guest.seen.len() - 2..].to_vec(),
            guest.iommu.calls(),
        );

        let new = vm(home);
        let size = BAR_PAGES * PAGE;
        new.adopt_dma_buf(guest.registers.as_fd(), size).unwrap();
        // SAFETY: the VM is new, and only this listener makes its memslots.
        let slots = unsafe { Slots::new(new.clone(), AbiProfile::FD_OFFSET_BIT_4) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        let followed = Followed {
            space: guest.space,
            priority: 0,
            old: &guest.slots,
            new: &slots,
        };
        let engine = Engine::new(new.clone(), home);
        let private = rebuild(&mut guest.model, &followed, &engine, |memory| {
            let (file, sides) = memory.guest_memfd().ok_or("no guest_memfd")?;
            let size = file.size();
            let file = new.create_guest_memfd(size, home.file_flags())?;
            let file = FileSlice::new(Arc::new(file), 0, size).ok_or("no bytes")?;
            let memory = Memory::with_guest_memfd(memory.host().clone(), file, sides);
            Ok(memory.ok_or("another size")?)
        });
        assert_eq!(private.unwrap(), 3 * PAGE, "{home}");
        guest.vm = new;
        guest.look();
        assert_eq!(guest.seen[guest.seen.len() - 2..], before, "{home}");
        assert_eq!(guest.iommu.calls(), calls, "{home}");
        guest.load(RAM);
        guest.load(RAM + 2 * PAGE);
        let loads = &guest.seen[guest.seen.len() - 2..];
        assert_eq!(
            loads,
            [
                Seen::Guest(RAM, Some(5)),
                Seen::Guest(RAM + 2 * PAGE, Some(0))
            ]
        );
    }
}
