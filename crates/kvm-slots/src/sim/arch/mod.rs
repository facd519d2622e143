// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What KVM does differently from one architecture to another.

mod aarch64;
mod x86_64;

use std::fmt;

use super::kernel::SimConfig;
use crate::vm::errno::Errno;

pub use aarch64::Aarch64;

/// The architecture of the simulated machine.
// Exhaustive: a test expects something of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arch {
    /// A machine with 64-bit processors of Intel or AMD.
    #[default]
    X86_64,
    /// A machine with 64-bit processors of Arm.
    Aarch64(Aarch64),
}

/// The decisions of KVM that depend on the architecture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The end of the addresses of a process (`access_ok`).
    pub(super) user_end: u64,
    /// The error of an ioctl of a VM that the kernel does not have.
    pub(super) unknown_ioctl: Errno,
    /// The error of a slot that ends beyond the guest's addresses.
    pub(super) beyond_guest: Errno,
    /// Whether a slot can have a guest_memfd that the host cannot map.
    pub(super) unmappable_files: bool,
    /// Whether kernels can be built with memory attributes and VMs with private
    /// memory.
    pub(super) private_memory: bool,
    /// Whether VMs can have a second address space, of system management mode.
    pub(super) second_address_space: bool,
    /// Whether `KVM_PRE_FAULT_MEMORY` exists.
    pub(super) pre_fault: bool,
    /// The granularity of a memory fault's address; `None` if it is the page.
    pub(super) fault_granule: Option<u64>,
    /// How KVM learns what an access without usable memory does.
    pub(super) exit_by: ExitBy,
    /// `KVM_CHECK_EXTENSION` for the capabilities of one architecture.
    pub(super) capability: fn(&SimConfig, u32) -> Option<i32>,
    /// `KVM_CREATE_VM` with the type of this number.
    pub(super) vm_of_type: fn(SimConfig, u64) -> Option<SimConfig>,
}

/// How KVM learns what an access without usable memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitBy {
    /// It decodes the instruction and emulates the whole access, page by page.
    Instruction,
    /// The processor describes the access of one register. The exit has the address
    /// of the first byte in the page that the walk could not use, and all of the
    /// access's bytes.
    Syndrome,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64(_) => "aarch64",
        })
    }
}

impl Arch {
    /// Whether an access that starts in memory and ends behind it exits with the
    /// bytes behind alone. Otherwise the exit has all bytes, as if the access
    /// started there.
    pub fn splits_accesses(self) -> bool {
        self.rules().exit_by == ExitBy::Instruction
    }

    pub(super) fn rules(self) -> Rules {
        match self {
            Self::X86_64 => x86_64::RULES,
            Self::Aarch64(machine) => machine.rules(),
        }
    }
}
