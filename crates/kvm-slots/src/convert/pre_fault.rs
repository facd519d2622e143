// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Maps converted pages for a vCPU before its guest accesses them.

use guest_ranges::PageRange;
use kvm_ioctls::VcpuFd;

use crate::uapi::{PreFaultError, pre_fault_memory};

/// A vCPU for which pages can be mapped before the guest accesses them.
///
/// A conversion unmaps pages, so the guest faults on each of them at its next access:
/// 1024 times for 4 MiB. KVM resolves these faults itself, but on some platforms each
/// costs as much as an exit. One call maps all pages instead.
pub trait PreFault {
    /// Maps pages as they are now, private or shared, as if the guest had read them.
    ///
    /// # Errors
    /// [`PreFaultError`] with the rest; all pages before it are mapped.
    fn pre_fault(&self, pages: PageRange) -> Result<(), PreFaultError>;
}

impl PreFault for VcpuFd {
    /// `KVM_PRE_FAULT_MEMORY` (Linux 6.11).
    fn pre_fault(&self, pages: PageRange) -> Result<(), PreFaultError> {
        pre_fault_memory(self, pages.start(), pages.size())
    }
}

/// Maps ranges until one fails.
pub(super) fn pre_fault(vcpu: &impl PreFault, ranges: Vec<PageRange>) -> Option<PreFaultError> {
    let mut results = ranges.into_iter().map(|pages| vcpu.pre_fault(pages));
    results.find_map(Result::err)
}
