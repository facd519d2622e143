// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A plan.

use guest_ranges::AddrRange;

use crate::plan::op::Op;

/// What to do, in order, and what to know about it.
///
/// Only [`Slots::plan`](crate::Slots::plan) and its like make one, so that its
/// slots are on the memory of the ranges and on nothing else.
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

    /// Takes the operations out.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Bytes of the added ranges, or of all that are wanted, that cannot be in
    /// a slot because a slot is made of whole pages: accesses to them exit, and
    /// the VMM answers. What is cut off a range depends on that range alone, so
    /// those of ranges that stay are what they were.
    pub fn trapped(&self) -> &[AddrRange] {
        &self.trapped
    }

    /// Whether a running guest could see a gap: an address that it reaches
    /// before the plan is out of reach while the plan is applied, or while it is
    /// rolled back because an operation failed. vCPUs must be held from before
    /// the plan is applied until the threads that answer their exits see the new
    /// memory, or until the plan is rolled back.
    ///
    /// It is false if only the plan's last operation takes memory from the
    /// guest: a removal or a move of one slot. It is true, however,
    ///
    /// - if a slot without a host address is added or removed: no view that a
    ///   vCPU thread has could answer an exit there from just before or after;
    /// - if a slot moves by less than its size, or moves while it is not known
    ///   how wide guest-physical addresses are. KVM takes a slot out of the
    ///   guest's reach before it finds that the slot cannot move. (It may also
    ///   find that it has no memory for the slot's metadata. No plan provides for
    ///   that ENOMEM.)
    pub fn holds_vcpus(&self) -> bool {
        self.holds_vcpus
    }
}
