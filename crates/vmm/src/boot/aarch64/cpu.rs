// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs, and the state in which the first one starts.

use kvm_bindings::{KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, kvm_vcpu_init};
use kvm_ioctls::{VcpuFd, VmFd};
use kvm_slots::Errno;

/// Registers as `KVM_GET_ONE_REG` names them (Documentation/virt/kvm/api.rst): 64 bits of
/// arm64, of `struct kvm_regs` by their offset in words, or by a system register's encoding.
const REGISTER: u64 = 0x6030_0000_0000_0000;
const CORE: u64 = REGISTER | 0x10 << 16;
const X0: u64 = CORE;
const PC: u64 = CORE | 0x40;
const MPIDR_EL1: u64 = system(0, 0, 5);
const ID_AA64MMFR0_EL1: u64 = system(0, 7, 0);

/// The system register of `op0` 3 and `op1` 0.
const fn system(crn: u64, crm: u64, op2: u64) -> u64 {
    REGISTER | 0x13 << 16 | 3 << 14 | crn << 7 | crm << 3 | op2
}

/// The affinity fields of `MPIDR_EL1`, by which the device tree names a processor.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Why a vCPU cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// KVM refuses a part of the state.
    #[error("KVM refuses a vCPU's {what}")]
    State {
        /// The part.
        what: &'static str,
        /// The error of KVM.
        source: Errno,
    },
}

/// A vCPU of the kind that suits the host best. All but number 0 wait until the kernel
/// starts them by PSCI.
///
/// # Errors
/// The error of KVM.
pub fn create(vm: &VmFd, number: u8) -> Result<VcpuFd, kvm_ioctls::Error> {
    let vcpu = vm.create_vcpu(number.into())?;
    let mut kind = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut kind)?;
    kind.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    if number > 0 {
        kind.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    vcpu.vcpu_init(&kind)?;
    Ok(vcpu)
}

/// The number by which the device tree names a vCPU.
///
/// # Errors
/// [`CpuError`].
pub fn affinity(vcpu: &VcpuFd) -> Result<u64, CpuError> {
    Ok(get(vcpu, MPIDR_EL1, "affinity")? & AFFINITY)
}

/// The page sizes of a vCPU's own page tables.
///
/// # Errors
/// [`CpuError`].
pub fn page_sizes(vcpu: &VcpuFd) -> Result<PageSizes, CpuError> {
    get(vcpu, ID_AA64MMFR0_EL1, "features").map(PageSizes::from_features)
}

/// The page sizes that a processor has, as `ID_AA64MMFR0_EL1` lists them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageSizes(u64);

impl PageSizes {
    /// The page sizes in this value of `ID_AA64MMFR0_EL1`.
    pub const fn from_features(register: u64) -> Self {
        Self(register)
    }

    /// Whether pages of so many KiB are among them.
    pub fn have(self, kib: u32) -> bool {
        match kib {
            4 => self.0 >> 28 & 0xf != 0xf,
            16 => self.0 >> 20 & 0xf != 0,
            64 => self.0 >> 24 & 0xf != 0xf,
            _ => false,
        }
    }
}

/// Sets vCPU 0 to the kernel's entry point. It is at EL1 with interrupts masked and
/// translation off since it was created.
///
/// # Errors
/// [`CpuError`].
pub fn start(vcpu: &VcpuFd, entry: u64, device_tree: u64) -> Result<(), CpuError> {
    for (register, value) in [(PC, entry), (X0, device_tree)] {
        let set = vcpu.set_one_reg(register, &value.to_le_bytes());
        set.map_err(refused("registers"))?;
    }
    Ok(())
}

/// The address of the next instruction.
///
/// # Errors
/// [`CpuError`].
pub fn next_instruction(vcpu: &VcpuFd) -> Result<u64, CpuError> {
    get(vcpu, PC, "registers")
}

fn get(vcpu: &VcpuFd, register: u64, what: &'static str) -> Result<u64, CpuError> {
    let mut bytes = [0; 8];
    vcpu.get_one_reg(register, &mut bytes)
        .map_err(refused(what))?;
    Ok(u64::from_le_bytes(bytes))
}

fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuError {
    move |error| CpuError::State {
        what,
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_fields_of_which_two_are_inverted() {
        let of = |register| [4, 16, 64].map(|kib| PageSizes(register).have(kib));
        // All of them, all with 52 bits, none.
        assert_eq!(of(0x0010_0000), [true, true, true]);
        assert_eq!(of(0x1020_0000), [true, true, true]);
        assert_eq!(of(0xff00_0000), [false, false, false]);
        assert!(!PageSizes(0).have(8));
    }
}
