// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeping vCPUs out of the guest while memory that they use has a gap.

use std::sync::Arc;

/// Stops a VM's vCPUs for a moment. A VMM implements it or uses an existing
/// implementation.
///
/// KVM has no operation on two memslots at once: where one slot becomes two,
/// the memory is out of the guest's reach in between, and a running vCPU would
/// take an MMIO exit in the middle of its RAM.
pub trait HoldVcpus {
    /// Lets the vCPUs run again when it is dropped. It has no lifetime, because
    /// it outlives the call that makes it: vCPUs are held until the change is
    /// visible to the threads that answer their exits.
    type Held: Send;

    /// Returns once no vCPU is in the guest, and none will enter it before the
    /// result is dropped.
    ///
    /// A vCPU thread that handles an exit is not in the guest, even if it is
    /// blocked: it may be the caller itself. It counts as in the guest until it
    /// has taken the view in which it looks its exit up. Otherwise it could take
    /// a newer view, which has memory that only the guest can reach where a
    /// device was to answer. (KVM splits some accesses into two exits, and a hold can
    /// come in between. The second exit may find such memory, and has no answer.)
    ///
    /// Holds may overlap: vCPUs run again when the last of them is dropped.
    fn hold(&self) -> Self::Held;
}

/// For a VM none of whose vCPUs is ever in the guest while its memory changes:
/// it has not started yet, or its only vCPU's thread makes the changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpusStopped;

impl HoldVcpus for VcpusStopped {
    type Held = ();

    fn hold(&self) {}
}

impl<H: HoldVcpus> HoldVcpus for Arc<H> {
    type Held = H::Held;

    fn hold(&self) -> Self::Held {
        (**self).hold()
    }
}
