// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What statements expect of one architecture and not of another.

mod aarch64;
mod x86_64;

use kvm_slots::Errno;
use kvm_slots::sim::Arch;

/// What KVM does on one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whether a slot can have a guest_memfd that the host cannot map.
    pub unmappable_files: bool,
    /// The error of a slot beyond the guest's addresses.
    pub beyond_guest: Errno,
}

impl Expected {
    /// What this machine's KVM does.
    #[cfg(target_arch = "aarch64")]
    pub const HERE: Self = aarch64::EXPECTED;
    /// What this machine's KVM does.
    #[cfg(not(target_arch = "aarch64"))]
    pub const HERE: Self = x86_64::EXPECTED;

    /// What a simulated KVM does.
    pub fn on(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => x86_64::EXPECTED,
            Arch::Aarch64(_) => aarch64::EXPECTED,
        }
    }
}
