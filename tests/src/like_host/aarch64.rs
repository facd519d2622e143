// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What only a kernel for arm64 has.

use kvm_bindings::KVM_CAP_ARM_VM_IPA_SIZE;
use kvm_slots::PageSize;
use kvm_slots::sim::{Aarch64, Arch, KernelVersion, SimConfig};
use kvm_slots::{KvmVm, Vm};

use super::takes_slot;

/// The widths of a process's addresses that kernels can be built with
/// (`ARM64_VA_BITS`), the widest first.
const VA_BITS: [u32; 7] = [52, 48, 47, 42, 39, 36, 32];

pub(super) fn simulated_like(
    vm: &KvmVm,
    kernel: KernelVersion,
    page_size: PageSize,
) -> Result<SimConfig, String> {
    let limit = vm.check_extension(KVM_CAP_ARM_VM_IPA_SIZE);
    let last_page = |bits: &u32| (1_u64 << bits) - page_size.bytes();
    let mut widths = VA_BITS.into_iter();
    let va_bits = widths.find(|bits| takes_slot(vm, 0, last_page(bits)));
    Ok(SimConfig {
        arch: Arch::Aarch64(Aarch64 {
            ipa_limit: u32::try_from(limit).map_err(|e| e.to_string())?,
            va_bits: va_bits.ok_or("KVM takes no slot at the end of any address space")?,
        }),
        ..SimConfig::aarch64(kernel, page_size)
    })
}
