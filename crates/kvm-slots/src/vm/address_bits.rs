// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses, by architecture.

use kvm_ioctls::VmFd;

/// The maximum width, independent of the VM's vCPUs. KVM has no slots beyond.
pub(crate) fn of_vm(vm: &VmFd) -> Option<u32> {
    widest(|capability| vm.check_extension_raw(capability))
}

/// The processor's physical width with nested page tables, and 52 bits with shadow
/// page tables (`kvm_mmu_max_gfn`, arch/x86/kvm/mmu.h).
#[cfg(target_arch = "x86_64")]
fn widest(_ask: impl Fn(core::ffi::c_ulong) -> i32) -> Option<u32> {
    Some(52)
}

/// The maximum width of this host. The VM's type may reduce it.
#[cfg(target_arch = "aarch64")]
fn widest(ask: impl Fn(core::ffi::c_ulong) -> i32) -> Option<u32> {
    positive(ask(kvm_bindings::KVM_CAP_ARM_VM_IPA_SIZE.into()))
}

/// The width of the second-stage page table's mode.
#[cfg(target_arch = "riscv64")]
fn widest(ask: impl Fn(core::ffi::c_ulong) -> i32) -> Option<u32> {
    positive(ask(kvm_bindings::KVM_CAP_VM_GPA_BITS.into()))
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
fn widest(_ask: impl Fn(core::ffi::c_ulong) -> i32) -> Option<u32> {
    None
}

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
fn positive(bits: i32) -> Option<u32> {
    u32::try_from(bits).ok().filter(|bits| *bits > 0)
}

/// The width of physical addresses in a vCPU's CPUID: leaf 0x80000008, EAX bits 7
/// to 0 (Intel SDM volume 2A, CPUID). `None` if the leaf is missing.
///
/// Pass it to [`KvmVm::with_address_bits`](crate::KvmVm::with_address_bits).
#[cfg(target_arch = "x86_64")]
pub fn cpuid_address_bits(cpuid: &[kvm_bindings::kvm_cpuid_entry2]) -> Option<u32> {
    let leaf = cpuid.iter().find(|leaf| leaf.function == 0x8000_0008)?;
    Some(leaf.eax & 0xff).filter(|bits| *bits > 0)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::cpuid_address_bits;

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
