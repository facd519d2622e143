// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM of these tests: a VM whose memslots and attributes follow a memory
//! model.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_slots::convert::{ConvertError, Engine, Home, ModelPages, PageRange, Request};
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE, MmioHandler};
use kvm_slots::sim::VmType;
use kvm_slots::{AbiProfile, HoldVcpus, KvmVm, SlotListener};
use memory_model::{
    CommitError, FileSlice, MemoryModel, PrivateMmio, Region, RegionId, SpaceId, Transaction,
    TreeError,
};
use vfio_private::device::{Device, Mapping};
use vfio_private::region_info::RegionInfo;
use vmm::guest::GuestError;

use super::at;
use crate::subject::{Gate, ModelMemory, Real, Subject, host_page_size};

/// Guest-physical addresses for BARs of 1 MiB.
pub(super) const A: u64 = 0x4000_0000;
pub(super) const B: u64 = 0x4010_0000;
pub(super) const C: u64 = 0x4020_0000;

/// The result of a guest's access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The access succeeded and loaded this value.
    Value(u32),
    /// A private access to a shared page: the flags and the address of the
    /// exit.
    Fault(u64, u64),
    /// An access to a device that does not respond: the address. It is private in
    /// a confidential VM.
    Revoked(u64),
}

/// A trapped part of a BAR: registers of the device, or the VMM's MSI-X table.
#[derive(Debug)]
pub(super) struct Trapped {
    pub(super) device: Arc<Device>,
    pub(super) info: RegionInfo,
    /// The offset in the BAR.
    pub(super) offset: u64,
    /// Whether the VMM emulates it, as an MSI-X table.
    pub(super) emulated: bool,
}

/// Answers exits and counts them.
#[derive(Debug, Default)]
pub(super) struct Exits {
    pub(super) count: usize,
    /// The trapped parts by their first address.
    pub(super) trapped: BTreeMap<u64, Trapped>,
    table: BTreeMap<u64, u8>,
}

impl Exits {
    /// The part at an address, and the offset in its BAR.
    fn find(&self, gpa: u64) -> Option<(&Trapped, u64)> {
        let (start, part) = self.trapped.range(..=gpa).next_back()?;
        Some((part, part.offset + (gpa - start)))
    }
}

impl MmioHandler for Exits {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        self.count += 1;
        data.fill(0xff);
        match self.find(gpa) {
            Some((part, _)) if part.emulated => {
                for (n, byte) in (gpa..).zip(data) {
                    *byte = self.table.get(&n).copied().unwrap_or(0);
                }
            }
            // A device that does not respond reads as ones, as on a bus.
            Some((part, offset)) => drop(part.device.read(&part.info, offset, data)),
            None => {}
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.count += 1;
        match self.find(gpa) {
            Some((part, _)) if part.emulated => self.table.extend((gpa..).zip(data.to_vec())),
            Some((part, offset)) => drop(part.device.write(&part.info, offset, data)),
            None => {}
        }
    }
}

/// The guest without its memory, so that it can run while the memory changes.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) real: Real,
    gate: Arc<Gate>,
    pub(super) exits: Exits,
}

impl Guest {
    /// A load (`value` is `None`) or store of 4 bytes.
    pub(super) fn access(&mut self, gpa: u64, value: Option<u32>) -> Result<Seen, String> {
        let _in_guest = self.gate.hold();
        let value = value.map(u64::from);
        let result = self.real.access(gpa, 4, value, &mut self.exits);
        self.seen(result, gpa)
    }

    /// Makes `times` loads of 4 bytes and returns the last one. The vCPU cannot
    /// be held meanwhile.
    pub(super) fn loads(&mut self, gpa: u64, count: u32) -> Result<Seen, String> {
        let loaded = self.real.loads(gpa, count, &mut self.exits);
        self.seen(loaded.map(u64::from), gpa)
    }

    fn seen(&self, result: Result<u64, GuestError>, gpa: u64) -> Result<Seen, String> {
        let private = match self.real.vm_type() {
            VmType::Plain => 0,
            VmType::SwProtected => MEMORY_EXIT_FLAG_PRIVATE,
        };
        match result {
            Ok(value) => Ok(Seen::Value(u32::try_from(value).map_err(at("a value"))?)),
            Err(GuestError::Fault(GuestFault::Memory { flags, gpa, .. })) => {
                Ok(Seen::Fault(flags, gpa))
            }
            Err(GuestError::Fault(GuestFault::Revoked { flags, gpa, .. })) if flags == private => {
                Ok(Seen::Revoked(gpa))
            }
            Err(error) => Err(format!("{gpa:#x}: {error}")),
        }
    }

    pub(super) fn load(&mut self, gpa: u64) -> Result<u32, String> {
        match self.access(gpa, None)? {
            Seen::Value(value) => Ok(value),
            other => Err(format!("a load at {gpa:#x}: {other:x?}")),
        }
    }

    pub(super) fn store(&mut self, gpa: u64, value: u32) -> Result<(), String> {
        match self.access(gpa, Some(value))? {
            Seen::Value(_) => Ok(()),
            other => Err(format!("a store at {gpa:#x}: {other:x?}")),
        }
    }
}

