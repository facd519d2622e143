// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses on riscv64.

use kvm_bindings::KVM_CAP_VM_GPA_BITS;
use kvm_ioctls::{Kvm, VmFd};

use super::AddressBits;

/// The width of the second-stage page table's mode.
pub(crate) fn of_vm(vm: &VmFd) -> Option<AddressBits> {
    let bits = vm.check_extension_raw(KVM_CAP_VM_GPA_BITS.into());
    let bits = u32::try_from(bits).ok().filter(|bits| *bits > 0);
    bits.map(AddressBits::Exact)
}

/// Each VM reports its own.
pub(crate) fn of_host(_kvm: &Kvm) -> Option<AddressBits> {
    None
}

/// Types of VM do not differ.
pub(crate) fn of_type(_vm_type: u64) -> Option<AddressBits> {
    None
}
