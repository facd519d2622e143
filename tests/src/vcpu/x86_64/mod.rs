// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs in 64-bit mode.

mod encode;
pub mod long_mode;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs};
use kvm_ioctls::{Kvm, VcpuFd};
use kvm_slots::KvmVm;

pub use encode::compile;
pub use long_mode::{TABLES_SIZE, tables};

use super::program::Reg;
use crate::check::at;

/// The processor that guests see.
#[derive(Clone, Debug)]
pub struct Processor(CpuId);

impl Processor {
    /// A new VM, and the processor with all features that KVM has.
    ///
    /// # Errors
    /// KVM refuses the VM, or does not report the features.
    pub fn with_vm(kvm: &Kvm) -> Result<(Self, KvmVm), String> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let cpuid = cpuid.map_err(at("CPUID"))?;
        let vm = KvmVm::create(kvm, 0).map_err(at("a VM"))?;
        Ok((Self(cpuid), vm))
    }

    /// Prepares a vCPU to start at `entry`, with [`tables`] at that address and
    /// these registers.
    ///
    /// # Errors
    /// KVM refuses a part of the state.
    pub fn start(
        &self,
        vcpu: &VcpuFd,
        tables: u64,
        entry: u64,
        registers: &[(Reg, u64)],
    ) -> Result<(), String> {
        let mut regs = kvm_regs {
            rip: entry,
            ..Default::default()
        };
        for (reg, value) in registers {
            *register(&mut regs, *reg) = *value;
        }
        long_mode::start(vcpu, &self.0, tables, regs).map_err(at("its registers"))
    }

    /// The address of a vCPU's next instruction.
    ///
    /// # Errors
    /// KVM does not report it.
    pub fn next_instruction(&self, vcpu: &VcpuFd) -> Result<u64, String> {
        Ok(vcpu.get_regs().map_err(at("registers"))?.rip)
    }

    /// The value of a vCPU's register.
    ///
    /// # Errors
    /// KVM does not report it.
    pub fn register(&self, vcpu: &VcpuFd, reg: Reg) -> Result<u64, String> {
        let mut regs = vcpu.get_regs().map_err(at("registers"))?;
        Ok(*register(&mut regs, reg))
    }
}

fn register(regs: &mut kvm_regs, reg: Reg) -> &mut u64 {
    match reg {
        Reg::R0 => &mut regs.rax,
        Reg::R1 => &mut regs.rcx,
        Reg::R2 => &mut regs.rdx,
        Reg::R3 => &mut regs.rbx,
        Reg::R4 => &mut regs.rsi,
        Reg::R5 => &mut regs.rdi,
        Reg::R6 => &mut regs.r8,
        Reg::R7 => &mut regs.r9,
        Reg::R8 => &mut regs.r10,
        Reg::R9 => &mut regs.r11,
        Reg::R10 => &mut regs.r12,
        Reg::R11 => &mut regs.r13,
        Reg::R12 => &mut regs.r14,
        Reg::R13 => &mut regs.r15,
    }
}
