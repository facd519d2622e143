// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest in 16-bit mode that counts.

use std::error::Error;

use kvm_ioctls::VcpuFd;
use kvm_slots::KvmVm;

/// The bytes of the guest's memory.
pub(crate) const SIZE: usize = 4096;
/// The guest-physical address of its memory, and of its first instruction.
pub(crate) const START: u64 = 0x1000;
/// The offset of the counter.
pub(crate) const COUNTER: usize = 0x800;
/// `inc dword [0x1800]`, and back to it.
const CODE: [u8; 7] = [0x66, 0xff, 0x06, 0x00, 0x18, 0xeb, 0xf9];

/// Writes the guest's code.
pub(crate) fn fill(memory: &mut [u8]) {
    memory[..CODE.len()].copy_from_slice(&CODE);
}

/// A vCPU at the first instruction.
pub(crate) fn new_vcpu(vm: &KvmVm) -> Result<VcpuFd, Box<dyn Error>> {
    let vcpu = vm.fd().create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (START, 2);
    vcpu.set_regs(&regs)?;
    Ok(vcpu)
}