/// The guest's memory.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) model: MemoryModel<()>,
    pub(super) space: SpaceId,
    pub(super) slots: Arc<SlotListener<KvmVm, Arc<Gate>>>,
    root: RegionId,
    engine: Engine<KvmVm>,
}

/// A VM that has only its guest's own memory.
pub(super) fn machine(vm_type: VmType) -> Result<(Guest, Memory), String> {
    let real = Real::new(vm_type, true)?;
    let gate = Arc::new(Gate::default());
    let vm = real.vm().clone();
    // SAFETY: `real` is new, and nothing but the model makes slots of its VM from here on. These
    // tests need `Need::BackingFd`: a kernel with the patch that gives the flag this meaning.
    let followed = unsafe { ModelMemory::new(&real, AbiProfile::FD_OFFSET_BIT_4, &gate) }?;
    let home = Home::probe(&vm).map_err(at("the home"))?;
    let engine = Engine::new(vm, home);
    let guest = Guest {
        real,
        gate,
        exits: Exits::default(),
    };
    let ModelMemory {
        model,
        root,
        space,
        slots,
    } = followed;
    let memory = Memory {
        model,
        space,
        slots,
        root,
        engine,
    };
    Ok((guest, memory))
}

impl Memory {
    /// Places a region. Where regions overlap, the guest sees the one with the
    /// highest priority.
    pub(super) fn show(
        &mut self,
        region: Region<()>,
        gpa: u64,
        priority: i32,
    ) -> Result<RegionId, String> {
        let root = self.root;
        let mut shown = None;
        self.change(|change| {
            let id = change.add(region)?;
            shown = Some(id);
            change.place(id, root, gpa, priority)
        })
        .map_err(at("a region"))?;
        shown.ok_or_else(|| "it was not added".into())
    }

    /// Places bytes of a dma-buf, without a host address. The guest of a plain VM
    /// reaches them even before it accepts them.
    pub(super) fn show_private(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: u64,
        size: u64,
        gpa: u64,
    ) -> Result<RegionId, String> {
        self.show(private_region(file, offset, size)?, gpa, 0)
    }

    /// Places a mapping of a BAR.
    pub(super) fn show_mapped(&mut self, bar: &Arc<Mapping>, gpa: u64) -> Result<RegionId, String> {
        self.show(Region::device_ram("mapped", bar.host_memory()), gpa, 0)
    }

    /// The container of all regions.
    pub(super) fn root(&self) -> RegionId {
        self.root
    }

    /// Makes a change in one transaction.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Transaction<'_, ()>) -> Result<(), TreeError>,
    ) -> Result<(), CommitError> {
        let mut transaction = self.model.transaction();
        // An edit that the tree refuses is a mistake of the test.
        change(&mut transaction).expect("the tree allows it");
        transaction.commit()
    }

    /// Places bytes of a dma-buf, without a host address, which the guest accepts.
    pub(super) fn show_accepted(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: u64,
        size: u64,
        gpa: u64,
    ) -> Result<RegionId, String> {
        let region = self.show_private(file, offset, size, gpa)?;
        self.accept(gpa, size)?;
        Ok(region)
    }

    /// The guest accepts pages.
    pub(super) fn accept(&mut self, gpa: u64, size: u64) -> Result<(), String> {
        let request = Request::accept(gpa, size).map_err(at("a request"))?;
        let converted = self.convert(request).map_err(at("acceptance"))?;
        match converted {
            bytes if bytes == size => Ok(()),
            bytes => Err(format!("{bytes:#x} bytes of {size:#x} were accepted")),
        }
    }

    /// Answers a memory fault.
    pub(super) fn resolve(&mut self, flags: u64, gpa: u64) -> Result<u64, String> {
        let request =
            Request::memory_fault(flags, gpa, host_page_size()).map_err(at("a request"))?;
        self.convert(request).map_err(at("a memory fault"))
    }

    fn convert(&mut self, request: Request) -> Result<u64, ConvertError> {
        let mut pages = ModelPages::new(&mut self.model, self.space);
        Ok(self.engine.convert(&mut pages, request)?.bytes)
    }

    /// Revokes pages because of the device. Returns how many bytes were
    /// accepted.
    pub(super) fn revoke(&mut self, gpa: u64, size: u64) -> Result<u64, String> {
        let range = PageRange::new(gpa, size).map_err(at("a range"))?;
        let mut pages = ModelPages::new(&mut self.model, self.space);
        let revoked = self.engine.revoke(&mut pages, range);
        match revoked.not_shared.is_empty() {
            true => Ok(revoked.bytes),
            false => Err(format!("{:?}", revoked.not_shared)),
        }
    }
}

/// A region of registers that only the guest reaches.
pub(super) fn private_region(
    file: &Arc<OwnedFd>,
    offset: u64,
    size: u64,
) -> Result<Region<()>, String> {
    let slice = FileSlice::new(Arc::clone(file), offset, size);
    let slice = slice.ok_or("a slice without bytes")?;
    Ok(Region::private_mmio("private", PrivateMmio::new(slice)))
}
