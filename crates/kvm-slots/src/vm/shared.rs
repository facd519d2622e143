// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM that several values share.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use guest_ranges::PageSize;
use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};

use super::{GuestMemfdFlags, Vm};
use crate::dirty::{LoggingVm, ManualProtect};
use crate::push::{PushMap, PushPages};
use crate::vm::address_bits::AddressBits;
use crate::vm::discard::Discard;
use crate::vm::errno::Errno;
use crate::vm::file_attributes::FileAttributesError;

/// So that memslots and conversions can have the same VM, whatever its type.
impl<V: Vm + ?Sized> Vm for Arc<V> {
    fn check_extension(&self, capability: u32) -> i32 {
        (**self).check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { (**self).set_user_memory_region2(region) }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { (**self).set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        (**self).create_guest_memfd(size, flags)
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        (**self).set_memory_attributes(gpa, size, attributes)
    }

    fn set_file_attributes(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        (**self).set_file_attributes(file, offset, size, attributes)
    }

    fn page_size(&self) -> PageSize {
        (**self).page_size()
    }

    fn address_bits(&self) -> Option<AddressBits> {
        (**self).address_bits()
    }

    fn push_map(&self) -> Option<&dyn PushMap> {
        (**self).push_map()
    }

    fn push_pages(&self) -> Option<&dyn PushPages> {
        (**self).push_pages()
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { (**self).discard(what) }
    }
}

impl<V: LoggingVm + ?Sized> LoggingVm for Arc<V> {
    fn set_manual_protect(&self, options: ManualProtect) -> Result<(), Errno> {
        (**self).set_manual_protect(options)
    }

    fn enable_dirty_ring(&self, bytes: u32) -> Result<(), Errno> {
        (**self).enable_dirty_ring(bytes)
    }

    fn enable_log_beside_ring(&self) -> Result<(), Errno> {
        (**self).enable_log_beside_ring()
    }

    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>, Errno> {
        (**self).get_dirty_log(slot)
    }

    fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        (**self).clear_dirty_log(slot, first_page, num_pages, bitmap)
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        (**self).reset_dirty_rings()
    }
}
