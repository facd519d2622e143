// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that keeps a VM's memslots in step with a flat view.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory_model::{Listener, ListenerError, Update};

use crate::view::{changed_ranges, slot_ranges};
use crate::{
    AbiProfile, Applied, ApplyError, Backing, BeforeOp, Capabilities, Change, HoldVcpus, NoneRuns,
    NotUndone, Op, Plan, PlanError, SlotRange, SlotRules, SlotTable, Vm, apply_with, plan,
    plan_change, undo_with,
};

/// Keeps the memslots of a VM in step with the view of one address space: it
/// plans and applies while a transaction prepares, and goes back if the
/// transaction is aborted. vCPUs are held while they would notice, and only
/// then.
///
/// A transaction costs what it changes, not what there is. Only after a
/// failure that could not be undone does the next one look at everything, and
/// so puts the slots right again.
///
/// Page attributes stay as they are, by guest-physical address, like the
/// model's private pages.
#[derive(Debug)]
pub struct SlotListener<V, H = NoneRuns> {
    vm: V,
    capabilities: Capabilities,
    abi: AbiProfile,
    vcpus: H,
    watcher: Option<Arc<dyn BeforeOp + Send + Sync>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: SlotTable,
    latest: Option<Plan>,
    applied: Option<Undoable>,
    /// The slots are not those of the view that is published.
    out_of_step: bool,
}

/// What was carried out, and whether vCPUs have to be held to take it back: an
/// address that comes and goes on the way there does so on the way back.
#[derive(Debug)]
struct Undoable {
    applied: Applied,
    holds_vcpus: bool,
    /// Whether the slots were out of step before.
    out_of_step: bool,
}

/// Why a VM's memslots could not follow a view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// There is no plan; KVM was not touched.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// KVM refused a step.
    #[error(transparent)]
    Apply(#[from] Box<ApplyError>),
    /// The transaction was aborted and these steps could not be undone.
    #[error("could not be undone: {}", list(.0))]
    NotUndone(Vec<NotUndone>),
}

