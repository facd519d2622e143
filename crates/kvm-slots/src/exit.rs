// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exits of a vCPU on a memory access of a real or simulated guest.

use kvm_bindings::KVM_EXIT_MEMORY_FAULT;
use kvm_ioctls::VcpuFd;

use crate::vm::errno::Errno;

/// `KVM_MEMORY_EXIT_FLAG_PRIVATE`.
pub const MEMORY_EXIT_FLAG_PRIVATE: u64 = 1 << 3;

/// The result of `KVM_RUN` for a guest's access that did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestFault {
    /// `KVM_EXIT_MEMORY_FAULT`: the VMM can resolve it by a conversion.
    #[error("memory fault at {gpa:#x}, {size:#x} bytes, flags {flags:#x}")]
    Memory {
        /// [`MEMORY_EXIT_FLAG_PRIVATE`] if the access was private.
        flags: u64,
        /// The page's guest-physical address.
        gpa: u64,
        /// The page's size in bytes.
        size: u64,
    },
    /// `KVM_RUN` fails with ENODEV and reports the address: the device behind a slot
    /// without a host address does not answer. The access may succeed when the
    /// device answers again. A conversion does not help.
    #[error("no device answers at {gpa:#x}, {size:#x} bytes, flags {flags:#x}")]
    Revoked {
        /// [`MEMORY_EXIT_FLAG_PRIVATE`] if the access was private.
        flags: u64,
        /// The page's guest-physical address.
        gpa: u64,
        /// The page's size in bytes.
        size: u64,
    },
    /// `KVM_EXIT_DIRTY_RING_FULL`: nothing was accessed. The guest continues only
    /// after the ring was harvested and reset
    /// ([`DirtyCollector::make_room`](crate::dirty::DirtyCollector::make_room)).
    #[error("the vCPU's dirty ring is full")]
    DirtyRingFull,
    /// The guest touched memory that it has not validated
    /// ([`push`](crate::push)). The platform reports the fault to the guest: on Arm, an
    /// external abort. The VMM sees no exit.
    #[error("the guest has not validated {gpa:#x}, {size:#x} bytes")]
    Unvalidated {
        /// The page's guest-physical address.
        gpa: u64,
        /// The page's size in bytes.
        size: u64,
    },
    /// `KVM_RUN` fails without further details.
    #[error("KVM_RUN failed with {0}")]
    Failed(Errno),
}

impl GuestFault {
    /// Why `KVM_RUN` of `vcpu` has just failed with `errno`.
    ///
    /// [`Memory`](Self::Memory) and [`Revoked`](Self::Revoked) have what KVM reported with
    /// the error (`KVM_EXIT_MEMORY_FAULT`, Documentation/virt/kvm/api.rst).
    pub fn of_failed_run(vcpu: &mut VcpuFd, errno: Errno) -> Self {
        let run = vcpu.get_kvm_run();
        if run.exit_reason != KVM_EXIT_MEMORY_FAULT {
            return Self::Failed(errno);
        }
        // SAFETY: `kvm_run` is initialized, and any bytes are three valid numbers.
        let fault = unsafe { run.__bindgen_anon_1.memory_fault };
        let (flags, gpa, size) = (fault.flags, fault.gpa, fault.size);
        match errno {
            Errno::EFAULT | Errno::EHWPOISON => Self::Memory { flags, gpa, size },
            Errno::ENODEV => Self::Revoked { flags, gpa, size },
            // With other errors, the exit reason is that of an earlier exit.
            errno => Self::Failed(errno),
        }
    }
}

/// Handles the accesses that exit to the VMM.
pub trait MmioHandler {
    /// The guest loads `data.len()` bytes, 1 to 8, at `gpa`.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);
    /// The guest stores `data`, 1 to 8 bytes, at `gpa`.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);
}
