// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `KVM_PRE_FAULT_MEMORY`: pages are mapped for the guest before it touches
//! them. Nothing is to be seen of that here but whether it can be done.
//!
//! Compare `kvm_vcpu_pre_fault_memory` (virt/kvm/kvm_main.c) and
//! `kvm_arch_vcpu_pre_fault_memory` (arch/x86/kvm/mmu/mmu.c).

use super::access::Reached;
use super::memslots::PAGE;
use super::vm::{SimVm, State};
use crate::errno::Errno;
use crate::exit::GuestFault;

/// What is left to pre-fault, as the ioctl takes it and writes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreFault {
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
    /// None exist.
    pub flags: u64,
}

impl SimVm {
    /// `KVM_PRE_FAULT_MEMORY` of a vCPU of this VM. As far as it comes, `range`
    /// shrinks; callers go on until nothing is left of it.
    ///
    /// # Errors
    /// EINVAL for a malformed range, and where the kernel has no such ioctl
    /// (those of a vCPU do not say ENOTTY); EOPNOTSUPP without two-dimensional
    /// paging; if not even the first page can be mapped ENOENT where there is
    /// no slot, EFAULT where the slot has no page to map, and ENODEV where the
    /// device behind it does not answer.
    pub fn pre_fault(&self, range: &mut PreFault) -> Result<(), Errno> {
        let config = self.config();
        if !config.knows_pre_fault() {
            return Err(Errno::EINVAL);
        }
        let end = range.gpa.checked_add(range.size);
        let malformed = range.flags != 0 || range.gpa % PAGE != 0 || range.size % PAGE != 0;
        let Some(end) = end.filter(|end| *end > range.gpa && !malformed) else {
            return Err(Errno::EINVAL);
        };
        if !config.two_dimensional_paging {
            return Err(Errno::EOPNOTSUPP);
        }
        let (mut state, start) = (self.state(), range.gpa);
        while range.gpa < end {
            match state.pre_fault_page(range.gpa) {
                Ok(()) => {}
                Err(errno) if range.gpa == start => return Err(errno),
                // Progress is success; the rest says how far it went.
                Err(_) => break,
            }
            range.gpa += PAGE;
            range.size -= PAGE;
        }
        Ok(())
    }
}

impl State {
    fn pre_fault_page(&mut self, gpa: u64) -> Result<(), Errno> {
        match self.fault(gpa, false) {
            Ok(Reached::Mapped(bytes)) => bytes.load(&self.files, &mut [0]),
            Ok(Reached::Emulated) => Err(Errno::ENOENT),
            Err(GuestFault::Memory { .. }) => Err(Errno::EFAULT),
            Err(GuestFault::Revoked { .. }) => Err(Errno::ENODEV),
            Err(GuestFault::Failed(errno)) => Err(errno),
            // Rings are looked at where a guest is entered, not here.
            Err(GuestFault::DirtyRingFull) => Ok(()),
        }
    }
}
