// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices in a guest's memory that the host does not map: a memslot on a slice
//! of a dma-buf.

use std::os::fd::{AsRawFd, OwnedFd};

use guest_ranges::AddrRange;
use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::sim::VmType;
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{AbiProfile, Vm};
use vfio_private::device::Device;
use vmm::guest::GuestError;

use super::guest::Exits;
use super::registers::EDU_ID;
use super::{at, regions, same};
use crate::subject::{Real, Subject, host_page_size};

/// The guest-physical address of the device.
const GPA: u64 = 0x4000_0000;

/// A VM with a slot of one page.
struct Slice {
    guest: Real,
    exits: Exits,
    _file: OwnedFd,
}

impl Slice {
    /// Creates a slot on the second page of a dma-buf, which is the first page
    /// of edu's BAR.
    fn new(device: &Device, vm_type: VmType) -> Result<Self, String> {
        let open = regions::bar(device, 0)?;
        let page = host_page_size();
        let ranges =
            [(page, page), (0, 2 * page)].map(|(at, size)| AddrRange::new(at, size.into()));
        let [second, first] = ranges;
        let ranges = [second.ok_or("a range")?, first.ok_or("a range")?];
        let file = device.export_dma_buf(open.bar.index().get().into(), &ranges);
        let file = file.map_err(at("a dma-buf"))?;
        let guest = Real::new(vm_type, true)?;
        let mut region = kvm_userspace_memory_region2 {
            flags: AbiProfile::FD_OFFSET_BIT_4.flag().ok_or("no flag")?,
            guest_phys_addr: GPA,
            memory_size: page,
            pad1: u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes()),
            ..Default::default()
        };
        region.pad2[0] = page;
        // SAFETY: the slot names a file and no memory of this process.
        unsafe { guest.set(&region, false) }.map_err(at("a slot"))?;
        Ok(Self {
            guest,
            exits: Exits::default(),
            _file: file,
        })
    }

    fn load(&mut self) -> Result<u64, GuestError> {
        self.guest.access(GPA, 4, None, &mut self.exits)
    }

    fn reads_its_id(&mut self) -> Result<(), String> {
        same("identification", self.load(), Ok(EDU_ID.into()))?;
        same("exits", self.exits.0, 0)
    }
}

pub(super) fn reads_its_id(device: &Device) -> Result<(), String> {
    Slice::new(device, VmType::Plain)?.reads_its_id()
}

pub(super) fn is_accepted(device: &Device) -> Result<(), String> {
    let mut slice = Slice::new(device, VmType::SwProtected)?;
    let (flags, gpa, size) = (MEMORY_EXIT_FLAG_PRIVATE, GPA, host_page_size());
    let unaccepted = Err(GuestFault::Memory { flags, gpa, size }.into());
    same("unaccepted", slice.load(), unaccepted.clone())?;
    let set = |slice: &Slice, attributes| {
        let vm = slice.guest.vm();
        let set = vm.set_memory_attributes(GPA, size, attributes);
        set.map_err(at("attributes"))
    };
    set(&slice, MEMORY_ATTRIBUTE_PRIVATE)?;
    slice.reads_its_id()?;
    set(&slice, 0)?;
    same("given back", slice.load(), unaccepted)?;
    set(&slice, MEMORY_ATTRIBUTE_PRIVATE)?;
    slice.reads_its_id()
}

pub(super) fn is_revoked(device: &Device) -> Result<(), String> {
    stops_while_revoked(device, Slice::new(device, VmType::Plain)?, 0)
}

pub(super) fn private_is_revoked(device: &Device) -> Result<(), String> {
    let slice = Slice::new(device, VmType::SwProtected)?;
    let vm = slice.guest.vm();
    let set = vm.set_memory_attributes(GPA, host_page_size(), MEMORY_ATTRIBUTE_PRIVATE);
    set.map_err(at("attributes"))?;
    stops_while_revoked(device, slice, MEMORY_EXIT_FLAG_PRIVATE)
}

fn stops_while_revoked(device: &Device, mut slice: Slice, flags: u64) -> Result<(), String> {
    slice.reads_its_id()?;
    let (gpa, size) = (GPA, host_page_size());
    let revoked = Err(GuestFault::Revoked { flags, gpa, size }.into());
    for _ in 0..3 {
        device.set_memory_decode(false).map_err(at("decode off"))?;
        same("revoked", slice.load(), revoked.clone())?;
        same("revoked still", slice.load(), revoked.clone())?;
        device.set_memory_decode(true).map_err(at("decode on"))?;
        slice.reads_its_id()?;
    }
    Ok(())
}
