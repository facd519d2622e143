// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses on architectures where it is unknown.

use kvm_ioctls::VmFd;

/// Unknown.
pub(crate) fn of_vm(_vm: &VmFd) -> Option<u32> {
    None
}

/// Unknown.
pub(crate) fn of_type(_vm_type: u64) -> Option<u32> {
    None
}
