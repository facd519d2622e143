// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds the memslot operations that end a dirty log, and calls a watcher before
//! them.

use std::fmt;

use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::slots::slot::Slot;
use crate::slots::table::SlotTable;
use crate::vm::errno::Errno;

/// A watcher that is called before each memslot operation.
pub trait OpWatcher: fmt::Debug {
    /// Called before `op` on the VM with the slots of `table`. The slot of `op` is in
    /// the expected state: no watcher is called for an operation that is skipped
    /// ([`StepError::Stale`](crate::StepError::Stale)).
    ///
    /// # Errors
    /// The operation is refused, as if by the kernel.
    fn before(&self, op: &Op, table: &SlotTable) -> Result<(), Errno>;
}

/// No watcher.
impl OpWatcher for () {
    fn before(&self, _op: &Op, _table: &SlotTable) -> Result<(), Errno> {
        Ok(())
    }
}

impl Op {
    /// The slot whose dirty log the kernel discards with this operation.
    ///
    /// The log ends with the slot or its flag
    /// (`kvm_prepare_memory_region` and `kvm_commit_memory_region`,
    /// virt/kvm/kvm_main.c). A slot that moves and continues to log keeps its
    /// log: a page that was written before is reported at the same offset in the
    /// slot, which is then at another address.
    pub fn ends_log(&self) -> Option<&Slot> {
        let (from, goes_on) = match self {
            Self::Delete(slot) => (slot, false),
            Self::Move { from, to } | Self::SetFlags { from, to } => (from, to.log_dirty()),
            Self::Create(_) | Self::SetPrivate { .. } => return None,
        };
        (from.log_dirty() && !goes_on).then_some(from)
    }

    /// The slot that logs after this operation.
    pub(crate) fn logs_after(&self) -> Option<&Slot> {
        match self {
            Self::Delete(_) | Self::SetPrivate { .. } => None,
            Self::Create(slot) | Self::Move { to: slot, .. } | Self::SetFlags { to: slot, .. } => {
                Some(slot).filter(|slot| slot.log_dirty())
            }
        }
    }
}

impl Plan {
    /// Whether a log ends with this plan, or with its rollback if a later operation
    /// fails. Guest writes between the read of the log and its end are not logged.
    /// A VMM that needs every write must hold the vCPUs while the plan is applied,
    /// even if [`Plan::holds_vcpus`] is false.
    pub fn ends_log(&self) -> bool {
        let Some((last, earlier)) = self.ops.split_last() else {
            return false;
        };
        let ends = |op: &Op| op.ends_log().is_some();
        // The rollback of a new slot that logs ends the log.
        let may_end = |op: &Op| ends(op) || ends(&op.inverse());
        ends(last) || earlier.iter().any(may_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::{SlotAccess, SlotBacking, SlotRange};
    use guest_ranges::HostMemory;

    fn slot(gpa: u64, log_dirty: bool) -> Slot {
        let memory = SlotBacking::Host(HostMemory::placeholder(0x1000).unwrap());
        let range = SlotRange::new(gpa, SlotAccess::ReadWrite, memory).unwrap();
        Slot {
            id: 3,
            range: range.with_log_dirty(log_dirty),
        }
    }

    #[test]
    fn a_log_ends_with_its_slot_or_its_flag_and_not_with_its_address() {
        let (on, off) = (slot(0, true), slot(0, false));
        let flags = |from: &Slot, to: &Slot| Op::SetFlags {
            from: from.clone(),
            to: to.clone(),
        };
        let moved = |from: &Slot, log_dirty| Op::Move {
            from: from.clone(),
            to: slot(0x1000, log_dirty),
        };
        for (op, ends) in [
            (Op::Create(on.clone()), false),
            (Op::Delete(on.clone()), true),
            (Op::Delete(off.clone()), false),
            (flags(&on, &off), true),
            (flags(&off, &on), false),
            (moved(&on, true), false),
            (moved(&on, false), true),
            (moved(&off, true), false),
            (moved(&off, false), false),
        ] {
            assert_eq!(op.ends_log(), ends.then_some(&on), "{op}");
            let plan = Plan {
                ops: vec![op],
                ..Plan::default()
            };
            assert_eq!(plan.ends_log(), ends);
        }
    }

    #[test]
    fn a_log_may_end_with_the_rollback_of_all_operations_but_the_last() {
        let logs = Op::Create(slot(0, true));
        let other = Op::Create(slot(0x1000, false));
        for (ops, ends) in [
            (vec![logs.clone(), other.clone()], true),
            (vec![other, logs.clone()], false),
            (vec![logs], false),
            (vec![], false),
        ] {
            let plan = Plan {
                ops,
                ..Plan::default()
            };
            assert_eq!(plan.ends_log(), ends, "{:?}", plan.ops);
        }
    }
}
