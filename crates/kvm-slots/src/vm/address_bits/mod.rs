// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of guest-physical addresses, by architecture.

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
mod other_arch;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
use other_arch as arch;
#[cfg(target_arch = "riscv64")]
use riscv64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

/// The width of a VM's guest-physical addresses, in bits.
// Exhaustive: a width is known or bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressBits {
    /// The width: KVM refuses no slot below for its address.
    Exact(u32),
    /// An upper bound: KVM may refuse slots below.
    AtMost(u32),
}

impl AddressBits {
    /// The width or its upper bound. A guest reaches no address beyond.
    pub fn bits(self) -> u32 {
        match self {
            Self::Exact(bits) | Self::AtMost(bits) => bits,
        }
    }
}

/// The width that is known from a VM's descriptor: KVM has no slots beyond. `None` if the
/// descriptor does not determine it.
pub(crate) use arch::of_vm;

/// The width that vCPUs of all VMs have. `None` if the host does not determine it.
pub(crate) use arch::of_host;

/// The width of a VM of a type, as `KVM_CREATE_VM` takes the type. `None` if the type does
/// not determine it.
pub(crate) use arch::of_type;
