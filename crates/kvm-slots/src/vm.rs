// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The few things that this crate asks of a VM, real or simulated.

use std::os::fd::OwnedFd;

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};

use crate::discard::{self, Discard};
use crate::errno::Errno;
use crate::push::PushMap;

bitflags::bitflags! {
    /// Flags of `KVM_CREATE_GUEST_MEMFD` (include/uapi/linux/kvm.h, 6.18).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct GuestMemfdFlags: u64 {
        /// The host may map the file; all guest faults then go to the file.
        const MMAP = 1 << 0;
        /// The file's pages are shared to begin with.
        const INIT_SHARED = 1 << 1;
    }
}

/// A KVM virtual machine, as far as its memory goes.
///
/// [`KvmVm`](crate::KvmVm) is the real one. With the feature `sim`, `SimVm`
/// answers as the kernel would.
pub trait Vm {
    /// `KVM_CHECK_EXTENSION` on the VM: what a capability's value is for this
    /// type of VM.
    fn check_extension(&self, capability: u32) -> i32;

    /// `KVM_SET_USER_MEMORY_REGION2`. A signal that interrupts it is no error:
    /// implementations retry a bounded number of times.
    ///
    /// # Errors
    /// What the kernel returns; the slot is then as it was.
    ///
    /// # Safety
    /// If the region names a host address, the whole range from there on must
    /// be memory that the guest may read (and, unless the slot is read-only,
    /// write) at any time, until the slot is deleted: no reference to it, and
    /// no other use of those addresses.
    ///
    /// All slots of the VM must be made and changed by this value or its
    /// clones, and by these two calls: the length of a slot's dirty log is
    /// known by them.
    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno>;

    /// `KVM_SET_USER_MEMORY_REGION`, for kernels that have no other.
    ///
    /// # Errors
    /// As for [`set_user_memory_region2`](Self::set_user_memory_region2).
    ///
    /// # Safety
    /// As for [`set_user_memory_region2`](Self::set_user_memory_region2).
    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno>;

    /// `KVM_CREATE_GUEST_MEMFD`: a guest_memfd of `size` bytes.
    ///
    /// # Errors
    /// What the kernel returns.
    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno>;

    /// `KVM_SET_MEMORY_ATTRIBUTES` of the pages of `size` bytes from `gpa` on.
    /// A signal that interrupts it is no error here either.
    ///
    /// # Errors
    /// What the kernel returns; no attribute has changed then.
    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno>;

    /// How many bits a guest-physical address has, if that is known. No slot
    /// beyond can exist, or no vCPU could reach it.
    fn address_bits(&self) -> Option<u32> {
        None
    }

    /// The call that maps a device's memory without a memslot, if the platform
    /// has one ([`AbiProfile::Push`](crate::AbiProfile::Push)).
    fn push_map(&self) -> Option<&dyn PushMap> {
        None
    }

    /// Frees bytes that have become stale. They then read as zeros, or, in a
    /// private mapping of a file, as the bytes of the file. The system calls are
    /// the same for every VM, so implementations need not provide this method.
    ///
    /// # Errors
    /// What the kernel returns. Some of the bytes may be gone.
    ///
    /// # Safety
    /// Host memory must be memory that the guest may write at any time, and
    /// not otherwise used; a file must be one of this VM's guest_memfds.
    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { discard::perform(what) }
    }
}
