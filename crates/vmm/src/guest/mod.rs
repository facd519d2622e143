// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest, which makes the script's accesses one after the other.

pub mod aarch64;
mod interpreter;
#[cfg(not(target_arch = "x86_64"))]
mod other_arch;
pub mod poke;
pub mod stub;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use kvm_slots::exit::{GuestFault, MmioHandler};

pub use interpreter::Interpreter;
#[cfg(not(target_arch = "x86_64"))]
pub use other_arch::{Processor, VcpuGuest};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{Processor, VcpuGuest};

use crate::machine::Access;

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
    Cpuid(kvm_slots::Errno),
    /// The script cannot be compiled for this architecture.
    #[error(
        "there is guest code for x86-64 only, and this is {}",
        std::env::consts::ARCH
    )]
    NoGuestCode,
}
