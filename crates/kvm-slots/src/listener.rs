// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that keeps a VM's memslots in step with a flat view.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory_model::{Listener, ListenerError, Update};

use crate::view::{ChangedRanges, slot_ranges};
use crate::{
    AbiProfile, Applied, ApplyError, Backing, BeforeOp, Capabilities, Change, HoldVcpus, NoneRuns,
    NotUndone, Op, Plan, PlanError, SlotRange, SlotRules, SlotTable, Vm, apply_with, plan,
    plan_change, undo_with,
};

/// Keeps the memslots of a VM in step with the view of one address space. It
/// plans while a transaction prepares. It makes the change once every listener
/// has prepared, and undoes it if another listener refuses later.
///
/// # What a running guest sees
///
/// A running guest sees the memory before a change and the memory after it, and
/// nothing else. vCPUs are held only where [`Plan::holds_vcpus`] is set: from
/// before the first operation until the new view is published, or until the old
/// slots are back. Removing or moving one slot, adding slots elsewhere, and
/// starting a dirty log need no hold.
///
/// A vCPU thread may find that its exit is at a run that its view calls direct:
/// the slot was just removed, or was added after the exit. The thread then does
/// what the guest would have done, and accesses the memory's host mapping. If
/// there is none, the region is being removed, and the next view, which is about
/// to be published, has the answer. This holds because vCPUs are held when such
/// memory is added, and because the thread takes its view before it counts as
/// out of the guest ([`HoldVcpus::hold`]).
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use memory_model::{AddrRange, FlatRange, FlatView, ViewReader};
///
/// /// Who answers an access of the guest.
/// enum Answer<H> {
///     /// The bus: the access is trapped by this run, or nothing is there.
///     Bus(Option<FlatRange<H>>),
///     /// The memory at this host address.
///     Memory(u64),
/// }
///
/// /// Looks up an MMIO exit at `gpa`. `view` was taken as the vCPU left the
/// /// guest, with `GatedVcpu::run_with(|| reader.snapshot())`.
/// fn look_up<H>(
///     mut view: Arc<FlatView<H>>,
///     reader: &ViewReader<H>,
///     gpa: u64,
///     write: bool,
/// ) -> Option<Answer<H>> {
///     let patience = Instant::now() + Duration::from_secs(1);
///     loop {
///         let Some(run) = view.find(gpa) else {
///             return Some(Answer::Bus(None));
///         };
///         let access = run.access();
///         let direct = if write { access.writes_directly() } else { access.reads_directly() };
///         if !direct {
///             return Some(Answer::Bus(Some(run.clone())));
///         }
///         let memory = run.backing_of(AddrRange::from_bounds(gpa, gpa)?)?;
///         if let Some(host) = memory.host() {
///             return Some(Answer::Memory(host.address()));
///         }
///         if Instant::now() > patience {
///             // It is not being removed: KVM could not emulate the instruction.
///             return None;
///         }
///         std::thread::yield_now();
///         view = reader.snapshot();
///     }
/// }
/// ```
///
/// Add the listener with a higher priority than others that can refuse in
/// [`Listener::apply`]. If one of them refuses after this listener has made a
/// change without a hold, the guest sees the change and its rollback.
///
/// # Cost
///
/// The cost of a transaction depends on what it changes, not on the number of
/// slots. Only after a failure that could not be undone, or a panic, does the
/// next transaction resync: it plans from the whole view.
///
/// Page attributes stay as they are, by guest-physical address, like the
/// model's private pages.
pub struct SlotListener<V, H: HoldVcpus = NoneRuns> {
    vm: V,
    capabilities: Capabilities,
    abi: AbiProfile,
    vcpus: H,
    watcher: Option<Arc<dyn BeforeOp + Send + Sync>>,
    state: Mutex<State<H::Held>>,
}

struct State<Held> {
    table: SlotTable,
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

impl<V: fmt::Debug, H: HoldVcpus> fmt::Debug for SlotListener<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("SlotListener");
        fields.field("vm", &self.vm).field("abi", &self.abi);
        // The listener itself may be at work.
        if let Ok(state) = self.state.try_lock() {
            fields
                .field("table", &state.table)
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
                ranges: ChangedRanges::default(),
                stage: Stage::Idle,
                held: None,
                needs_resync: false,
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
    fn state(&self) -> MutexGuard<'_, State<H::Held>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the latest plan. vCPUs that must be held stay held on success.
    fn follow(&self, state: &mut State<H::Held>) -> Result<(), FollowError> {
        let Some(plan) = &state.latest else {
            return Ok(());
        };
        let log_ends = self.watcher.is_some() && plan.ends_log();
        let held = (plan.holds_vcpus || log_ends).then(|| self.vcpus.hold());
        // After a panic, no one has said what became of the operations.
        let needed_resync = std::mem::replace(&mut state.needs_resync, true);
        // SAFETY: the host ranges come from the views, for which the creator
        // of this listener has vouched in `new`.
        let applied = unsafe {
            apply_with(
                &self.vm,
                &self.capabilities,
                self.abi,
                plan,
                &mut state.table,
                self.watcher(),
            )
        };
        match applied {
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
        state: &mut State<H::Held>,
        update: &Update<'_, T>,
    ) -> Result<Plan, PlanError> {
        if state.needs_resync {
            let mut wanted = slot_ranges(update.new);
            self.measure(&mut wanted);
            return plan(&state.table, &wanted, &self.capabilities, self.abi);
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
        let plan = plan_change(&state.table, &change, &self.capabilities, self.abi);
        ranges.clear();
        plan
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

    /// Undoes what was applied. If vCPUs are `held`, they stay held during that;
    /// otherwise they are held where a log ends.
    fn undo(
        &self,
        table: &mut SlotTable,
        applied: Applied,
        held: Option<H::Held>,
    ) -> Vec<NotUndone> {
        let mut ops = applied.ops().iter().map(Op::inverse);
        let log_ends = self.watcher.is_some() && ops.any(|op| op.ends_log().is_some());
        let _held = held.or_else(|| log_ends.then(|| self.vcpus.hold()));
        // SAFETY: these slots were made from earlier views, whose host ranges
        // the creator of this listener has vouched for in `new`.
        unsafe {
            undo_with(
                &self.vm,
                &self.capabilities,
                self.abi,
                applied,
                table,
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
        let state = &mut *self.state();
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
        let not_undone = self.undo(&mut state.table, applied, held);
        state.needs_resync = needed_resync || !not_undone.is_empty();
        match not_undone.is_empty() {
            true => Ok(()),
            false => Err(FollowError::NotUndone(not_undone).into()),
        }
    }
}
