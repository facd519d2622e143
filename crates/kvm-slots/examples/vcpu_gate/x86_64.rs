// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vCPU in 16-bit mode.

use std::error::Error;

use kvm_slots::kvm_ioctls::{Kvm, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use crate::guest::COUNTER;

/// What the guest's memory starts with: `inc dword [COUNTER]`, and back to it.
pub(super) fn memory() -> Vec<u8> {
    let [low, high] = COUNTER.to_le_bytes();
    let mut memory = vec![0; 0x1000];
    memory[..7].copy_from_slice(&[0x66, 0xff, 0x06, low, high, 0xeb, 0xf9]);
    memory
}

/// The VM.
pub(super) fn new_vm(kvm: &Kvm) -> Result<KvmVm, Errno> {
    KvmVm::create(kvm, 0)
}

/// The vCPU, which starts at address 0.
pub(super) fn new_vcpu(vm: &VmFd) -> Result<VcpuFd, Box<dyn Error>> {
    let vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (0, 2);
    vcpu.set_regs(&regs)?;
    Ok(vcpu)
}
