// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carries out one operation: checks the state of its slot, and calls KVM.

use crate::abi::AbiProfile;
use crate::dirty::ops::OpWatcher;
use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::push::Released;
use crate::slots::slot::{Encoding, Slot, SlotId};
use crate::slots::table::SlotTable;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::vm::Vm;
use crate::vm::caps::Capabilities;
use crate::vm::errno::Errno;

/// The reason why an operation was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The kernel refused the operation.
    #[error("{0}")]
    Refused(Errno),
    /// The operation was skipped: this slot is not in the expected state. KVM could
    /// interpret the ioctl as a different operation, such as the creation of an
    /// existing slot as a move.
    #[error("skipped: slot {0} is not in the expected state")]
    Stale(SlotId),
    /// The platform has not acknowledged the release of this range, which was mapped
    /// without a memslot ([`Released::Pending`]). The guest may still reach it, and it
    /// stays in the table. Plan and apply again when the guest has released it.
    #[error("the guest has not released slot {0} yet")]
    ReleasePending(SlotId),
}

impl From<Errno> for StepError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Carries out operations on one VM.
#[derive(Debug)]
pub(crate) struct Stepper<'a, V> {
    pub(crate) vm: &'a V,
    pub(crate) capabilities: &'a Capabilities,
    pub(crate) abi: AbiProfile,
    /// It is called before each operation.
    pub(crate) watcher: &'a dyn OpWatcher,
}

impl<V: Vm> Stepper<'_, V> {
    /// Carries out `op` if its slot is in the expected state. The table follows.
    ///
    /// # Safety
    /// The operation's slots, and those of the table, must keep the contract of
    /// [`Vm::set_user_memory_region2`].
    pub(crate) unsafe fn step(&self, op: &Op, table: &mut SlotTable) -> Result<(), StepError> {
        if table.unsettled().is_some() {
            // SAFETY: passed on from the caller.
            unsafe { self.settle(table) }?;
        }
        // The watcher finds logs by slot number: the number must be that of the
        // operation's slot and of no other.
        starts_from(table, op)?;
        self.watcher.before(op, table)?;
        let call = Call { op, table };
        // SAFETY: passed on from the caller.
        let done = unsafe { self.perform(op) };
        std::mem::forget(call);
        done?;
        table.follow_op(op);
        Ok(())
    }

    /// Makes the call of one operation.
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    pub(crate) unsafe fn perform(&self, op: &Op) -> Result<(), StepError> {
        let (slot, memory_size) = match op {
            Op::Delete(slot) => (slot, 0),
            Op::Create(slot) | Op::Move { to: slot, .. } | Op::SetFlags { to: slot, .. } => {
                (slot, slot.size())
            }
            Op::SetPrivate { pages, private } => {
                let attributes = match private {
                    true => MEMORY_ATTRIBUTE_PRIVATE,
                    false => 0,
                };
                let (start, size) = (pages.start(), pages.size());
                self.vm.set_memory_attributes(start, size, attributes)?;
                return Ok(());
            }
        };
        match slot.encoding(self.capabilities, self.abi) {
            Some(Encoding::Region2(mut region)) => {
                region.memory_size = memory_size;
                // SAFETY: passed on from the caller.
                unsafe { self.vm.set_user_memory_region2(&region) }?;
            }
            Some(Encoding::Region1(mut region)) => {
                region.memory_size = memory_size;
                // SAFETY: passed on from the caller.
                unsafe { self.vm.set_user_memory_region(&region) }?;
            }
            Some(Encoding::Pushed(range)) => {
                let push = self.vm.push_map().ok_or(Errno::EOPNOTSUPP)?;
                match op {
                    Op::Create(_) => push.map(&range)?,
                    Op::Delete(_) => match push.unmap(&range)? {
                        Released::Done => {}
                        Released::Pending => return Err(StepError::ReleasePending(slot.id)),
                    },
                    // Pushed mappings are immutable: the planner recreates them.
                    _ => return Err(Errno::EOPNOTSUPP.into()),
                }
            }
            // The planner refuses those.
            None => return Err(Errno::EOPNOTSUPP.into()),
        }
        Ok(())
    }
}

impl<V: Vm> Stepper<'_, V> {
    /// Brings KVM back to the state in the table after a panic: restores the slot or
    /// the pages of the unsettled operation. If KVM refuses to restore the slot, it
    /// is deleted, and the table follows.
    ///
    /// # Errors
    /// The error of KVM, or a pending release; the operation stays unsettled.
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    #[cold]
    pub(crate) unsafe fn settle(&self, table: &mut SlotTable) -> Result<(), StepError> {
        let Some(op) = table.unsettled().cloned() else {
            return Ok(());
        };
        match &op {
            // SAFETY: passed on from the caller, as is each of those below.
            Op::Create(slot) => unsafe { self.ensure_deleted(slot) }?,
            // It is unknown whether the slot exists, and KVM does not create an
            // existing slot.
            // SAFETY: as above.
            Op::Delete(slot) => unsafe {
                self.ensure_deleted(slot)?;
                if self.perform(&Op::Create(slot.clone())).is_err() {
                    table.remove(slot.id);
                }
            },
            // KVM does nothing if the slot is in this state already.
            // SAFETY: as above.
            Op::Move { from, to } | Op::SetFlags { from, to } => unsafe {
                if self.perform(&op.inverse()).is_err() {
                    self.ensure_deleted(to)?;
                    table.remove(from.id);
                }
            },
            // SAFETY: as above.
            Op::SetPrivate { .. } => unsafe { self.perform(&op.inverse()) }?,
        }
        table.set_unsettled(None);
        Ok(())
    }

    /// Deletes the slot if it exists.
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    unsafe fn ensure_deleted(&self, slot: &Slot) -> Result<(), StepError> {
        // SAFETY: passed on from the caller.
        match unsafe { self.perform(&Op::Delete(slot.clone())) } {
            // The error of KVM, and of a push map, if the slot does not exist.
            Err(StepError::Refused(Errno::EINVAL | Errno::ENOENT)) => Ok(()),
            result => result,
        }
    }
}

/// A call in progress. If it panics, it is unknown whether KVM carried out the
/// operation. The table records that.
struct Call<'a> {
    op: &'a Op,
    table: &'a mut SlotTable,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.table.set_unsettled(Some(self.op.clone()));
    }
}

/// Checks that the operation's slot is in the expected state.
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

impl SlotTable {
    /// Applies `plan` to the table alone, without a VM. Later plans start from the
    /// slots that a VM would then have.
    ///
    /// # Errors
    /// [`StepError::Stale`] at the first step whose slot is not in the expected
    /// state. The table has followed the steps before it.
    pub fn follow(&mut self, plan: &Plan) -> Result<(), StepError> {
        for op in &plan.ops {
            finds_room(self, op)?;
            self.follow_op(op);
        }
        Ok(())
    }
}

/// Checks that the operation's slot is in the expected state, and that no other
/// slot occupies its target. Plans follow the second rule by themselves.
pub(crate) fn finds_room(table: &SlotTable, op: &Op) -> Result<(), StepError> {
    starts_from(table, op)?;
    let (Op::Create(to) | Op::Move { to, .. }) = op else {
        return Ok(());
    };
    let mut there = table.intersecting_downwards(to.gpa(), to.last());
    match there.find(|other: &&Slot| other.id != to.id) {
        None => Ok(()),
        Some(other) => Err(StepError::Stale(other.id)),
    }
}
