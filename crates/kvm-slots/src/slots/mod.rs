// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owns the memslots of one VM: plans, applies and rolls back changes.

pub(crate) mod apply;
pub(crate) mod hold;
pub(crate) mod ids;
#[cfg(feature = "memory-model")]
pub(crate) mod listener;
pub(crate) mod rules;
pub(crate) mod slot;
pub(crate) mod step;
pub(crate) mod table;
#[cfg(feature = "memory-model")]
pub(crate) mod view;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use crate::abi::AbiProfile;
use crate::dirty::ops::OpWatcher;
use crate::plan;
use crate::plan::change::Change;
use crate::plan::error::PlanError;
use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::range::SlotRange;
use crate::slots::apply::{Applied, ApplyError, NotUndone};
use crate::slots::rules::SlotRules;
use crate::slots::slot::Slot;
use crate::slots::step::{StepError, Stepper};
use crate::slots::table::SlotTable;
use crate::unsupported::Unsupported;
use crate::vm::Vm;
use crate::vm::caps::Capabilities;
use crate::vm::errno::Errno;

/// The memslots of one VM.
///
/// A plan starts from the VM's current slots. Applying it makes one ioctl for each
/// [`Op`]. The [`table`](Self::table) follows each operation that succeeds, so it
/// stays true after a failure.
///
/// No slot outlives the owner of its memory. Dropping this value deletes the
/// slots. If KVM refuses to delete a slot, the owner is leaked.
#[derive(Debug)]
pub struct Slots<V: Vm> {
    vm: Arc<V>,
    capabilities: Capabilities,
    abi: AbiProfile,
    table: SlotTable,
    watcher: Option<Arc<dyn OpWatcher + Send + Sync>>,
}

impl<V: Vm> Slots<V> {
    /// Manages the memslots of `vm`, which has none yet.
    ///
    /// # Safety
    /// The caller guarantees:
    ///
    /// - `vm` does what [`Vm`] documents. All memslots of the VM are made and
    ///   changed through this value, except those with
    ///   [reserved numbers](SlotRules::reserving).
    /// - `abi` is [`AbiProfile::None`], or the kernel has this ABI
    ///   ([`probe_abi`](crate::probe::probe_abi())). A kernel that uses the flag for
    ///   something else could interpret such a slot as memory of the process.
    pub unsafe fn new(vm: V, abi: AbiProfile) -> Self {
        Self {
            capabilities: Capabilities::probe(&vm),
            vm: Arc::new(vm),
            abi,
            table: SlotTable::new(),
            watcher: None,
        }
    }

    /// Sets the rules of later plans, for a VM that has slots with reserved numbers
    /// or a maximum slot size. Set them before the first plan: existing slots stay as
    /// they are, and after another maximum size [`plan_change`](Self::plan_change) may
    /// not find the slots of a removed range ([`PlanError::NotThere`]).
    #[must_use]
    pub fn with_rules(mut self, rules: SlotRules) -> Self {
        self.table.set_rules(rules);
        self
    }