fn list(steps: &[NotUndone]) -> String {
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl<V: Vm, H: HoldVcpus> SlotListener<V, H> {
    /// Follows a view with the memslots of `vm`, which has none yet, and holds
    /// `vcpus` where memory in use has a gap. [`NoneRuns`] is for a VM that
    /// needs none of that.
    ///
    /// # Safety
    /// Every host address in every view that this listener is given must be
    /// memory that the guest may access as the view says, at any time for as
    /// long as its owner lives: mapped, and not otherwise used by the process.
    ///
    /// The listener holds the owners: it must be kept until the VM is gone.
    pub unsafe fn new(vm: V, abi: AbiProfile, vcpus: H) -> Self {
        // SAFETY: the same promise.
        unsafe { Self::with_rules(vm, abi, vcpus, SlotRules::new()) }
    }

    /// [`new`](Self::new) for a VM that has slots with reserved numbers, or
    /// whose slots shall not be as large as they can be.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub unsafe fn with_rules(vm: V, abi: AbiProfile, vcpus: H, rules: SlotRules) -> Self {
        Self {
            capabilities: Capabilities::probe(&vm),
            vm,
            abi,
            vcpus,
            watcher: None,
            state: Mutex::new(State {
                table: SlotTable::with_rules(rules),
                latest: None,
                applied: None,
                out_of_step: false,
            }),
        }
    }

    /// Has `watcher` asked before each operation: a
    /// [`DirtyCollector`](crate::DirtyCollector), so that no log is lost. vCPUs
    /// are then held also while a log ends ([`Plan::ends_log`]).
    #[must_use]
    pub fn with_watcher(self, watcher: Arc<dyn BeforeOp + Send + Sync>) -> Self {
        Self {
            watcher: Some(watcher),
            ..self
        }
    }

    /// Calls `look` with the memslots as they are, and keeps them so meanwhile:
    /// for [`DirtyCollector::collect`](crate::DirtyCollector::collect).
    pub fn with_table<R>(&self, look: impl FnOnce(&SlotTable) -> R) -> R {
        look(&self.state().table)
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        &self.vm
    }

    /// What the VM's kernel can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// How slots without a host address are made.
    pub fn abi(&self) -> AbiProfile {
        self.abi
    }

    /// The memslots as they are now.
    pub fn table(&self) -> SlotTable {
        self.state().table.clone()
    }

    /// The latest plan that was carried out, if there was one since the last
    /// time that this was asked.
    pub fn take_latest_plan(&self) -> Option<Plan> {
        self.state().latest.take()
    }

    /// A panic elsewhere cannot have left the state half changed: the table
    /// follows KVM one whole operation at a time.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow<T>(&self, update: &Update<'_, T>) -> Result<(), FollowError> {
        let state = &mut *self.state();
        let plan = self.plan(state, update)?;
        let log_ends = self.watcher.is_some() && plan.ends_log();
        let held = (plan.holds_vcpus || log_ends).then(|| self.vcpus.hold());
        // SAFETY: the host ranges come from the views, for which the creator
        // of this listener has vouched in `new`.
        let applied = unsafe {
            apply_with(
                &self.vm,
                &self.capabilities,
                self.abi,
                &plan,
                &mut state.table,
                self.watcher(),
            )
        };
        drop(held);
        match applied {
            Ok(applied) => {
                state.applied = Some(Undoable {
                    applied,
                    holds_vcpus: plan.holds_vcpus,
                    out_of_step: std::mem::take(&mut state.out_of_step),
                });
                state.latest = Some(plan);
                Ok(())
            }
            Err(error) => {
                state.out_of_step |= !error.not_undone.is_empty();
                Err(Box::new(error).into())
            }
        }
    }

    fn plan<T>(&self, state: &State, update: &Update<'_, T>) -> Result<Plan, PlanError> {
        if state.out_of_step {
            let mut wanted = slot_ranges(update.new);
            self.measure(&mut wanted);
            return plan(&state.table, &wanted, &self.capabilities, self.abi);
        }
        let (mut gone, mut come) = changed_ranges(update.diff);
        self.measure(&mut gone);
        self.measure(&mut come);
        let change = Change {
            gone: &gone,
            come: &come,
            ..Change::default()
        };
        plan_change(&state.table, &change, &self.capabilities, self.abi)
    }

    fn watcher(&self) -> &dyn BeforeOp {
        match &self.watcher {
            Some(watcher) => &**watcher,
            None => &(),
        }
    }

    /// Finds out how large the files are, for a profile that asks.
    fn measure(&self, ranges: &mut [SlotRange]) {
        if !self.abi.needs_file_sizes() {
            return;
        }
        for range in ranges {
            if let Backing::FdOffset(file) = &mut range.backing {
                *file = file.clone().measured();
            }
        }
    }

    fn go_back(&self, state: &mut State, back: Undoable) -> Vec<NotUndone> {
        let mut ops = back.applied.ops().iter().map(Op::inverse);
        let log_ends = self.watcher.is_some() && ops.any(|op| op.ends_log().is_some());
        let _held = (back.holds_vcpus || log_ends).then(|| self.vcpus.hold());
        // SAFETY: these slots were made from earlier views, whose host ranges
        // the creator of this listener has vouched for in `new`.
        unsafe {
            undo_with(
                &self.vm,
                &self.capabilities,
                self.abi,
                back.applied,
                &mut state.table,
                self.watcher(),
            )
        }
    }
}

impl<T, V, H> Listener<T> for SlotListener<V, H>
where
    V: Vm + Send + Sync,
    H: HoldVcpus + Send + Sync,
{
    fn name(&self) -> &str {
        "KVM memslots"
    }

    fn prepare(&self, update: &Update<'_, T>) -> Result<(), ListenerError> {
        if update.diff.is_empty() {
            return Ok(());
        }
        Ok(self.follow(update)?)
    }

    fn commit(&self, _update: &Update<'_, T>) {
        self.state().applied = None;
    }

    fn abort(&self, _update: &Update<'_, T>) -> Result<(), ListenerError> {
        let state = &mut *self.state();
        state.latest = None;
        let Some(back) = state.applied.take() else {
            return Ok(());
        };
        state.out_of_step = back.out_of_step;
        let not_undone = self.go_back(state, back);
        if not_undone.is_empty() {
            return Ok(());
        }
        state.out_of_step = true;
        Err(FollowError::NotUndone(not_undone).into())
    }
}
