// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mapping guest memory before the guest accesses it, on the real KVM.

use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_slots::uapi::{PreFaultError, pre_fault_memory};
use kvm_slots::{Errno, KvmVm, Vm};
use vmm::HostMapping;
use vmm::backend::Platform;

use crate::needs::{empty, kvm};

const START: u64 = 0x4000_0000;
const SIZE: u64 = 16 * 4096;

/// A VM with 16 pages of memory.
fn vm() -> Result<(KvmVm, Arc<HostMapping>), String> {
    let vm = kvm(&empty())?.vm().clone();
    let memory = HostMapping::anonymous(SIZE).map_err(|e| e.to_string())?;
    let region = kvm_userspace_memory_region {
        guest_phys_addr: START,
        memory_size: SIZE,
        userspace_addr: memory.address(),
        ..Default::default()
    };
    // SAFETY: the mapping allows only volatile access. No guest runs, and the
    // callers drop the mapping after the VM.
    unsafe { vm.set_user_memory_region(&region) }.map_err(|e| e.to_string())?;
    Ok((vm, Arc::new(memory)))
}

/// Pre-faulting stops at the end of the slot and reports the rest.
pub fn goes_as_far_as_there_is_memory() -> Result<(), String> {
    let (vm, _memory) = vm()?;
    let vcpu = vm.fd().create_vcpu(0).map_err(|e| e.to_string())?;
    pre_fault_memory(&vcpu, START, SIZE).map_err(|e| e.to_string())?;
    for (gpa, size, left, errno) in [
        (START + SIZE - 4096, 3 * 4096, 2 * 4096, Errno::ENOENT),
        (START, SIZE + 1, SIZE + 1, Errno::EINVAL),
        (START, 0, 0, Errno::EINVAL),
    ] {
        let (size_left, at) = (left, gpa + (size - left));
        let expected = Err(PreFaultError {
            gpa: at,
            size: size_left,
            errno,
        });
        let seen = pre_fault_memory(&vcpu, gpa, size);
        if seen != expected {
            return Err(format!("{size:#x} bytes at {gpa:#x}: {seen:?}"));
        }
    }
    Ok(())
}

/// Without the capability, the call fails and maps nothing.
pub fn is_refused_where_it_is_missing() -> Result<(), String> {
    let (vm, _memory) = vm()?;
    let vcpu = vm.fd().create_vcpu(0).map_err(|e| e.to_string())?;
    match pre_fault_memory(&vcpu, START, SIZE) {
        Err(PreFaultError {
            gpa: START,
            size: SIZE,
            errno: Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP,
        }) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
