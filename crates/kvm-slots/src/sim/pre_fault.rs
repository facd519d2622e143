// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `KVM_PRE_FAULT_MEMORY`: maps pages before the guest accesses them. The simulation
//! only checks whether this is possible.
//!
//! Compare `kvm_vcpu_pre_fault_memory` (virt/kvm/kvm_main.c) and
//! `kvm_arch_vcpu_pre_fault_memory` (arch/x86/kvm/mmu/mmu.c).

use super::access::Reached;
use super::vm::{SimVm, State};
use crate::exit::GuestFault;
use crate::vm::errno::Errno;

/// The range to pre-fault. The ioctl updates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreFault {
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
    /// No flags exist.
    pub flags: u64,
}

impl SimVm {
    /// `KVM_PRE_FAULT_MEMORY` of a vCPU of this VM. It removes the mapped pages from
    /// `range`; callers repeat it until the range is empty.
    ///
    /// # Errors
    /// - EINVAL for a malformed range, and if the kernel does not have the ioctl
    ///   (vCPU ioctls do not fail with ENOTTY)
    /// - EOPNOTSUPP without two-dimensional paging
    ///
    /// If not even the first page can be mapped:
    ///
    /// - ENOENT without a slot
    /// - EFAULT if the slot has no page to map
    /// - ENODEV if the device of the slot does not answer
    pub fn pre_fault(&self, range: &mut PreFault) -> Result<(), Errno> {
        let config = self.config();
        if !config.knows_pre_fault() {
            return Err(Errno::EINVAL);
        }
        let end = range.gpa.checked_add(range.size);
        let page_size = config.page_size.bytes();
        let whole = range.gpa % page_size == 0 && range.size % page_size == 0;
        let malformed = range.flags != 0 || !whole;
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
                // Any progress is success; the rest stays in the range.
                Err(_) => break,
            }
            range.gpa += page_size;
            range.size -= page_size;
        }
        Ok(())
    }
}

impl State {
    fn pre_fault_page(&mut self, gpa: u64) -> Result<(), Errno> {
        match self.fault(gpa, false) {
            Ok(Reached::Mapped(bytes)) => bytes.load(&self.files, &mut [0]),
            Ok(Reached::Emulated) => Err(Errno::ENOENT),
            Err(GuestFault::Memory { .. } | GuestFault::Unvalidated { .. }) => Err(Errno::EFAULT),
            Err(GuestFault::Revoked { .. }) => Err(Errno::ENODEV),
            Err(GuestFault::Failed(errno)) => Err(errno),
            // Rings are checked when a guest is entered, not here.
            Err(GuestFault::DirtyRingFull) => Ok(()),
        }
    }
}
