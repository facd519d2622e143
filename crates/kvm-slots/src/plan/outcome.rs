// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The result of planning.

use guest_ranges::AddrRange;

use crate::plan::op::Op;

/// The operations of a change, in order.
///
/// Only the planner makes plans, so their slots are on the memory of the ranges
/// and on no other memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(crate) ops: Vec<Op>,
    pub(crate) trapped: Vec<AddrRange>,
    pub(crate) holds_vcpus: bool,
}

impl Plan {
    /// The operations, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Returns the operations, in order.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// The bytes of the planned ranges that cannot be in a slot, because slots
    /// consist of whole pages. Accesses to them exit to the VMM.
    ///
    /// [`plan_change`](crate::plan::plan_change) lists those of the added ranges
    /// only. The trapped bytes of a range depend on that range alone, so they do
    /// not change for ranges that stay.
    pub fn trapped(&self) -> &[AddrRange] {
        &self.trapped
    }

    /// Whether a running guest could see a gap: it temporarily cannot reach memory
    /// while the plan is applied, or while the plan is rolled back because an
    /// operation failed. Hold vCPUs from before the plan is applied until the
    /// threads that answer their exits see the new memory, or until the plan is
    /// rolled back.
    ///
    /// A plan leaves no gap if only its last operation takes memory from the
    /// guest: a delete or a move of one slot. A plan that deletes or moves two slots
    /// holds vCPUs for the sake of its rollback: the second operation can fail
    /// after the guest has seen the first. Some plans leave a gap nevertheless:
    ///
    /// - A slot without a host address is added or removed. A vCPU thread has no
    ///   mapping to answer an exit that races with this.
    /// - A slot moves by less than its size, or moves while the width of
    ///   guest-physical addresses is unknown or only an upper bound is known
    ///   ([`AddressBits`](crate::AddressBits)). KVM invalidates a slot before it finds
    ///   that the slot cannot move. (KVM may also find that it has no memory for the
    ///   slot's metadata. No plan provides for that ENOMEM.) On x86-64 the width is known
    ///   only after [`KvmVm::with_address_bits`](crate::KvmVm::with_address_bits).
    pub fn holds_vcpus(&self) -> bool {
        self.holds_vcpus
    }
}
