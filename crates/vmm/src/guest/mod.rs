// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest, which makes the script's accesses one after the other.

pub mod aarch64;
mod interpreter;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other_arch;
pub mod poke;
pub mod stub;
mod vcpu;
pub mod windows;
pub mod x86_64;

use kvm_slots::exit::{GuestFault, MmioHandler};

pub use interpreter::Interpreter;
pub use native::{Code, Processor};
pub use vcpu::VcpuGuest;

use crate::machine::Access;
#[cfg(target_arch = "aarch64")]
use aarch64::native;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use other_arch as native;
#[cfg(target_arch = "x86_64")]
use x86_64::native;

/// A guest that a script drives.
pub trait Guest {
    /// Makes the next access of the script. Accesses that exit are answered by
    /// `vmm`. Returns the value loaded, or 0 for a store.
    ///
    /// # Errors
    /// [`GuestError`]. The guest continues after the access, except at a memory fault
    /// or a full dirty ring: then it is still before the access and can retry it.
    fn access(&mut self, access: &Access, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError>;

    /// Returns to before the latest access, to make it once more.
    ///
    /// # Errors
    /// [`GuestError::Stopped`].
    fn again(&mut self) -> Result<(), GuestError>;

    /// Skips the next access of the script.
    ///
    /// # Errors
    /// [`GuestError::Stopped`].
    fn skip(&mut self) -> Result<(), GuestError>;
}

/// Why an access did not complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// KVM could not resolve it.
    #[error(transparent)]
    Fault(#[from] GuestFault),
    /// KVM did not learn from the processor what the instruction does, and so
    /// cannot exit with an access.
    #[error(
        "KVM cannot tell what the access at {gpa:#x} is: it loads or stores no single register"
    )]
    Undecoded {
        /// The guest-physical address.
        gpa: u64,
    },
    /// The vCPU stopped for another reason.
    #[error("the vCPU stopped: {0}")]
    Stopped(String),
}

/// Why no guest can run on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// KVM does not report the features of the processor.
    #[error("KVM cannot tell what the processor can do: {0}")]
    Features(kvm_slots::Errno),
    /// The guest's page tables have no format that the processor knows.
    #[error("the processor has neither pages of 4 KiB nor of 16 KiB")]
    PageSizes,
    /// The script cannot be compiled for this architecture.
    #[error("there is no guest code for {}", std::env::consts::ARCH)]
    NoGuestCode,
}

/// Why there is no VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// Software alone cannot make pages private here.
    #[error("KVM has no software-protected VMs ({0})")]
    NoPrivatePages(&'static str),
    /// KVM refuses.
    #[error(transparent)]
    Refused(#[from] kvm_slots::Errno),
}
