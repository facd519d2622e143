// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs at EL1, with the MMU and caches on: without them the guest would bypass
//! the host's caches.

mod encode;
mod registers;

use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::{Kvm, VcpuFd};
use kvm_slots::KvmVm;

pub use encode::compile;
pub use registers::{TABLES_SIZE, tables};

use super::program::Reg;
use crate::check::at;

/// The most bits of a guest-physical address, unless the host has fewer. Linux 7.3
/// walks the whole address space when a VM ends, a GiB at a time.
const ADDRESS_BITS: u32 = 40;

/// The processor that guests see.
#[derive(Clone, Copy, Debug)]
pub struct Processor(kvm_vcpu_init);

impl Processor {
    /// A new VM, and the processor that the host has.
    ///
    /// # Errors
    /// KVM refuses the VM, or does not report the processor.
    pub fn with_vm(kvm: &Kvm) -> Result<(Self, KvmVm), String> {
        let bits = ADDRESS_BITS.min(kvm.get_host_ipa_limit().cast_unsigned());
        let vm = KvmVm::create(kvm, bits.into()).map_err(at("a VM"))?;
        let mut target = kvm_vcpu_init::default();
        let known = vm.fd().get_preferred_target(&mut target);
        known.map_err(at("the processor"))?;
        Ok((Self(target), vm))
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
        vcpu.vcpu_init(&self.0).map_err(at("its reset"))?;
        let control = get(vcpu, registers::CONTROL)?;
        for (register, value) in registers::translation(tables, control) {
            set(vcpu, register, value)?;
        }
        for (reg, value) in registers {
            set(vcpu, registers::general(*reg), *value)?;
        }
        set(vcpu, registers::PROGRAM_COUNTER, entry)
    }

    /// The address of a vCPU's next instruction.
    ///
    /// # Errors
    /// KVM does not report it.
    pub fn next_instruction(&self, vcpu: &VcpuFd) -> Result<u64, String> {
        get(vcpu, registers::PROGRAM_COUNTER)
    }

    /// The value of a vCPU's register.
    ///
    /// # Errors
    /// KVM does not report it.
    pub fn register(&self, vcpu: &VcpuFd, reg: Reg) -> Result<u64, String> {
        get(vcpu, registers::general(reg))
    }
}

fn get(vcpu: &VcpuFd, register: u64) -> Result<u64, String> {
    let mut bytes = [0; 8];
    let known = vcpu.get_one_reg(register, &mut bytes);
    known.map_err(at(format_args!("register {register:#x}")))?;
    Ok(u64::from_le_bytes(bytes))
}

fn set(vcpu: &VcpuFd, register: u64, value: u64) -> Result<(), String> {
    let set = vcpu.set_one_reg(register, &value.to_le_bytes());
    set.map_err(at(format_args!("register {register:#x}")))?;
    Ok(())
}
