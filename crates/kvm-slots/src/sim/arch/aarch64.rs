// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What KVM does on arm64 (arch/arm64/kvm/arm.c and mmu.c, Linux 7.3).
//!
//! Not simulated: memory tagging (a slot then refuses memory without `PROT_MTE`), and
//! slots over a `VM_PFNMAP` mapping, which cannot log writes.

use kvm_bindings::KVM_CAP_ARM_VM_IPA_SIZE;

use super::{Arch, ExitBy, Rules};
use crate::sim::kernel::{KernelVersion, SimConfig, VmType};
use crate::vm::errno::Errno;
use guest_ranges::PageSize;

/// The width of a VM's addresses if its type does not say (`KVM_PHYS_SHIFT`).
const DEFAULT_IPA_BITS: u32 = 40;
/// The minimum width (`ARM64_MIN_PARANGE_BITS`).
const MIN_IPA_BITS: u32 = 32;
/// `KVM_MEM_SLOTS_NUM`: none of them is KVM's own.
const NR_MEMSLOTS: u16 = 32767;

/// An arm64 machine and its kernel's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aarch64 {
    /// `KVM_CAP_ARM_VM_IPA_SIZE`: the width of the guest-physical addresses that a VM
    /// can have at most, in bits.
    pub ipa_limit: u32,
    /// `CONFIG_ARM64_VA_BITS`: the width of a process's addresses. The processor may
    /// have fewer; KVM's check is by the configuration.
    pub va_bits: u32,
}

impl Default for Aarch64 {
    /// As distributions build the kernel since 6.12, on a processor with 48 bits of
    /// physical addresses.
    fn default() -> Self {
        Self {
            ipa_limit: 48,
            va_bits: 52,
        }
    }
}

impl Aarch64 {
    pub(super) fn rules(self) -> Rules {
        Rules {
            user_end: 1_u64.checked_shl(self.va_bits).unwrap_or(u64::MAX),
            unknown_ioctl: Errno::EINVAL,
            beyond_guest: Errno::EFAULT,
            unmappable_files: false,
            private_memory: false,
            second_address_space: false,
            pre_fault: false,
            // HPFAR_EL2 reports pages of 4 KiB, whatever the host's page size is.
            fault_granule: Some(4096),
            exit_by: ExitBy::Syndrome,
            capability,
            vm_of_type,
        }
    }
}

impl SimConfig {
    /// A plain VM on a released kernel for arm64 with pages of this size, and the
    /// width of addresses that a VM of type 0 has.
    pub fn aarch64(kernel: KernelVersion, page_size: PageSize) -> Self {
        Self {
            arch: Arch::Aarch64(Aarch64::default()),
            page_size,
            smm: false,
            physical_bits: DEFAULT_IPA_BITS,
            nr_memslots: NR_MEMSLOTS,
            ring_needs_log: true,
            ..Self::released(kernel)
        }
    }
}

fn capability(config: &SimConfig, capability: u32) -> Option<i32> {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    match (capability, config.arch) {
        (KVM_CAP_ARM_VM_IPA_SIZE, Arch::Aarch64(machine)) => Some(number(machine.ipa_limit)),
        _ => None,
    }
}

/// The type is the width of the VM's addresses.
fn vm_of_type(config: SimConfig, number: u64) -> Option<SimConfig> {
    let Arch::Aarch64(machine) = config.arch else {
        return None;
    };
    let physical_bits = match u32::try_from(number).ok()? {
        0 => DEFAULT_IPA_BITS,
        bits if bits >= MIN_IPA_BITS => bits,
        _ => return None,
    };
    (physical_bits <= machine.ipa_limit).then_some(SimConfig {
        vm_type: VmType::Plain,
        physical_bits,
        ..config
    })
}
