// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vCPU at EL1. Its MMU is on: without it, the guest would bypass the caches
//! through which the host reads the counter.

use std::error::Error;

use kvm_slots::kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_vcpu_init,
};
use kvm_slots::kvm_ioctls::{Kvm, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use crate::guest::COUNTER;

/// The address of the page table, behind the page with code and counter.
const TABLE: u16 = 0x1000;
/// `ldr w1, [x0]`, `add w1, w1, #1`, `str w1, [x0]`, and back to the first.
const CODE: [u32; 4] = [0xb940_0001, 0x1100_0421, 0xb900_0001, 0x17ff_fffd];

/// X0 and PC. Registers are counted in units of 4 bytes.
const X0: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64;
const PC: u64 = X0 + 2 * 32;
const SCTLR_EL1: u64 = system(1, 0, 0);
const TTBR0_EL1: u64 = system(2, 0, 0);
const TCR_EL1: u64 = system(2, 0, 2);
const MAIR_EL1: u64 = system(10, 2, 0);

/// What the guest's memory starts with.
pub(super) fn memory() -> Vec<u8> {
    let mut memory = vec![0; 0x2000];
    for (at, word) in memory.chunks_exact_mut(4).zip(CODE) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    // A block of 1 GiB from address 0: normal memory of the type with index 0,
    // inner shareable, accessed.
    let block: u64 = 0b01 | 0b11 << 8 | 1 << 10;
    let table = usize::from(TABLE);
    memory[table..table + 8].copy_from_slice(&block.to_le_bytes());
    memory
}

/// The VM, with few address bits: Linux 7.3 walks the whole address space when a VM
/// ends.
pub(super) fn new_vm(kvm: &Kvm) -> Result<KvmVm, Errno> {
    let bits = kvm.get_host_ipa_limit().cast_unsigned().min(40);
    KvmVm::create(kvm, bits.into())
}

/// The vCPU, which starts at address 0.
pub(super) fn new_vcpu(vm: &VmFd) -> Result<VcpuFd, Box<dyn Error>> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target)?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.vcpu_init(&target)?;
    let mut control = [0; 8];
    vcpu.get_one_reg(SCTLR_EL1, &mut control)?;
    // Virtual addresses of 39 bits, granules of 4 KiB, none in the upper half.
    // Walks are cacheable and inner shareable.
    let translation = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23;
    // The MMU and both caches.
    let on = 1 | 1 << 2 | 1 << 12;
    for (register, value) in [
        // Write-back, allocating.
        (MAIR_EL1, 0xff),
        (TCR_EL1, translation),
        (TTBR0_EL1, TABLE.into()),
        (SCTLR_EL1, u64::from_le_bytes(control) | on),
        (X0, COUNTER.into()),
        (PC, 0),
    ] {
        vcpu.set_one_reg(register, &value.to_le_bytes())?;
    }
    Ok(vcpu)
}

/// The number of a system register with op0 = 3 and op1 = 0.
const fn system(crn: u64, crm: u64, op2: u64) -> u64 {
    let register = 3 << 14 | crn << 7 | crm << 3 | op2;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | register
}
