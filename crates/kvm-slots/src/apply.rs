// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carrying a plan out, and going back when the kernel refuses a step.

use crate::plan::{Op, Plan};
use crate::slot::Slot;
use crate::{AbiProfile, BeforeOp, Capabilities, Errno, SlotTable, Vm};

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

/// Which step the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {errno}{}", rest(.not_undone))]
pub struct ApplyError {
    /// The operation.
    pub op: Op,
    /// What the kernel said.
    pub errno: Errno,
    /// What could not be undone of the steps before it: empty, and then
    /// nothing has changed, unless the kernel refused that too.
    pub not_undone: Vec<(Op, Errno)>,
}

fn rest(not_undone: &[(Op, Errno)]) -> String {
    let texts = not_undone
        .iter()
        .map(|(op, errno)| format!("; not undone: {op} ({errno})"));
    texts.collect()
}

/// Carries `plan` out on `vm`. `table` follows every step that succeeds; after
/// a refusal the steps before it are undone.
///
/// # Errors
/// [`ApplyError`] with the refused step.
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
/// would take away: see [`DirtyCollector`](crate::DirtyCollector).
///
/// # Errors
/// [`ApplyError`] with the step that the kernel or `watcher` refused.
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
    let mut ops = Vec::new();
    for op in &plan.ops {
        let allowed = watcher.before(op, table);
        // SAFETY: the caller vouches for the host ranges of all slots of the
        // plan while their owners live, and the table, which follows below,
        // holds the owner of every slot that KVM has.
        let done = allowed.and_then(|()| unsafe { perform(vm, capabilities, abi, op) });
        if let Err(errno) = done {
            let applied = Applied { ops };
            // SAFETY: as above; these slots were in the table before.
            let not_undone = unsafe { undo_with(vm, capabilities, abi, applied, table, watcher) };
            return Err(ApplyError {
                op: op.clone(),
                errno,
                not_undone,
            });
        }
        table.follow(op);
        ops.push(op.clone());
    }
    Ok(Applied { ops })
}

/// Takes a plan back that was carried out; returns what could not be undone.
///
/// # Safety
/// As for [`apply`], for the slots as they were before it.
pub unsafe fn undo(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    applied: Applied,
    table: &mut SlotTable,
) -> Vec<(Op, Errno)> {
    // SAFETY: passed on from the caller.
    unsafe { undo_with(vm, capabilities, abi, applied, table, &()) }
}

/// As [`undo`], and `watcher` is asked before each operation.
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
) -> Vec<(Op, Errno)> {
    let mut not_undone = Vec::new();
    for op in applied.ops.iter().rev().map(Op::inverse) {
        let allowed = watcher.before(&op, table);
        // SAFETY: the caller vouches for these slots' host ranges; `Applied`
        // held their owners from before `apply` until now.
        let done = allowed.and_then(|()| unsafe { perform(vm, capabilities, abi, &op) });
        match done {
            Ok(()) => table.follow(&op),
            Err(errno) => not_undone.push((op, errno)),
        }
    }
    not_undone
}

/// One operation, one ioctl.
///
/// # Safety
/// The operation's slots must keep the contract of
/// [`Vm::set_user_memory_region2`].
unsafe fn perform(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    op: &Op,
) -> Result<(), Errno> {
    let (slot, size) = match op {
        Op::Delete(slot) => (slot, 0),
        Op::Create(slot) | Op::Move { to: slot, .. } | Op::SetFlags { to: slot, .. } => {
            (slot, slot.size)
        }
    };
    // SAFETY: the caller's promise is the very one that `set` asks for.
    unsafe { set(vm, capabilities, abi, slot, size) }
}

/// # Safety
/// As for [`perform`].
unsafe fn set(
    vm: &impl Vm,
    capabilities: &Capabilities,
    abi: AbiProfile,
    slot: &Slot,
    memory_size: u64,
) -> Result<(), Errno> {
    if capabilities.user_memory2 {
        let mut region = slot.region2(abi).ok_or(Errno::EOPNOTSUPP)?;
        region.memory_size = memory_size;
        // SAFETY: passed on from the caller.
        unsafe { vm.set_user_memory_region2(&region) }
    } else {
        let mut region = slot.region1().ok_or(Errno::EOPNOTSUPP)?;
        region.memory_size = memory_size;
        // SAFETY: passed on from the caller.
        unsafe { vm.set_user_memory_region(&region) }
    }
}
