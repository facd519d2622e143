// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps a VM's memslots in sync with a flat view.

use std::fmt;
use std::sync::Arc;

use memory_model::{ApplyPlan, Follow, Follower, Listener, ListenerError, Update};

use crate::abi::AbiProfile;
use crate::convert::{Conversion, ConversionListener, ConversionListenerError};
use crate::plan::change::Change;
use crate::plan::error::PlanError;
use crate::plan::op::Op;
use crate::plan::outcome::Plan;
use crate::range::SlotRange;
use crate::slots::Slots;
use crate::slots::apply::{Applied, ApplyError, NotUndone};
use crate::slots::hold::{HoldVcpus, VcpusStopped};
use crate::slots::table::SlotTable;
use crate::slots::view::{ChangedRanges, slot_ranges};
use crate::vm::Vm;
use crate::vm::caps::Capabilities;

/// Keeps the memslots of a VM in sync with the view of one address space. It plans
/// while a transaction prepares, applies the plan after every listener has
/// prepared, and rolls it back if another listener refuses later.
///
/// # What a running guest sees
///
/// At each address, a running guest sees the memory before a change or the
/// memory after it, and nothing else. vCPUs are held only where
/// [`Plan::holds_vcpus`] is set: from before the first operation until the new
/// view is published, or until the old slots are back. Removing or moving one
/// slot of memory that the host has mapped, adding slots of such memory, and
/// starting a dirty log need no hold. Without a hold, the guest does not see a
/// change of several addresses as a whole.
///
/// A vCPU thread whose exit races with a change may find that its view calls the
/// run direct. It then accesses the memory's host mapping: the documentation of
/// [`ViewReader`](memory_model::ViewReader) has the code. Private MMIO has no
/// host mapping. vCPUs are held when it is added or removed, so no exit races
/// with that, provided that each thread takes its view before it counts as out
/// of the guest ([`HoldVcpus::hold`]).
///
/// Add the guest's memory as the model's first space, and give this listener the
/// lowest priority in it. Only listeners that never fail in `apply` can have a lower
/// one ([`PrivateStays`](crate::convert::PrivateStays)). Then no other listener can
/// refuse a change that the guest has already seen. If two such listeners follow
/// one model, the second one can: the guest of the first VM then sees the rollback.
/// If KVM refuses the rollback too, the error lists the remaining steps, and the guest
/// sees their result.
///
/// # Cost
///
/// The cost of a transaction depends on its changes, not on the number of slots.
/// Only after a failure that could not be undone, or a panic, does the
/// next transaction resync: it plans from the whole view.
///
/// The listener does not change page attributes. KVM keeps them by guest-physical
/// address, as the model keeps private pages.
pub struct SlotListener<V: Vm, H: HoldVcpus = VcpusStopped> {
    follower: Follower<Memslots<V, H>>,
}

/// The slots and the state of a transaction.
struct Memslots<V, H> {
    vm: Arc<V>,
    capabilities: Capabilities,
    abi: AbiProfile,
    vcpus: H,
}

#[derive(Debug)]
struct State<V: Vm> {
    slots: Slots<V>,
    ranges: ChangedRanges,
}

/// An applied plan.
struct AppliedPlan<Held> {
    applied: Applied,
    /// vCPUs that are held until the transaction has ended.
    held: Option<Held>,
}

impl<Held> fmt::Debug for AppliedPlan<Held> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppliedPlan")
            .field("applied", &self.applied)
            .field("holds_vcpus", &self.held.is_some())
            .finish()
    }
}

impl<V: fmt::Debug, H> fmt::Debug for Memslots<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memslots")
            .field("vm", &self.vm)
            .field("abi", &self.abi)
            .finish_non_exhaustive()
    }
}

impl<V: Vm + fmt::Debug, H: HoldVcpus> fmt::Debug for SlotListener<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SlotListener").field(&self.follower).finish()
    }
}

