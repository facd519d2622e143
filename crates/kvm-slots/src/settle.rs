// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Brings KVM back to the state in the table after a panic.

use crate::errno::Errno;
use crate::plan::op::Op;
use crate::slot::Slot;
use crate::step::Stepper;
use crate::table::SlotTable;
use crate::vm::Vm;

impl<V: Vm> Stepper<'_, V> {
    /// Restores the slot or the pages of the operation that may or may not have
    /// been carried out. If KVM refuses to restore the slot, it is deleted, and
    /// the table follows.
    ///
    /// # Errors
    /// What KVM refused; the operation stays unsettled.
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    #[cold]
    pub(crate) unsafe fn settle(&self, table: &mut SlotTable) -> Result<(), Errno> {
        let Some(op) = table.unsettled().cloned() else {
            return Ok(());
        };
        match &op {
            // SAFETY: passed on from the caller, as is each of those below.
            Op::Create(slot) => unsafe { self.ensure_deleted(slot) }?,
            // It is not known whether the slot exists, and KVM creates a slot
            // only if it does not.
            // SAFETY: as above.
            Op::Delete(slot) => unsafe {
                self.ensure_deleted(slot)?;
                if self.perform(&Op::Create(slot.clone())).is_err() {
                    table.remove(slot.id);
                }
            },
            // KVM does nothing if the slot is so already.
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

    /// Deletes the slot if it is there.
    ///
    /// # Safety
    /// As for [`step`](Self::step).
    unsafe fn ensure_deleted(&self, slot: &Slot) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        match unsafe { self.perform(&Op::Delete(slot.clone())) } {
            // The answer of KVM, and of a push map, if the slot does not exist.
            Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            result => result,
        }
    }
}
