// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memslot ioctls by hand, field by field.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kvm_bindings::{
    KVM_CAP_MULTI_ADDRESS_SPACE, KVM_MEM_GUEST_MEMFD, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{Capabilities, Errno, GuestMemfdFlags, Vm};

use super::{HOST, PAGE};

/// The simulated kernels, the oldest first.
pub const ALL: [KernelVersion; 4] = [
    KernelVersion::V6_1,
    KernelVersion::V6_12,
    KernelVersion::V6_18,
    KernelVersion::V7_3,
];

/// Kernels with the newer ioctl.
pub const NEWER: [KernelVersion; 3] = [ALL[1], ALL[2], ALL[3]];

/// Results of a refused ioctl.
pub const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);
/// See [`EINVAL`].
pub const EEXIST: Result<(), Errno> = Err(Errno::EEXIST);
/// See [`EINVAL`].
pub const EBADF: Result<(), Errno> = Err(Errno::EBADF);

/// One page of plain memory at `gpa`.
pub fn page(slot: u32, gpa: u64) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        slot,
        guest_phys_addr: gpa,
        memory_size: PAGE,
        userspace_addr: HOST,
        ..Default::default()
    }
}

/// One page of a guest_memfd at `gpa`.
pub fn file_page(slot: u32, gpa: u64, file: &impl AsRawFd) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        flags: KVM_MEM_GUEST_MEMFD,
        guest_memfd: number(file),
        ..page(slot, gpa)
    }
}

/// One page of a device's file at `gpa`, as FD_OFFSET_BIT_4 takes it.
pub fn device_page(slot: u32, gpa: u64, file: &impl AsRawFd) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        flags: 1 << 4,
        userspace_addr: 0,
        pad1: number(file),
        ..page(slot, gpa)
    }
}

/// A file's descriptor, as in a region.
pub fn number(file: &impl AsRawFd) -> u32 {
    u32::try_from(file.as_raw_fd()).expect("an open file")
}

/// A VM without a guest: nothing accesses the memory that its slots name.
#[derive(Debug)]
pub struct Guestless {
    vm: SimVm,
}

impl Guestless {
    /// A VM of this description.
    pub fn new(config: SimConfig) -> Self {
        Self {
            vm: SimVm::new(config),
        }
    }

    /// A plain VM on a released kernel.
    pub fn released(kernel: KernelVersion) -> Self {
        Self::new(SimConfig::released(kernel))
    }

    /// `KVM_SET_USER_MEMORY_REGION2`.
    pub fn set(&self, region: kvm_userspace_memory_region2) -> Result<(), Errno> {
        // SAFETY: only a guest accesses the memory that slots name. This VM,
        // which no one else can reach, never runs one.
        unsafe { self.vm.set_user_memory_region2(&region) }
    }

    /// `KVM_SET_USER_MEMORY_REGION`, with the fields of `region` that it has.
    pub fn set_v1(&self, region: kvm_userspace_memory_region2) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
        };
        // SAFETY: as above.
        unsafe { self.vm.set_user_memory_region(&region) }
    }

    /// Deletes a slot.
    pub fn delete(&self, slot: u32) -> Result<(), Errno> {
        self.set(kvm_userspace_memory_region2 {
            slot,
            ..Default::default()
        })
    }

    /// `KVM_CREATE_GUEST_MEMFD`.
    pub fn create(&self, size: u64, flags: u64) -> Result<OwnedFd, Errno> {
        let flags = GuestMemfdFlags::from_bits_retain(flags);
        self.vm.create_guest_memfd(size, flags)
    }

    /// A guest_memfd of this many pages, without flags.
    pub fn file(&self, pages: u64) -> OwnedFd {
        self.create(pages * PAGE, 0).expect("a guest_memfd")
    }

    /// A dma-buf of this many pages.
    pub fn dma_buf(&self, pages: u64) -> OwnedFd {
        self.vm.create_dma_buf(pages * PAGE).expect("a dma-buf")
    }

    /// The capabilities of the VM.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::probe(&self.vm)
    }

    /// The number of address spaces.
    pub fn address_spaces(&self) -> i32 {
        self.vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE)
    }

    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    pub fn set_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        self.vm.set_memory_attributes(gpa, size, attributes)
    }
}

/// A kernel that was built with private pages, and a VM that can have them.
pub fn private_vm(kernel: KernelVersion) -> SimConfig {
    SimConfig {
        private_pages: true,
        vm_type: VmType::SwProtected,
        ..SimConfig::released(kernel)
    }
}

/// The number of a closed descriptor. This process never opens that many.
pub const CLOSED: u32 = 99_999;

/// Files that are neither a guest_memfd nor a dma-buf.
pub fn wrong_files() -> Vec<OwnedFd> {
    let null = File::open("/dev/null").expect("a file");
    let directory = File::open("/").expect("a directory");
    // SAFETY: the name is a C string.
    let memfd = unsafe { libc::memfd_create(c"plain".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(memfd >= 0);
    // SAFETY: the kernel has just created the descriptor, so no one else owns it.
    let memfd = unsafe { OwnedFd::from_raw_fd(memfd) };
    vec![null.into(), directory.into(), memfd]
}