/// The reason why a VM's memslots could not follow a view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// There is no plan. KVM was not called.
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
    /// Follows a view with the memslots of `slots`, and holds `vcpus` while memory in
    /// use has a gap. [`VcpusStopped`] is for a VM whose vCPUs need no hold.
    ///
    /// If `slots` has a watcher, vCPUs are also held while a log ends
    /// ([`Plan::ends_log`]).
    pub fn new(slots: Slots<V>, vcpus: H) -> Self {
        let memslots = Memslots {
            vm: slots.shared_vm(),
            capabilities: *slots.capabilities(),
            abi: slots.abi(),
            vcpus,
        };
        let state = State {
            slots,
            ranges: ChangedRanges::default(),
        };
        Self {
            follower: Follower::new(memslots, state),
        }
    }

    /// Keeps the latest plan for [`take_latest_plan`](Self::take_latest_plan), and
    /// with it the owners of removed memory.
    #[must_use]
    pub fn keeping_latest_plan(self) -> Self {
        Self {
            follower: self.follower.keeping_latest_plan(),
        }
    }

    /// Calls `look` with the current memslots, which do not change during the call:
    /// for [`DirtyCollector::collect`](crate::dirty::DirtyCollector::collect).
    pub fn with_table<R>(&self, look: impl FnOnce(&SlotTable) -> R) -> R {
        self.follower.with_state(|state| look(state.slots.table()))
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        &self.follower.get_ref().vm
    }

    /// The capabilities of the VM's kernel.
    pub fn capabilities(&self) -> &Capabilities {
        &self.follower.get_ref().capabilities
    }

    /// The ABI for slots without a host address.
    pub fn abi(&self) -> AbiProfile {
        self.follower.get_ref().abi
    }

    /// A copy of the current memslots.
    pub fn table(&self) -> SlotTable {
        self.with_table(SlotTable::clone)
    }

    /// Whether a change could not be rolled back. The guest may then reach other memory
    /// than the view shows, until a transaction that changes the view resyncs. Pages must
    /// not be converted meanwhile, because an address in the view and in the memslots can
    /// be other memory: add this listener to the conversion engine too, which then refuses.
    pub fn needs_resync(&self) -> bool {
        self.follower.needs_resync()
    }

    /// The latest applied plan since the last call. Plans are kept only after
    /// [`keeping_latest_plan`](Self::keeping_latest_plan).
    pub fn take_latest_plan(&self) -> Option<Plan> {
        self.follower.take_latest_plan()
    }
}

impl<V: Vm, H: HoldVcpus> Memslots<V, H> {
    /// Queries the sizes of files for a profile that needs them.
    fn measure(&self, ranges: &mut [SlotRange]) {
        if !self.abi.needs_file_sizes() {
            return;
        }
        for range in ranges {
            range.measure();
        }
    }
}

impl<V: Vm, H: HoldVcpus> ApplyPlan for Memslots<V, H> {
    type State = State<V>;
    type Plan = Plan;
    type Applied = AppliedPlan<H::Held>;
    type Error = FollowError;

    fn name(&self) -> &str {
        "KVM memslots"
    }

    /// vCPUs that must be held stay held on success.
    fn apply(&self, state: &mut State<V>, plan: &Plan) -> Result<Self::Applied, FollowError> {
        let slots = &mut state.slots;
        let log_ends = slots.is_watched() && plan.ends_log();
        let held = (plan.holds_vcpus() || log_ends).then(|| self.vcpus.hold());
        let applied = slots.apply(plan).map_err(Box::new)?;
        Ok(AppliedPlan { applied, held })
    }

    /// If vCPUs are held, they stay held during that; otherwise they are held
    /// where a log ends.
    fn undo(&self, state: &mut State<V>, done: Self::Applied) -> Result<(), FollowError> {
        let AppliedPlan { applied, held } = done;
        let mut ops = applied.ops().iter().map(Op::inverse);
        let log_ends = state.slots.is_watched() && ops.any(|op| op.ends_log().is_some());
        let _held = held.or_else(|| log_ends.then(|| self.vcpus.hold()));
        let not_undone = state.slots.undo(applied);
        match not_undone.is_empty() {
            true => Ok(()),
            false => Err(FollowError::NotUndone(not_undone)),
        }
    }

