// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mapping guest memory before the guest accesses it, on the real KVM.

use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_slots::uapi::{PreFaultError, pre_fault_memory};
use kvm_slots::{Capabilities, Errno, KvmVm, Vm};
use vmm::HostMapping;
use vmm::backend::Platform;

use crate::needs::{empty, kvm};

const START: u64 = 0x4000_0000;

/// A VM with 16 pages of memory, and the size of a page.
fn vm() -> Result<(KvmVm, Arc<HostMapping>, u64), String> {
    let vm = kvm(&empty())?.vm().clone();
    let page = Capabilities::probe(&vm).page_size.bytes();
    let size = 16 * page;
    let memory = HostMapping::anonymous(size).map_err(|e| e.to_string())?;
    let region = kvm_userspace_memory_region {
        guest_phys_addr: START,
        memory_size: size,
        userspace_addr: memory.address(),
        ..Default::default()
    };
    // SAFETY: the mapping allows only volatile access. No guest runs, and the
    // callers drop the mapping after the VM.
    unsafe { vm.set_user_memory_region(&region) }.map_err(|e| e.to_string())?;
    Ok((vm, Arc::new(memory), page))
}

/// Pre-faulting stops at the end of the slot and reports the rest.
pub fn goes_as_far_as_there_is_memory() -> Result<(), String> {
    let (vm, _memory, page) = vm()?;
    let all = 16 * page;
    let vcpu = vm.fd().create_vcpu(0).map_err(|e| e.to_string())?;
    pre_fault_memory(&vcpu, START, all).map_err(|e| e.to_string())?;
    for (gpa, size, left, errno) in [
        (START + all - page, 3 * page, 2 * page, Errno::ENOENT),
        (START, all + 1, all + 1, Errno::EINVAL),
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
    let (vm, _memory, page) = vm()?;
    let all = 16 * page;
    let vcpu = vm.fd().create_vcpu(0).map_err(|e| e.to_string())?;
    match pre_fault_memory(&vcpu, START, all) {
        Err(PreFaultError {
            gpa: START,
            size,
            errno: Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP,
        }) if size == all => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
