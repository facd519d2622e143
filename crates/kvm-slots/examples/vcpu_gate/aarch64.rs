// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest at EL1 that counts. Its MMU is on, so that its accesses use the same caches as
//! the host's.

use std::error::Error;

use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::VcpuFd;
use kvm_slots::KvmVm;

/// The bytes of the guest's memory: a page of every host page size.
pub(crate) const SIZE: usize = 0x1_0000;
/// The guest-physical address of its memory, and of its first instruction.
pub(crate) const START: u64 = 0x1_0000;
/// The offset of the counter.
pub(crate) const COUNTER: usize = 0x800;
/// The offset of the page table, which has 4096 bytes.
const TABLE: usize = 0x1000;

/// `ldr w1, [x0]`, `add w1, w1, #1`, `str w1, [x0]`, and back.
const CODE: [u32; 4] = [0xb940_0001, 0x1100_0421, 0xb900_0001, 0x17ff_fffd];

/// A block of 1 GiB at 0: valid, accessed, inner shareable, the first attribute of
/// MAIR_EL1.
const BLOCK: u64 = 1 << 10 | 3 << 8 | 1;

/// The registers that turn the MMU on, by the number that `KVM_SET_ONE_REG` takes: op0,
/// op1, CRn, CRm and op2 (Documentation/virt/kvm/api.rst).
const SYSTEM: [(u64, u64); 4] = [
    // MAIR_EL1: write-back memory.
    (system(3, 0, 10, 2, 0), 0xff),
    // TCR_EL1: 39 bits, pages of 4 KiB, write-back and shareable walks, TTBR1 unused.
    (
        system(3, 0, 2, 0, 2),
        2 << 32 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 25,
    ),
    // TTBR0_EL1.
    (system(3, 0, 2, 0, 0), START + TABLE as u64),
    // SCTLR_EL1: the MMU and both caches, and the bits that are always 1.
    (system(3, 0, 1, 0, 0), 0x30d0_0800 | 1 << 12 | 1 << 2 | 1),
];

/// A 64-bit core register, by its position in `struct kvm_regs`.
const fn core(position: u64) -> u64 {
    0x6030_0000_0010_0000 | position
}
const X0: u64 = core(0);
const PC: u64 = core(0x40);
const PSTATE: u64 = core(0x42);

const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    0x6030_0000_0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// Writes the guest's code and page table.
pub(crate) fn fill(memory: &mut [u8]) {
    for (bytes, instruction) in memory.chunks_exact_mut(4).zip(CODE) {
        bytes.copy_from_slice(&instruction.to_le_bytes());
    }
    memory[TABLE..TABLE + 8].copy_from_slice(&BLOCK.to_le_bytes());
}

/// A vCPU at the first instruction.
pub(crate) fn new_vcpu(vm: &KvmVm) -> Result<VcpuFd, Box<dyn Error>> {
    let vcpu = vm.fd().create_vcpu(0)?;
    let mut target = kvm_vcpu_init::default();
    vm.fd().get_preferred_target(&mut target)?;
    vcpu.vcpu_init(&target)?;
    let counter = START + COUNTER as u64;
    // EL1 with its own stack pointer, and exceptions masked.
    let core = [(X0, counter), (PC, START), (PSTATE, 0x3c5)];
    for (register, value) in SYSTEM.into_iter().chain(core) {
        vcpu.set_one_reg(register, &value.to_le_bytes())?;
    }
    Ok(vcpu)
}
