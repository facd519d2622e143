// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses on architectures where it is unknown.

use kvm_ioctls::{Kvm, VmFd};

use super::AddressBits;

/// Unknown.
pub(crate) fn of_vm(_vm: &VmFd) -> Option<AddressBits> {
    None
}

/// Unknown.
pub(crate) fn of_host(_kvm: &Kvm) -> Option<AddressBits> {
    None
}

/// Unknown.
pub(crate) fn of_type(_vm_type: u64) -> Option<AddressBits> {
    None
}
