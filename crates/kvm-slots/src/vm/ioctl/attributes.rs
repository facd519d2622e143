// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets the attributes of pages, on every architecture.

use kvm_bindings::kvm_memory_attributes;
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::numbers::KVM_SET_MEMORY_ATTRIBUTES;
use crate::vm::errno::Errno;

/// `KVM_SET_MEMORY_ATTRIBUTES`.
pub(crate) fn set_memory_attributes(
    vm: &VmFd,
    address: u64,
    size: u64,
    attributes: u64,
) -> Result<(), Errno> {
    let attributes = kvm_memory_attributes {
        address,
        size,
        attributes,
        flags: 0,
    };
    // SAFETY: `attributes` has the layout that the ioctl takes, and is only read. It has
    // no addresses of the process.
    match unsafe { ioctl_with_ref(vm, KVM_SET_MEMORY_ATTRIBUTES(), &attributes) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}
