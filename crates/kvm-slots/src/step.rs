// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One operation: whether it can be tried, and the call that carries it out.

use crate::plan::Op;
use crate::slot::{Encoding, Slot, SlotId};
use crate::{AbiProfile, Capabilities, Errno, MEMORY_ATTRIBUTE_PRIVATE, SlotTable, Vm};

/// Why an operation was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The kernel refused it.
    #[error("{0}")]
    Refused(Errno),
    /// It was not tried: this slot is there and should not be, or is gone or
    /// another than the operation starts from. KVM might have taken the
    /// operation for a different one, as it takes the making of a slot that
    /// exists for a move.
    #[error("not tried: slot {0} is not as it would have to be")]
    Stale(SlotId),
}

impl From<Errno> for StepError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Carries `op` out if the table has what it starts from, and lets the table
/// follow.
///
/// # Safety
/// The operation's slots must keep the contract of
/// [`Vm::set_user_memory_region2`].
pub(crate) unsafe fn step(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    op: &Op,
    table: &mut SlotTable,
) -> Result<(), StepError> {
    starts_from(table, op)?;
    // SAFETY: the caller's promise is the very one that `perform` asks for.
    unsafe { perform(vm, capabilities, abi, op) }?;
    table.follow(op);
    Ok(())
}

/// Whether the slot of the operation's number is what it starts from.
fn starts_from(table: &SlotTable, op: &Op) -> Result<(), StepError> {
    let (id, from) = match op {
        Op::Create(slot) => (slot.id, None),
        Op::Delete(from) | Op::Move { from, .. } | Op::SetFlags { from, .. } => {
            (from.id, Some(from))
        }
        // Pages have attributes with or without a slot.
        Op::SetPrivate { .. } => return Ok(()),
    };
    match table.get(id) == from {
        true => Ok(()),
        false => Err(StepError::Stale(id)),
    }
}

/// Whether the table has what the operation starts from, and no other slot
/// holds addresses that its slot is to have. It looks at all slots: plans keep
/// the second rule by themselves.
pub(crate) fn finds_room(table: &SlotTable, op: &Op) -> Result<(), StepError> {
    starts_from(table, op)?;
    let (Op::Create(to) | Op::Move { to, .. }) = op else {
        return Ok(());
    };
    let overlaps =
        |other: &&Slot| other.id != to.id && other.gpa <= to.last() && to.gpa <= other.last();
    match table.slots().find(overlaps) {
        None => Ok(()),
        Some(other) => Err(StepError::Stale(other.id)),
    }
}

/// One operation, one call.
///
/// # Safety
/// As for [`step`].
unsafe fn perform(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    op: &Op,
) -> Result<(), Errno> {
    let (slot, memory_size) = match op {
        Op::Delete(slot) => (slot, 0),
        Op::Create(slot) | Op::Move { to: slot, .. } | Op::SetFlags { to: slot, .. } => {
            (slot, slot.size)
        }
        Op::SetPrivate { pages, private } => {
            let attributes = match private {
                true => MEMORY_ATTRIBUTE_PRIVATE,
                false => 0,
            };
            return vm.set_memory_attributes(pages.gpa, pages.size, attributes);
        }
    };
    match slot.encoding(capabilities, abi) {
        Some(Encoding::Region2(mut region)) => {
            region.memory_size = memory_size;
            // SAFETY: passed on from the caller.
            unsafe { vm.set_user_memory_region2(&region) }
        }
        Some(Encoding::Region1(mut region)) => {
            region.memory_size = memory_size;
            // SAFETY: passed on from the caller.
            unsafe { vm.set_user_memory_region(&region) }
        }
        Some(Encoding::Pushed(range)) => {
            let push = vm.push_map().ok_or(Errno::EOPNOTSUPP)?;
            match op {
                Op::Create(_) => push.map(&range),
                Op::Delete(_) => push.unmap(&range),
                // What is pushed is immutable: the planner makes it anew.
                _ => Err(Errno::EOPNOTSUPP),
            }
        }
        // The planner has refused those.
        None => Err(Errno::EOPNOTSUPP),
    }
}
