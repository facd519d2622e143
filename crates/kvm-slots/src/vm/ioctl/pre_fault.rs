// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Maps guest memory before the guest accesses it.

use kvm_bindings::kvm_pre_fault_memory;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use super::numbers::KVM_PRE_FAULT_MEMORY;
use crate::vm::errno::Errno;

/// The memory that could not be pre-faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size:#x} bytes at {gpa:#x} are not mapped yet: {errno}")]
pub struct PreFaultError {
    /// The guest-physical address of the first byte that is not mapped yet.
    pub gpa: u64,
    /// The number of remaining bytes.
    pub size: u64,
    /// The kernel's error.
    ///
    /// EINVAL: not whole pages. ENOENT: no slot. EAGAIN: the slot is being
    /// deleted. EINTR: a signal. EOPNOTSUPP: not for this VM, or not yet; ENOTTY
    /// or EINVAL before Linux 6.11. After EINTR and EAGAIN, the caller may
    /// continue from here.
    pub errno: Errno,
}

/// `KVM_PRE_FAULT_MEMORY` (`KVM_CAP_PRE_FAULT_MEMORY`, Linux 6.11): maps `size`
/// bytes of guest memory at `gpa` for a vCPU, as if the vCPU had read them all.
///
/// # Errors
/// [`PreFaultError`] with the remaining range; all memory before it is mapped.
pub fn pre_fault_memory(vcpu: &VcpuFd, gpa: u64, size: u64) -> Result<(), PreFaultError> {
    let mut left = kvm_pre_fault_memory {
        gpa,
        size,
        ..Default::default()
    };
    loop {
        let before = left.size;
        // SAFETY: `left` has the layout that the ioctl takes; the kernel writes
        // the rest of the range back to it and nothing else.
        let result = unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut left) };
        let errno = match result {
            0 if left.size == 0 => return Ok(()),
            0 if left.size < before => continue,
            // The kernel guarantees progress. Without progress, stop.
            0 => Errno::EAGAIN,
            _ => Errno::last(),
        };
        return Err(PreFaultError {
            gpa: left.gpa,
            size: left.size,
            errno,
        });
    }
}
