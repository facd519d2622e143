// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VM whose guest loads and stores.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_GUEST_MEMFD, kvm_userspace_memory_region2};
use kvm_slots::exit::{GuestFault, MmioHandler};
use kvm_slots::sim::{SimConfig, SimVm};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{GuestMemfdFlags, Vm};

use super::PAGE;
use super::pages::Pages;
use super::region::device_page;

/// Every byte of an MMIO load.
pub const MMIO: u8 = 0xee;

#[derive(Debug)]
pub struct Guest {
    vm: SimVm,
    /// All that slots name; kept for as long as the VM.
    kept: Vec<Arc<Pages>>,
    exits: Exits,
}

/// The exits to the VMM so far.
#[derive(Debug, Default)]
struct Exits(Vec<String>);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        self.0.push(format!("read {} at {gpa:#x}", data.len()));
        data.fill(MMIO);
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.0.push(format!("write {data:x?} at {gpa:#x}"));
    }
}

/// A guest that never exits to the VMM.
pub struct NoExits;

impl MmioHandler for NoExits {
    fn mmio_read(&mut self, gpa: u64, _data: &mut [u8]) {
        panic!("an exit at {gpa:#x}");
    }

    fn mmio_write(&mut self, gpa: u64, _data: &[u8]) {
        panic!("an exit at {gpa:#x}");
    }
}

impl Guest {
    pub fn new(config: SimConfig) -> Self {
        Self {
            vm: SimVm::new(config),
            kept: Vec::new(),
            exits: Exits::default(),
        }
    }

    pub fn vm(&self) -> &SimVm {
        &self.vm
    }

    /// A slot on these pages, with these flags.
    pub fn ram(&mut self, slot: u32, gpa: u64, flags: u32, pages: &Arc<Pages>) {
        self.set(slot, gpa, flags, pages, None);
    }

    /// A slot on `size` bytes of these pages, from the first address on that is a
    /// multiple of `size`.
    pub fn aligned_ram(&mut self, slot: u32, gpa: u64, size: u64, pages: &Arc<Pages>) {
        let region = kvm_userspace_memory_region2 {
            slot,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: pages.address().next_multiple_of(size),
            ..Default::default()
        };
        assert!(region.userspace_addr + size <= pages.address() + pages.size());
        self.kept.push(pages.clone());
        // SAFETY: as in `set`. The slot ends where the pages do, or before.
        unsafe { self.vm.set_user_memory_region2(&region) }.expect("a slot");
    }

    /// A slot on these pages and on a new guest_memfd.
    pub fn ram_and_file(
        &mut self,
        slot: u32,
        gpa: u64,
        pages: &Arc<Pages>,
        flags: GuestMemfdFlags,
    ) -> OwnedFd {
        let file = self.vm.create_guest_memfd(pages.size(), flags);
        let file = file.expect("a guest_memfd");
        self.set(slot, gpa, KVM_MEM_GUEST_MEMFD, pages, Some(&file));
        file
    }

    fn set(&mut self, slot: u32, gpa: u64, flags: u32, pages: &Arc<Pages>, file: Option<&OwnedFd>) {
        let fd = file.map_or(0, |file| file.as_raw_fd());
        let region = kvm_userspace_memory_region2 {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: pages.size(),
            userspace_addr: pages.address(),
            guest_memfd: u32::try_from(fd).expect("an open file"),
            ..Default::default()
        };
        self.kept.push(pages.clone());
        // SAFETY: the pages are a mapping of their own, to which there are no
        // references, and `kept` keeps them for as long as there is this VM.
        unsafe { self.vm.set_user_memory_region2(&region) }.expect("a slot");
    }

    /// A slot on one page of a device's file.
    pub fn device(&mut self, slot: u32, gpa: u64, file: &OwnedFd, offset: u64) {
        let mut region = device_page(slot, gpa, file);
        region.pad2[0] = offset;
        // SAFETY: the slot names no host address.
        unsafe { self.vm.set_user_memory_region2(&region) }.expect("a slot");
    }

    pub fn delete(&mut self, slot: u32) {
        let region = kvm_userspace_memory_region2 {
            slot,
            ..Default::default()
        };
        // SAFETY: a deletion.
        unsafe { self.vm.set_user_memory_region2(&region) }.expect("a slot to delete");
    }

    /// Makes the page at `gpa` private, or shared.
    pub fn convert(&self, gpa: u64, private: bool) {
        let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
        let converted = self.vm.set_memory_attributes(gpa, PAGE, attributes);
        converted.expect("a VM with private pages");
    }

    pub fn load<const N: usize>(&mut self, gpa: u64) -> Result<[u8; N], GuestFault> {
        let mut data = [0; N];
        self.vm.guest_load(gpa, &mut data, &mut self.exits)?;
        Ok(data)
    }

    pub fn store(&mut self, gpa: u64, data: &[u8]) -> Result<(), GuestFault> {
        self.vm.guest_store(gpa, data, &mut self.exits)
    }

    /// The exits since the last call.
    pub fn exits(&mut self) -> Vec<String> {
        std::mem::take(&mut self.exits.0)
    }
}