    /// Sets the capabilities of later plans, for a VMM that uses fewer, or knows more
    /// than KVM reports. KVM refuses operations that it does not support.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Sets a watcher that is called before each operation, including those of a
    /// rollback: a [`DirtyCollector`](crate::dirty::DirtyCollector), which reads a
    /// dirty log before an operation that ends it. Dropping `Slots` does not call it:
    /// collect dirty pages before.
    #[must_use]
    pub fn with_watcher(mut self, watcher: Arc<dyn OpWatcher + Send + Sync>) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        &self.vm
    }

    /// The capabilities of the VM's kernel.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The ABI for slots without a host address.
    pub fn abi(&self) -> AbiProfile {
        self.abi
    }

    /// The current slots.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// Checks whether the guest can have `range` without exits: see
    /// [`Capabilities::check`].
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn check(&self, range: &SlotRange) -> Result<(), Unsupported> {
        self.capabilities.check(range, self.abi)
    }

    /// Plans the change to the slots for `ranges`: all memory that the guest reaches
    /// directly. No page changes between private and shared.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self, ranges: &[SlotRange]) -> Result<Plan, PlanError> {
        plan::plan(&self.table, ranges, &self.capabilities, self.abi)
    }

    /// Plans a change of some ranges. The cost depends on the change, with one
    /// search for each range, and not on the number of slots.
    ///
    /// # Errors
    /// As for [`plan::plan_change`].
    pub fn plan_change(&self, change: &Change<'_>) -> Result<Plan, PlanError> {
        plan::plan_change(&self.table, change, &self.capabilities, self.abi)
    }

    /// Applies `plan`. After a failure, the earlier steps are undone.
    ///
    /// Running vCPUs see only the memory before and the memory after the plan if
    /// the caller holds them as [`Plan::holds_vcpus`] requires.
    ///
    /// # Errors
    /// [`ApplyError`] with the step that the kernel or the watcher refused. A plan
    /// made from other slots fails too: a step whose slot is not in the expected
    /// state is skipped.
    ///
    /// # Panics
    /// If the VM or the watcher panics. The earlier steps are undone as after a
    /// failure; the table has the slots that could not be undone.
    #[expect(
        clippy::result_large_err,
        reason = "the error names whole slots, and a failed ioctl dwarfs its copying"
    )]
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, ApplyError> {
        let (stepper, table) = self.stepper();
        // SAFETY: only the planner makes slots, from ranges whose `HostMemory`
        // guarantees the bytes. `table` followed all operations, and `drop`
        // deletes its slots.
        unsafe { apply::apply(&stepper, plan, table) }
    }

    /// Rolls back an applied plan; returns the steps that could not be undone.
    ///
    /// A step is skipped if its slot is not in the expected state, because an
    /// earlier step could not be undone or the slots have changed since: KVM
    /// would interpret the ioctl as a different operation. The result names such
    /// a step with the slot that blocks it.
    ///
    /// # Panics
    /// If the VM or the watcher panics. The remaining steps are not undone; the
    /// table stays true.
    #[must_use = "it lists the steps that could not be undone"]
    pub fn undo(&mut self, applied: Applied) -> Vec<NotUndone> {
        let (stepper, table) = self.stepper();
        // SAFETY: as in `apply`; `applied` holds the owners of deleted slots.
        unsafe { apply::undo(&stepper, applied.ops(), table) }
    }

    /// The VM, for use while the slots are locked.
    #[cfg(feature = "memory-model")]
    pub(crate) fn shared_vm(&self) -> Arc<V> {
        self.vm.clone()
    }

    /// Whether there is a watcher.
    #[cfg(feature = "memory-model")]
    pub(crate) fn is_watched(&self) -> bool {
        self.watcher.is_some()
    }

    fn stepper(&mut self) -> (Stepper<'_, V>, &mut SlotTable) {
        let watcher: &dyn OpWatcher = match &self.watcher {
            Some(watcher) => &**watcher,
            None => &(),
        };
        let stepper = Stepper {
            vm: &*self.vm,
            capabilities: &self.capabilities,
            abi: self.abi,
            watcher,
        };
        (stepper, &mut self.table)
    }
}

impl<V: Vm> Drop for Slots<V> {
    fn drop(&mut self) {
        let (slots, unsettled) = std::mem::take(&mut self.table).into_slots();
        let stepper = self.stepper().0;
        // After an operation that panicked, KVM may or may not have its slot.
        let (mut created, mut doubtful) = (None, None);
        match unsettled {
            Some(Op::Create(slot)) => created = Some(slot),
            Some(Op::Delete(slot)) => doubtful = Some(slot.id),
            _ => {}
        }
        for slot in slots {
            let may_not_exist = doubtful == Some(slot.id);
            delete(&stepper, slot, may_not_exist);
        }
        if let Some(slot) = created {
            delete(&stepper, slot, true);
        }
    }
}

/// Deletes the slot, or leaks its owner. The watcher is not called: it could not
/// keep the slot.
fn delete<V: Vm>(stepper: &Stepper<'_, V>, slot: Slot, may_not_exist: bool) {
    let op = Op::Delete(slot);
    // A second panic during unwinding would abort the process.
    let deleted = panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: deleting a slot takes memory from the guest and gives none.
        unsafe { stepper.perform(&op) }
    }));
    match deleted {
        Ok(Ok(())) => {}
        // The error of KVM, and of a push map, if the slot does not exist.
        Ok(Err(StepError::Refused(Errno::EINVAL | Errno::ENOENT))) if may_not_exist => {}
        // KVM may still have the slot, and the guest may reach its memory. The same
        // holds while a release is pending.
        Ok(Err(_)) | Err(_) => std::mem::forget(op),
    }
}
