// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that keeps a VM's memslots in step with a flat view.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory_model::{Listener, ListenerError, Update};

use crate::abi::AbiProfile;
use crate::apply::{Applied, ApplyError, NotUndone};
use crate::caps::Capabilities;
use crate::hold::{HoldVcpus, NoneRuns};
use crate::plan::change::Change;
use crate::plan::error::PlanError;
use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::range::{Backing, SlotRange};
use crate::slots::Slots;
use crate::table::SlotTable;
use crate::view::{ChangedRanges, slot_ranges};
use crate::vm::Vm;

/// Keeps the memslots of a VM in step with the view of one address space. It
/// plans while a transaction prepares. It makes the change once every listener
/// has prepared, and undoes it if another listener refuses later.
///
/// # What a running guest sees
///
/// At each address, a running guest sees the memory before a change or the
/// memory after it, and nothing else. vCPUs are held only where
/// [`Plan::holds_vcpus`] is set: from before the first operation until the new
/// view is published, or until the old slots are back. Removing or moving one
/// slot of memory that the host has mapped, adding slots of such memory, and
/// starting a dirty log need no hold. Without a hold, a change of several
/// addresses is not seen as a whole.
///
/// A vCPU thread whose exit races with a change may find that its view calls the
/// run direct. It then accesses the memory's host mapping: the documentation of
/// [`ViewReader`](memory_model::ViewReader) has the code. Private MMIO has no
/// host mapping. vCPUs are held when it is added or removed, so no exit races
/// with that, provided that each thread takes its view before it counts as out
/// of the guest ([`HoldVcpus::hold`]).
///
/// Give this listener the lowest priority of all. It then applies last, and no
/// other listener can refuse a change that the guest has already seen. If two
/// such listeners follow one model, the second one can: the guest of the first
/// one's VM sees the rollback. If KVM refuses the rollback too, the error says
/// what is left, and the guest sees that.
///
/// # Cost
///
/// The cost of a transaction depends on what it changes, not on the number of
/// slots. Only after a failure that could not be undone, or a panic, does the
/// next transaction resync: it plans from the whole view.
///
/// Page attributes stay as they are, by guest-physical address, like the
/// model's private pages.
pub struct SlotListener<V: Vm, H: HoldVcpus = NoneRuns> {
    vm: Arc<V>,
    capabilities: Capabilities,
    abi: AbiProfile,
    vcpus: H,
    keeps_latest_plan: bool,
    state: Mutex<State<V, H::Held>>,
}

struct State<V: Vm, Held> {
    slots: Slots<V>,
    latest: Option<Plan>,
    ranges: ChangedRanges,
    stage: Stage,
    /// vCPUs that are held until the transaction has ended.
    held: Option<Held>,
    /// The slots may differ from those of the published view.
    needs_resync: bool,
}

/// How far a transaction has come.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Planned; the latest plan is not applied.
    Prepared,
    /// Carried out.
    Applied {
        applied: Applied,
        /// Whether the slots needed a resync before.
        needed_resync: bool,
    },
}

