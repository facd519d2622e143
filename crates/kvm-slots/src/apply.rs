// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carrying a plan out, and going back when the kernel refuses a step.

use std::panic::{self, AssertUnwindSafe};

use crate::abi::AbiProfile;
use crate::caps::Capabilities;
use crate::dirty::ops::BeforeOp;
use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::step::{StepError, Stepper, finds_room};
use crate::table::SlotTable;
use crate::vm::Vm;

/// The operations of a plan that was carried out: what it takes to undo it.
#[derive(Debug)]
#[must_use = "dropping it gives up the way back"]
pub struct Applied {
    ops: Vec<Op>,
}

impl Applied {
    /// The operations, in the order in which they were carried out.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// Which step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {why}{}", rest(.not_undone))]
pub struct ApplyError {
    /// The operation.
    pub op: Op,
    /// What the kernel said, or why it was not asked.
    pub why: StepError,
    /// What could not be undone of the steps before it: empty, and then
    /// nothing has changed, unless something stood against that too.
    pub not_undone: Vec<NotUndone>,
}

/// A step that should have taken another one back, and did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} ({why})")]
pub struct NotUndone {
    /// The operation that would have led back.
    pub op: Op,
    /// What the kernel said, or why it was not asked.
    pub why: StepError,
}

fn rest(not_undone: &[NotUndone]) -> String {
    let texts = not_undone
        .iter()
        .map(|step| format!("; not undone: {step}"));
    texts.collect()
}

/// Carries `plan` out on `vm`. `table` follows every step that succeeds; after
/// a failure the steps before it are undone.
///
/// Running vCPUs see only the memory before and the memory after the plan if
/// the caller holds them as [`Plan::holds_vcpus`] requires.
///
/// # Errors
/// [`ApplyError`] with the step that failed. A plan made from another table fails
/// too: a step whose slot is not in the expected state is not tried.
///
/// # Panics
/// If `vm` does. The steps before are undone as after a failure. `table` stays
/// true, and has the slots that could not be undone.
///
/// # Safety
/// Every host range that the plan's slots name must be memory that the guest
/// may read, and write unless the slot is read-only, at any time for as long
/// as its owner lives: mapped, and not otherwise used by the process.
///
/// `table` must be the one that followed all operations on `vm` so far, and
/// must be kept until the VM is gone: it holds the owners.
#[expect(
    clippy::result_large_err,
    reason = "the error names whole slots, and a failed ioctl dwarfs its copying"
)]
pub unsafe fn apply(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    plan: &Plan,
    table: &mut SlotTable,
) -> Result<Applied, ApplyError> {
    // SAFETY: passed on from the caller.
    unsafe { apply_with(vm, capabilities, abi, plan, table, &()) }
}

/// As [`apply`], and `watcher` is asked before each operation, also before
/// those that undo others. That is where a dirty log is read that an operation
/// would take away: see [`DirtyCollector`](crate::dirty::DirtyCollector).
///
/// # Errors
/// [`ApplyError`] with the step that the kernel or `watcher` refused.
///
/// # Panics
/// If `vm` or `watcher` does, as for [`apply`].
///
/// # Safety
/// As for [`apply`].
#[expect(
    clippy::result_large_err,
    reason = "the error names whole slots, and a failed ioctl dwarfs its copying"
)]
pub unsafe fn apply_with(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    plan: &Plan,
    table: &mut SlotTable,
    watcher: &dyn BeforeOp,
) -> Result<Applied, ApplyError> {
    let stepper = Stepper {
        vm,
        capabilities,
        abi,
        watcher,
    };
    let mut done = Done {
        stepper: &stepper,
        table,
        ops: Vec::with_capacity(plan.ops.len()),
    };
    for op in &plan.ops {
        // SAFETY: the caller vouches for the host ranges of all slots of the
        // plan while their owners live, and the table, which follows, holds
        // the owner of every slot that KVM has.
        if let Err(why) = unsafe { stepper.step(op, done.table) } {
            let ops = std::mem::take(&mut done.ops);
            // SAFETY: as above; these slots were in the table before.
            let not_undone = unsafe { undo_all(&stepper, &ops, done.table) };
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

/// The operations of a plan that are done. A panic drops this, which undoes
/// them; otherwise it is forgotten.
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
            // SAFETY: `Done` exists in `apply_with` only, whose caller vouches
            // for these slots' host ranges; `ops` holds their owners.
            unsafe {
                let settled = self.stepper.settle(self.table);
                if settled.is_ok() {
                    let _ = undo_all(self.stepper, &self.ops, self.table);
                }
            }
        }));
    }
}

/// Rolls back an applied plan; returns the steps that could not be undone.
///
/// A step is skipped if its slot is not in the expected state, because an earlier
/// step could not be undone or the slots have changed since: KVM would interpret
/// the ioctl as a different operation. The result names such a step with the slot
/// that blocks it.
///
/// # Panics
/// If `vm` does. The remaining steps are not undone; `table` stays true.
///
/// # Safety
/// As for [`apply`], for the slots as they were before it.
pub unsafe fn undo(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    applied: Applied,
    table: &mut SlotTable,
) -> Vec<NotUndone> {
    // SAFETY: passed on from the caller.
    unsafe { undo_with(vm, capabilities, abi, applied, table, &()) }
}

/// As [`undo`], and `watcher` is asked before each operation.
///
/// # Panics
/// If `vm` or `watcher` does, as for [`undo`].
///
/// # Safety
/// As for [`undo`].
pub unsafe fn undo_with(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    applied: Applied,
    table: &mut SlotTable,
    watcher: &dyn BeforeOp,
) -> Vec<NotUndone> {
    let stepper = Stepper {
        vm,
        capabilities,
        abi,
        watcher,
    };
    // SAFETY: passed on from the caller; `applied` holds the slots' owners.
    unsafe { undo_all(&stepper, &applied.ops, table) }
}

/// Undoes `ops`, the last first.
///
/// # Safety
/// As for [`undo`]; `ops` must hold the owners of slots that it deleted.
unsafe fn undo_all(
    stepper: &Stepper<'_, impl Vm>,
    ops: &[Op],
    table: &mut SlotTable,
) -> Vec<NotUndone> {
    let mut not_undone: Vec<NotUndone> = Vec::new();
    for op in ops.iter().rev().map(Op::inverse) {
        // SAFETY: the caller vouches for these slots' host ranges, and `ops`
        // has held their owners since they were deleted.
        let done = finds_room(table, &op).and_then(|()| unsafe { stepper.step(&op, table) });
        if let Err(why) = done {
            not_undone.push(NotUndone { op, why });
        }
    }
    not_undone
}
