// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Applies a plan, and rolls it back if the kernel refuses a step.

use std::panic::{self, AssertUnwindSafe};

use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::slots::step::{StepError, Stepper, finds_room};
use crate::slots::table::SlotTable;
use crate::vm::Vm;

/// The operations of an applied plan, which can be undone.
#[derive(Debug)]
pub struct Applied {
    ops: Vec<Op>,
}

impl Applied {
    /// The operations, in the order in which they were applied.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// The failed step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {why}{}", rest(.not_undone))]
#[non_exhaustive]
pub struct ApplyError {
    /// The operation.
    pub op: Op,
    /// The kernel's error, or the reason why the operation was skipped.
    pub why: StepError,
    /// The earlier steps that could not be undone. If it is empty, nothing has
    /// changed.
    pub not_undone: Vec<NotUndone>,
}

/// A step of a rollback that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} ({why})")]
pub struct NotUndone {
    /// The inverse operation.
    pub op: Op,
    /// The kernel's error, or the reason why the operation was skipped.
    pub why: StepError,
}

fn rest(not_undone: &[NotUndone]) -> String {
    let texts = not_undone
        .iter()
        .map(|step| format!("; not undone: {step}"));
    texts.collect()
}

/// Applies `plan`. `table` follows every step that succeeds. After a failure, or a
/// panic of the VM or the watcher, the earlier steps are undone.
///
/// # Errors
/// [`ApplyError`] with the failed step.
///
/// # Safety
/// The slots of `plan` must keep the contract of
/// [`Vm::set_user_memory_region2`] while their owners live. `table` must be the
/// one that followed all operations on the VM so far, and hold the owner of
/// every slot until KVM has deleted it.
#[expect(
    clippy::result_large_err,
    reason = "the error names whole slots, and a failed ioctl dwarfs its copying"
)]
pub(crate) unsafe fn apply<V: Vm>(
    stepper: &Stepper<'_, V>,
    plan: &Plan,
    table: &mut SlotTable,
) -> Result<Applied, ApplyError> {
    let mut done = Done {
        stepper,
        table,
        ops: Vec::with_capacity(plan.ops.len()),
    };
    for op in &plan.ops {
        // SAFETY: the caller guarantees the host ranges of all slots of the plan
        // while their owners live. The table follows, and holds the owner of
        // every slot that KVM has.
        if let Err(why) = unsafe { stepper.step(op, done.table) } {
            let ops = std::mem::take(&mut done.ops);
            // SAFETY: as above; these slots were in the table before.
            let not_undone = unsafe { undo(stepper, &ops, done.table) };
            return Err(ApplyError {
                op: op.clone(),
                why,
                not_undone,
            });
        }
        done.ops.push(op.clone());
    }
    let ops = std::mem::take(&mut done.ops);
    std::mem::forget(done);
    Ok(Applied { ops })
}

/// The applied operations of a plan. Dropping it after a panic undoes them;
/// otherwise it is forgotten.
struct Done<'a, V: Vm> {
    stepper: &'a Stepper<'a, V>,
    table: &'a mut SlotTable,
    ops: Vec<Op>,
}

impl<V: Vm> Drop for Done<'_, V> {
    fn drop(&mut self) {
        if self.ops.is_empty() && self.table.unsettled().is_none() {
            return;
        }
        // A second panic during unwinding would abort the process. The table is
        // true after each step, whether or not the next one panics.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: `Done` exists in `apply` only, whose caller guarantees
            // these slots' host ranges; `ops` holds their owners.
            unsafe {
                let settled = self.stepper.settle(self.table);
                if settled.is_ok() {
                    let _ = undo(self.stepper, &self.ops, self.table);
                }
            }
        }));
    }
}

/// Undoes `ops`, the last first; returns the steps that could not be undone.
///
/// # Safety
/// As for [`apply`]; `ops` must hold the owners of slots that it deleted.
pub(crate) unsafe fn undo(
    stepper: &Stepper<'_, impl Vm>,
    ops: &[Op],
    table: &mut SlotTable,
) -> Vec<NotUndone> {
    let mut not_undone: Vec<NotUndone> = Vec::new();
    for op in ops.iter().rev().map(Op::inverse) {
        // SAFETY: the caller guarantees these slots' host ranges, and `ops` has
        // held their owners since they were deleted.
        let done = finds_room(table, &op).and_then(|()| unsafe { stepper.step(&op, table) });
        if let Err(why) = done {
            not_undone.push(NotUndone { op, why });
        }
    }
    not_undone
}
