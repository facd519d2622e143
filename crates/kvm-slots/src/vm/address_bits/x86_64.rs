// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses on x86-64.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Kvm, VmFd};

use super::AddressBits;

/// KVM's maximum is independent of the VM's vCPUs: the processor's physical width with
/// nested page tables, and 52 bits with shadow page tables (`kvm_mmu_max_gfn`,
/// arch/x86/kvm/mmu.h). A VM does not report which of them it has.
pub(crate) fn of_vm(_vm: &VmFd) -> Option<AddressBits> {
    Some(AddressBits::AtMost(52))
}

/// The width in the CPUID that KVM supports: a vCPU with that CPUID reaches all slots, and
/// KVM's maximum is no smaller.
pub(crate) fn of_host(kvm: &Kvm) -> Option<AddressBits> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok()?;
    cpuid_address_bits(cpuid.as_slice()).map(AddressBits::Exact)
}

/// Types of VM do not differ.
pub(crate) fn of_type(_vm_type: u64) -> Option<AddressBits> {
    None
}

/// The width of physical addresses in a vCPU's CPUID: leaf 0x80000008, EAX bits 7
/// to 0 (Intel SDM volume 2A, CPUID). `None` if the leaf is missing.
///
/// Pass it to [`KvmVm::with_address_bits`](crate::KvmVm::with_address_bits).
pub fn cpuid_address_bits(cpuid: &[kvm_cpuid_entry2]) -> Option<u32> {
    let leaf = cpuid.iter().find(|leaf| leaf.function == 0x8000_0008)?;
    Some(leaf.eax & 0xff).filter(|bits| *bits > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_the_lowest_byte_of_its_leaf_and_unknown_without_it() {
        let leaf = |function, eax| kvm_cpuid_entry2 {
            function,
            eax,
            ..Default::default()
        };
        let vendor = leaf(0, 0x10);
        let widths = leaf(0x8000_0008, 0x0030_3934);
        assert_eq!(cpuid_address_bits(&[vendor, widths]), Some(52));
        assert_eq!(cpuid_address_bits(&[vendor]), None);
        assert_eq!(cpuid_address_bits(&[leaf(0x8000_0008, 0x3000)]), None);
    }
}
