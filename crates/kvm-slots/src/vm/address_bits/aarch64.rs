// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses on arm64, where each VM has its own.

use kvm_bindings::KVM_VM_TYPE_ARM_IPA_SIZE_MASK;
use kvm_ioctls::{Kvm, VmFd};

use super::AddressBits;

/// The width of a VM whose type names none.
const DEFAULT_BITS: u32 = 40;

/// A VM does not report its width: `KVM_CAP_ARM_VM_IPA_SIZE` is the host's maximum for VMs
/// of every type.
pub(crate) fn of_vm(_vm: &VmFd) -> Option<AddressBits> {
    None
}

/// Each VM has its own.
pub(crate) fn of_host(_kvm: &Kvm) -> Option<AddressBits> {
    None
}

pub(crate) fn of_type(vm_type: u64) -> Option<AddressBits> {
    Some(AddressBits::Exact(vm_type_address_bits(vm_type)))
}

/// The width of the guest-physical addresses (IPAs) of a VM of the type `vm_type`, as
/// `KVM_CREATE_VM` takes the type: its lowest 8 bits, or 40 if they are 0
/// (`KVM_CAP_ARM_VM_IPA_SIZE`, Documentation/virt/kvm/api.rst).
///
/// `kvm_ioctls::Kvm::create_vm` uses the host's maximum as the type, and not 0.
///
/// [`KvmVm::create`](crate::KvmVm::create) uses it. Pass it to
/// [`KvmVm::with_address_bits`](crate::KvmVm::with_address_bits) for a VM that was created
/// in another way.
pub fn vm_type_address_bits(vm_type: u64) -> u32 {
    match vm_type & u64::from(KVM_VM_TYPE_ARM_IPA_SIZE_MASK) {
        0 => DEFAULT_BITS,
        bits => u32::try_from(bits).unwrap_or(DEFAULT_BITS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_the_lowest_byte_of_the_type_and_40_without_one() {
        for (vm_type, bits) in [
            (0, 40),
            (32, 32),
            (48, 48),
            (1 << 31, 40),
            (1 << 31 | 36, 36),
        ] {
            assert_eq!(vm_type_address_bits(vm_type), bits, "{vm_type:#x}");
        }
    }
}
