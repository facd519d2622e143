// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated kernel that is like this host's.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "other_arch.rs"
)]
mod arch;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{Capabilities, KvmVm, Vm};

/// A simulated kernel with the capabilities of the real one. `vm` is a real VM
/// without slots, `physical_bits` the width of its guest-physical addresses.
///
/// # Errors
/// A message that says why no guest can be run to find out.
pub fn simulated_like(vm: &KvmVm, physical_bits: u32) -> Result<SimConfig, String> {
    let capabilities = Capabilities::probe(vm);
    let page_size = vm.page_size();
    let like = arch::simulated_like(vm, version(&capabilities), page_size)?;
    Ok(SimConfig {
        page_size,
        physical_bits,
        nr_memslots: u16::try_from(capabilities.nr_memslots).unwrap_or(u16::MAX),
        ..like
    })
}

/// The simulated version with the same checks as this kernel.
fn version(capabilities: &Capabilities) -> KernelVersion {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
    match (number(), number()) {
        _ if !capabilities.user_memory2 => KernelVersion::V6_1,
        // Distributions backport features to older kernels.
        (..=5, _) | (6, ..=17) if capabilities.guest_memfd_flags.is_empty() => KernelVersion::V6_12,
        (..=6, _) | (7, ..=2) => KernelVersion::V6_18,
        _ => KernelVersion::V7_3,
    }
}

/// Whether KVM takes a slot of one page at these addresses.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "there is no guest code to use it")
)]
fn takes_slot(vm: &KvmVm, gpa: u64, userspace_addr: u64) -> bool {
    let mut region = kvm_userspace_memory_region {
        guest_phys_addr: gpa,
        memory_size: vm.page_size().bytes(),
        userspace_addr,
        ..Default::default()
    };
    // SAFETY: no guest runs while the slot exists.
    let taken = unsafe { vm.set_user_memory_region(&region) }.is_ok();
    region.memory_size = 0;
    // SAFETY: a deletion names no memory.
    let _ = unsafe { vm.set_user_memory_region(&region) };
    taken
}
