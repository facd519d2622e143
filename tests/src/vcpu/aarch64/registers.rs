// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page tables, and the registers that they need.

use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64};
use vmm::guest::aarch64::asm::{self, SystemRegister, X};

use crate::vcpu::program::Reg;

/// The size of [`tables`] in bytes.
pub const TABLES_SIZE: u64 = 0x2000;
/// The offset of the exception vectors behind the page table, and in them that of
/// exceptions that the guest's own code causes.
const VECTORS: u64 = 0x1000;
const SYNCHRONOUS: u64 = 0x200;
/// An address without memory, where a vCPU stores if it takes an exception: it
/// exits, instead of taking the next one for ever.
const EXCEPTION: u16 = 0x3fff;
/// A register that programs do not have.
const SCRATCH: X = X(17);

/// The page table for the first GiB and the exception vectors, for two pages of
/// zeros at `gpa`: words with their offsets.
///
/// One block of 1 GiB, which may be executed, in memory of the type with index 0,
/// inner shareable, accessed.
pub fn tables(_gpa: u64) -> impl Iterator<Item = (u64, u64)> {
    let block = 0b01 | 0b11 << 8 | 1 << 10;
    let pair = |one: u32, other: u32| u64::from(one) | u64::from(other) << 32;
    let store = pair(
        asm::movz(SCRATCH, EXCEPTION, 1),
        asm::str(8, SCRATCH, SCRATCH, 0),
    );
    let again = pair(asm::b(-1), asm::NOP);
    let vector = VECTORS + SYNCHRONOUS;
    [(0, block), (vector, store), (vector + 8, again)].into_iter()
}

/// The number of X0 in `KVM_GET_ONE_REG`. Registers are counted in units of 4 bytes.
const CORE: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64;
/// PC.
pub(super) const PROGRAM_COUNTER: u64 = CORE + 2 * 32;
/// SCTLR_EL1.
pub(super) const CONTROL: u64 = system(SystemRegister::new(3, 0, 1, 0, 0));
const TTBR0_EL1: u64 = system(SystemRegister::new(3, 0, 2, 0, 0));
const TCR_EL1: u64 = system(SystemRegister::new(3, 0, 2, 0, 2));
const VBAR_EL1: u64 = system(SystemRegister::new(3, 0, 12, 0, 0));
const MAIR_EL1: u64 = system(SystemRegister::new(3, 0, 10, 2, 0));

/// The number of a general-purpose register.
pub(super) fn general(reg: Reg) -> u64 {
    CORE + 2 * reg as u64
}

/// The registers that turn on translation by the tables at `tables`. `control` is
/// the present value of [`CONTROL`].
pub(super) fn translation(tables: u64, control: u64) -> [(u64, u64); 5] {
    // Virtual addresses of 39 bits, so that the first table has entries of 1 GiB,
    // granules of 4 KiB, physical addresses of 32 bits. Walks are cacheable and
    // inner shareable. There are no addresses in the upper half.
    let translation = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23;
    // The MMU, the data cache and the instruction cache.
    let on = 1 | 1 << 2 | 1 << 12;
    [
        // Type 0: normal memory, write-back, allocating.
        (MAIR_EL1, 0xff),
        (TCR_EL1, translation),
        (TTBR0_EL1, tables),
        (VBAR_EL1, tables + VECTORS),
        (CONTROL, control | on),
    ]
}

const fn system(register: SystemRegister) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | register.bits() as u64
}