impl<V: Vm + fmt::Debug, H: HoldVcpus> fmt::Debug for SlotListener<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("SlotListener");
        fields.field("vm", &self.vm).field("abi", &self.abi);
        // The listener itself may be at work.
        if let Ok(state) = self.state.try_lock() {
            fields
                .field("table", state.slots.table())
                .field("stage", &state.stage)
                .field("holds_vcpus", &state.held.is_some())
                .field("needs_resync", &state.needs_resync);
        }
        fields.finish_non_exhaustive()
    }
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
    /// Follows a view with the memslots of `slots`, and holds `vcpus` where
    /// memory in use has a gap. [`NoneRuns`] is for a VM that needs none of that.
    ///
    /// If `slots` has a watcher, vCPUs are also held while a log ends
    /// ([`Plan::ends_log`]).
    pub fn new(slots: Slots<V>, vcpus: H) -> Self {
        Self {
            vm: slots.shared_vm(),
            capabilities: *slots.capabilities(),
            abi: slots.abi(),
            vcpus,
            keeps_latest_plan: false,
            state: Mutex::new(State {
                slots,
                latest: None,
                ranges: ChangedRanges::default(),
                stage: Stage::Idle,
                held: None,
                needs_resync: false,
            }),
        }
    }

    /// Keeps the latest plan for [`take_latest_plan`](Self::take_latest_plan):
    /// and with it the owners of memory that it removed.
    #[must_use]
    pub fn keeping_latest_plan(self) -> Self {
        Self {
            keeps_latest_plan: true,
            ..self
        }
    }

    /// Calls `look` with the memslots as they are, and keeps them so meanwhile:
    /// for [`DirtyCollector::collect`](crate::DirtyCollector::collect).
    pub fn with_table<R>(&self, look: impl FnOnce(&SlotTable) -> R) -> R {
        look(self.state().slots.table())
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
        self.state().slots.table().clone()
    }

    /// The latest plan that was carried out, if there was one since the last
    /// time that this was asked. It is kept only by request:
    /// [`keeping_latest_plan`](Self::keeping_latest_plan).
    pub fn take_latest_plan(&self) -> Option<Plan> {
        self.state().latest.take()
    }

    /// A panic elsewhere cannot have left the state half changed: the table
    /// follows KVM one whole operation at a time.
    fn state(&self) -> MutexGuard<'_, State<V, H::Held>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the latest plan. vCPUs that must be held stay held on success.
    fn follow(&self, state: &mut State<V, H::Held>) -> Result<(), FollowError> {
        let Some(plan) = &state.latest else {
            return Ok(());
        };
        let log_ends = state.slots.is_watched() && plan.ends_log();
        let held = (plan.holds_vcpus() || log_ends).then(|| self.vcpus.hold());
        // After a panic, no one has said what became of the operations.
        let needed_resync = std::mem::replace(&mut state.needs_resync, true);
        match state.slots.apply(plan) {
            Ok(applied) => {
                state.needs_resync = false;
                state.held = held;
                state.stage = Stage::Applied {
                    applied,
                    needed_resync,
                };
                Ok(())
            }
            Err(error) => {
                state.needs_resync = needed_resync || !error.not_undone.is_empty();
                state.latest = None;
                Err(Box::new(error).into())
            }
        }
    }

    fn plan<T>(
        &self,
        state: &mut State<V, H::Held>,
        update: &Update<'_, T>,
    ) -> Result<Plan, PlanError> {
        if state.needs_resync {
            let mut wanted = slot_ranges(update.new);
            self.measure(&mut wanted);
            return state.slots.plan(&wanted);
        }
        let ranges = &mut state.ranges;
        ranges.set(update.diff);
        self.measure(&mut ranges.removed);
        self.measure(&mut ranges.added);
        let change = Change {
            gone: &ranges.removed,
            come: &ranges.added,
            ..Change::default()
        };
        let plan = state.slots.plan_change(&change);
        ranges.clear();
        plan
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

    /// Undoes what was applied. If vCPUs are `held`, they stay held during that;
    /// otherwise they are held where a log ends.
    fn undo(
        &self,
        slots: &mut Slots<V>,
        applied: Applied,
        held: Option<H::Held>,
    ) -> Vec<NotUndone> {
        let mut ops = applied.ops().iter().map(Op::inverse);
        let log_ends = slots.is_watched() && ops.any(|op| op.ends_log().is_some());
        let _held = held.or_else(|| log_ends.then(|| self.vcpus.hold()));
        slots.undo(applied)
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
        let state = &mut *self.state();
        state.stage = Stage::Idle;
        if update.diff.is_empty() && !state.needs_resync {
            return Ok(());
        }
        let plan = self.plan(state, update).map_err(FollowError::from)?;
        state.latest = Some(plan);
        state.stage = Stage::Prepared;
        Ok(())
    }

    fn apply(&self, _update: &Update<'_, T>) -> Result<(), ListenerError> {
        let state = &mut *self.state();
        match state.stage {
            Stage::Prepared => Ok(self.follow(state)?),
            Stage::Idle | Stage::Applied { .. } => Ok(()),
        }
    }

    fn commit(&self, _update: &Update<'_, T>) {
        let state = &mut *self.state();
        state.stage = Stage::Idle;
        if !self.keeps_latest_plan {
            state.latest = None;
        }
        state.held = None;
    }

    fn abort(&self, _update: &Update<'_, T>) -> Result<(), ListenerError> {
        let state = &mut *self.state();
        let held = state.held.take();
        let (applied, needed_resync) = match std::mem::take(&mut state.stage) {
            Stage::Idle => return Ok(()),
            Stage::Prepared => {
                state.latest = None;
                return Ok(());
            }
            Stage::Applied {
                applied,
                needed_resync,
            } => (applied, needed_resync),
        };
        state.latest = None;
        // After a panic, no one has said what became of the operations.
        state.needs_resync = true;
        let not_undone = self.undo(&mut state.slots, applied, held);
        state.needs_resync = needed_resync || !not_undone.is_empty();
        match not_undone.is_empty() {
            true => Ok(()),
            false => Err(FollowError::NotUndone(not_undone).into()),
        }
    }
}
