// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holds vCPUs out of the guest while memory that they use has a gap.

use std::sync::Arc;

/// Stops a VM's vCPUs for a short time. A VMM implements it or uses an existing
/// implementation, such as `VcpuGate`.
///
/// KVM has no operation on two memslots at once. While one slot becomes two, the
/// guest cannot reach the memory, and a running vCPU would exit with MMIO in the
/// middle of its RAM.
pub trait HoldVcpus {
    /// Dropping it lets the vCPUs run again. It has no lifetime, because it outlives
    /// the call that creates it: vCPUs are held until the change is visible to the
    /// threads that answer their exits.
    type Held: Send;

    /// Returns when no vCPU is in the guest. No vCPU enters it before the result is
    /// dropped.
    ///
    /// A vCPU thread that handles an exit is not in the guest, even if it is
    /// blocked: it may be the caller itself. It counts as in the guest until it
    /// has taken the view in which it looks up its exit. Otherwise it could take a
    /// newer view in which only the guest can reach the memory. (KVM splits some
    /// accesses into two exits, and a hold can happen between them. The second exit
    /// may find such memory, and has no answer.)
    ///
    /// Holds may overlap: vCPUs run again when the last hold is dropped.
    fn hold(&self) -> Self::Held;
}

/// For a VM whose vCPUs are never in the guest while its memory changes: it has not
/// started yet, or its only vCPU's thread makes the changes.
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
