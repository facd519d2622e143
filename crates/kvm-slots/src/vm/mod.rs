// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The calls of a VM, real or simulated.

pub(crate) mod address_bits;
pub(crate) mod caps;
pub(crate) mod discard;
pub(crate) mod errno;
pub(crate) mod file_attributes;
pub(crate) mod file_size;
pub(crate) mod interrupted;
pub(crate) mod ioctl;
pub(crate) mod kvm;
mod shared;

use std::os::fd::{BorrowedFd, OwnedFd};

use guest_ranges::PageSize;
use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};

use crate::push::{PushMap, PushPages};
use crate::vm::address_bits::AddressBits;
use crate::vm::discard::Discard;
use crate::vm::errno::Errno;
use crate::vm::file_attributes::FileAttributesError;

bitflags::bitflags! {
    /// Flags of `KVM_CREATE_GUEST_MEMFD` (include/uapi/linux/kvm.h, 6.18).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct GuestMemfdFlags: u64 {
        /// The host may map the file. All guest faults then use the file.
        const MMAP = 1 << 0;
        /// The file's pages are initially shared.
        const INIT_SHARED = 1 << 1;
    }
}

/// The memory of a KVM virtual machine.
///
/// [`KvmVm`](crate::KvmVm) is a real one. With the feature `sim`, `SimVm` simulates
/// one. Memslots, conversions and dirty tracking each take a value: clones of these two
/// are the same VM, and any other type can be in an [`Arc`](std::sync::Arc).
pub trait Vm {
    /// `KVM_CHECK_EXTENSION` on the VM: a capability's value for this type of VM.
    fn check_extension(&self, capability: u32) -> i32;

    /// `KVM_SET_USER_MEMORY_REGION2`. A signal that interrupts it is not an error:
    /// implementations retry a bounded number of times.
    ///
    /// # Errors
    /// The kernel's error; the slot is unchanged.
    ///
    /// # Safety
    /// If the region has a host address, the whole range must be memory that the
    /// guest may read (and, unless the slot is read-only, write) at any time until
    /// the slot is deleted. There must be no reference to it, and no other use of
    /// those addresses.
    ///
    /// All slots of the VM must be made and changed by this value or its clones,
    /// and by these two calls, which determine the length of a slot's dirty log.
    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno>;

    /// `KVM_SET_USER_MEMORY_REGION`, for older kernels.
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
    /// The kernel's error.
    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno>;

    /// `KVM_SET_MEMORY_ATTRIBUTES` for `size` bytes at `gpa`. A signal that
    /// interrupts it is not an error.
    ///
    /// # Errors
    /// The kernel's error; no attribute has changed.
    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno>;

    /// `KVM_SET_MEMORY_ATTRIBUTES2` on a guest_memfd of this VM: the attributes of
    /// `size` bytes at `offset` of the file, whichever memslots show them. No released
    /// kernel has it. This project's lab has one that does (`lab-7.3-gmem-attributes`).
    ///
    /// # Errors
    /// The kernel's error; no attribute has changed. ENOTTY: there is no such ioctl.
    fn set_file_attributes(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        let _ = (file, offset, size, attributes);
        Err(Errno::ENOTTY.into())
    }

    /// The page size of the kernel that runs the VM: that of this host, unless the
    /// kernel is simulated.
    fn page_size(&self) -> PageSize {
        caps::host_page_size()
    }

    /// The width of a guest-physical address of this VM, or an upper bound, if it is
    /// known. KVM has no slots beyond, or no vCPU could reach them.
    fn address_bits(&self) -> Option<AddressBits> {
        None
    }

    /// The call that maps a device's memory without a memslot, if the platform
    /// has one ([`AbiProfile::Push`](crate::AbiProfile::Push)).
    fn push_map(&self) -> Option<&dyn PushMap> {
        None
    }

    /// The calls that change the state of pages, if the platform keeps it
    /// ([`Home::Platform`](crate::convert::Home::Platform)).
    fn push_pages(&self) -> Option<&dyn PushPages> {
        None
    }

    /// Frees stale bytes, by `madvise` (`MADV_REMOVE` or `MADV_DONTNEED`) in host memory and
    /// by `fallocate` (`FALLOC_FL_PUNCH_HOLE`) in a file. They then read as zeros or, in a
    /// private mapping of a file, as the bytes of the file. The system calls are the same for every VM, so
    /// implementations need not provide this method.
    ///
    /// # Errors
    /// The kernel's error. Some of the bytes may already be freed.
    ///
    /// # Safety
    /// Host memory must be memory that the guest may write at any time, without any
    /// other use. A file must be one of this VM's guest_memfds.
    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { discard::perform(what) }
    }
}
