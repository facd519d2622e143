// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A real VM that can refuse operations.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::{AddressBits, Errno, GuestMemfdFlags, KvmVm, PageSize, Vm};

/// A VM that refuses an operation on request.
#[derive(Clone, Debug)]
pub(super) struct FaultyVm {
    vm: KvmVm,
    /// How many operations succeed before one is refused.
    until: Arc<AtomicUsize>,
}

impl FaultyVm {
    /// Wraps a VM, and refuses nothing yet.
    pub(super) fn new(vm: KvmVm) -> Self {
        Self {
            vm,
            until: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// Refuses the operation after the next `number` ones, or none if that is
    /// `usize::MAX`.
    pub(super) fn refuse_after(&self, number: usize) {
        self.until.store(number, Ordering::Relaxed);
    }

    fn refuses(&self) -> bool {
        let left = self.until.load(Ordering::Relaxed);
        // Only this operation: those that roll back succeed.
        self.until.store(left.wrapping_sub(1), Ordering::Relaxed);
        left == 0
    }
}

impl Vm for FaultyVm {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        match self.refuses() {
            true => Err(Errno::ENOMEM),
            // SAFETY: passed on from the caller.
            false => unsafe { self.vm.set_user_memory_region2(region) },
        }
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        match self.refuses() {
            true => Err(Errno::ENOMEM),
            // SAFETY: passed on from the caller.
            false => unsafe { self.vm.set_user_memory_region(region) },
        }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.vm.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        self.vm.set_memory_attributes(gpa, size, attributes)
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.vm.address_bits()
    }
}
