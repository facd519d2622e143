// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One VM with one guest, real or simulated, behind one trait, so that the same
//! test body runs on both.

mod arena;
mod device;
mod expected;
mod file_calls;
mod model_memory;
mod pin;
mod real;
mod simulated;

use std::os::fd::{BorrowedFd, RawFd};

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::{FileCall, PreFault, Sharing, VmType};
use kvm_slots::{Capabilities, Errno, Vm};
use vmm::guest::GuestError;

pub use arena::{Arena, HostChange, PAGE, host_page_size, host_pages, peek, poke};
pub use device::{DEVICE_PAGES, LentDevice};
pub use expected::Expected;
pub use file_calls::FileMapping;
pub(crate) use model_memory::{Gate, ModelMemory};
pub use pin::Pin;
pub use real::Real;
pub use simulated::Simulated;

/// The guest-physical address of the guest's own code and page tables.
pub const STUB: u64 = 0x0800_0000;

/// The 2 MiB pages that the guest can reach besides its own: one at the bottom,
/// two in the middle, two around 4 GiB, and one further up.
pub const REACHABLE: [u64; 6] = [
    0,
    0x4000_0000,
    0x4020_0000,
    0xffe0_0000,
    0x1_0000_0000,
    0x4_0000_0000,
];

/// A VM under test. It has one guest, unless it was created without.
pub trait Subject: Sized {
    /// The VM.
    type Vm: Vm + Clone + Send;

    /// Creates another VM of the same kind, with or without a guest.
    ///
    /// # Errors
    /// A message that says why there is none.
    fn another(&self, guest: bool) -> Result<Self, String>;

    /// The VM.
    fn vm(&self) -> &Self::Vm;

    /// The type of the VM.
    fn vm_type(&self) -> VmType;

    /// What statements expect on the VM's architecture.
    fn expected(&self) -> Expected;

    /// The descriptor of the VM itself, if it has one.
    fn descriptor(&self) -> Option<RawFd>;

    /// Makes a system call on a guest_memfd.
    ///
    /// # Errors
    /// What the kernel returns.
    fn file_call(&self, file: BorrowedFd<'_>, call: FileCall) -> Result<(), Errno>;

    /// Maps a guest_memfd.
    ///
    /// # Errors
    /// What the kernel returns.
    fn map_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        sharing: Sharing,
    ) -> Result<FileMapping, Errno>;

    /// Holds references to shared pages of a guest_memfd that the host can map, as an
    /// IOMMU or a system call does.
    ///
    /// # Errors
    /// What the kernel returns: EFAULT if one of the pages is private.
    fn pin(&self, file: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Pin, Errno>;

    /// Adds a device for slots without a host address: [`DEVICE_PAGES`] pages
    /// of zeros.
    ///
    /// # Errors
    /// A message that says why there is none.
    fn lend_device(&mut self) -> Result<(), String>;

    /// The dma-buf of that device, if it has one.
    fn dma_buf(&self) -> Option<BorrowedFd<'_>>;

    /// Switches that device on or off.
    ///
    /// # Errors
    /// A message that says why that is not possible.
    fn set_answering(&self, on: bool) -> Result<(), String>;

    /// `KVM_PRE_FAULT_MEMORY`, once.
    ///
    /// # Errors
    /// What the kernel returns.
    fn pre_fault(&mut self, range: &mut PreFault) -> Result<(), Errno>;

    /// The guest loads (`value` is `None`) or stores 1, 2, 4 or 8 bytes at an
    /// address in [`REACHABLE`]. Returns what it loaded.
    ///
    /// # Errors
    /// The error of `KVM_RUN`. The guest continues after the access.
    fn access(
        &mut self,
        gpa: u64,
        size: usize,
        value: Option<u64>,
        vmm: &mut dyn MmioHandler,
    ) -> Result<u64, GuestError>;

    /// The page size of the VM's kernel in bytes.
    fn page_size(&self) -> u64 {
        self.vm().page_size().bytes()
    }

    /// Memory of the host, in pages of the VM's kernel.
    fn arena(&self, pages: usize) -> Arena {
        Arena::with_page_size(pages, self.page_size())
    }

    /// The capabilities of the VM.
    fn capabilities(&self) -> Capabilities {
        Capabilities::probe(self.vm())
    }

    /// The number of the guest's own slot, which is the last one. Tests may use
    /// the numbers below.
    fn own_slot(&self) -> u32 {
        self.capabilities().nr_memslots - 1
    }

    /// Makes a memslot ioctl: the newer one, or the older one with the fields
    /// of `region` that it has.
    ///
    /// # Errors
    /// What the kernel returns.
    ///
    /// # Safety
    /// As for [`Vm::set_user_memory_region2`].
    unsafe fn set(&self, region: &kvm_userspace_memory_region2, v1: bool) -> Result<(), Errno> {
        if !v1 {
            // SAFETY: passed on from the caller.
            return unsafe { self.vm().set_user_memory_region2(region) };
        }
        let region = kvm_userspace_memory_region {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
        };
        // SAFETY: as above.
        unsafe { self.vm().set_user_memory_region(&region) }
    }
}