    fn rolled_back(&self, error: &FollowError) -> bool {
        matches!(error, FollowError::Apply(error) if error.not_undone.is_empty())
    }
}

/// Whether the ranges, which are sorted, show the memory of `range` at its addresses.
fn shows_all(ranges: &[SlotRange], range: &SlotRange) -> bool {
    let from = ranges.partition_point(|other| other.last() < range.gpa());
    let overlapping = ranges[from..].iter();
    let overlapping = overlapping.take_while(|other| other.gpa() <= range.last());
    let same = overlapping.filter_map(|other| {
        let (first, last) = (other.gpa().max(range.gpa()), other.last().min(range.last()));
        let part = |of: &SlotRange| of.part(first - of.gpa(), last - first + 1);
        let same = part(other)?.is_same_memory(&part(range)?);
        same.then_some(last - first + 1)
    });
    same.sum::<u64>() == range.size()
}

impl<T, V: Vm, H: HoldVcpus> Follow<T> for Memslots<V, H> {
    fn plan_change(
        &self,
        state: &mut State<V>,
        update: &Update<'_, T>,
    ) -> Result<Option<Plan>, FollowError> {
        if update.diff.is_empty() {
            return Ok(None);
        }
        let ranges = &mut state.ranges;
        ranges.set(update.diff);
        self.measure(&mut ranges.removed);
        self.measure(&mut ranges.added);
        let change = Change::new(&ranges.removed, &ranges.added);
        let plan = state.slots.plan_change(&change);
        ranges.clear();
        Ok(Some(plan?))
    }

    /// Leftovers are deleted before other listeners prepare: devices must not reach memory
    /// that is private where a leftover shows it.
    fn plan_cleanup(
        &self,
        state: &mut State<V>,
        update: &Update<'_, T>,
    ) -> Result<Option<Plan>, FollowError> {
        let mut old = slot_ranges(update.old);
        self.measure(&mut old);
        let slots = state.slots.table().slots();
        let leftovers = slots.filter(|slot| !shows_all(&old, &slot.range));
        let ops: Vec<Op> = leftovers.cloned().map(Op::Delete).collect();
        Ok((!ops.is_empty()).then_some(Plan {
            ops,
            trapped: Vec::new(),
            holds_vcpus: true,
        }))
    }

    fn plan_resync(
        &self,
        state: &mut State<V>,
        update: &Update<'_, T>,
    ) -> Result<Plan, FollowError> {
        let mut ranges = slot_ranges(update.new);
        self.measure(&mut ranges);
        Ok(state.slots.plan(&ranges)?)
    }
}

impl<T, V, H> Listener<T> for SlotListener<V, H>
where
    V: Vm + Send + Sync,
    H: HoldVcpus + Send + Sync,
{
    fn name(&self) -> &str {
        Listener::<T>::name(&self.follower)
    }

    fn prepare(&self, update: &Update<'_, T>) -> Result<(), ListenerError> {
        self.follower.prepare(update)
    }

    fn apply(&self, update: &Update<'_, T>) -> Result<(), ListenerError> {
        self.follower.apply(update)
    }

    fn commit(&self, update: &Update<'_, T>) {
        self.follower.commit(update);
    }

    fn abort(&self, update: &Update<'_, T>) -> Result<(), ListenerError> {
        self.follower.abort(update)
    }
}

/// Memslots differ from the view after a rollback that failed, until a transaction resyncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memslots differ from the view until the next change of memory")]
#[non_exhaustive]
pub struct MemslotsDiffer;

/// Refuses conversions while memslots differ from the view: an address would be one page for
/// the record and another one for KVM.
impl<V, H> ConversionListener for SlotListener<V, H>
where
    V: Vm + Send + Sync,
    H: HoldVcpus + Send + Sync,
{
    fn name(&self) -> &str {
        self.follower.get_ref().name()
    }

    fn ready(&self) -> Result<(), ConversionListenerError> {
        match self.needs_resync() {
            true => Err(MemslotsDiffer.into()),
            false => Ok(()),
        }
    }

    fn prepare(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(())
    }
}
