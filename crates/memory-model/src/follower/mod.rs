// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that plans changes, carries them out, and rolls them back.

pub(crate) mod follow;
mod listener;
mod stage;

use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use follow::ApplyPlan;
use stage::{Progress, Stage};

/// A [`Listener`](crate::Listener) that can fail: it plans each change and carries it out, rolls
/// it back if another listener refuses, and resyncs if that fails.
///
/// `F` makes the plans and carries them out. The follower does the rest:
///
/// | call | what happens |
/// | --- | --- |
/// | [`prepare`](crate::Listener::prepare) | plans; applies if [`ApplyPlan::applies_in_prepare`] says so |
/// | [`apply`](crate::Listener::apply) | applies the plan, unless `prepare` has |
/// | [`commit`](crate::Listener::commit) | drops what it takes to undo the plan |
/// | [`abort`](crate::Listener::abort) | undoes the plan if it was applied |
///
/// After a failure that could not be rolled back, or a panic of `F`, the state
/// may differ from the published view. The follower then
/// [needs a resync](Self::needs_resync): the next transaction of the space plans
/// from the whole view. A diff would not be enough: it has no entry for what a failed
/// rollback left behind, because no view shows it.
///
/// # Example
///
/// An IOMMU with room for two mappings follows the RAM that a device reaches.
///
/// ```
/// use std::collections::BTreeSet;
/// use std::sync::Arc;
///
/// use memory_model::{
///     AddrRange, ApplyPlan, Backing, CommitError, FlatRange, Follow, Follower, HostMemory, Memory,
///     MemoryModel, Region, Update,
/// };
///
/// struct Iommu {
///     room: usize,
/// }
///
/// #[derive(Debug)]
/// enum Op {
///     Unmap(AddrRange),
///     Map(AddrRange),
/// }
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("no room to map {range}")]
/// struct NoRoom {
///     range: AddrRange,
///     rolled_back: bool,
/// }
///
/// impl Iommu {
///     /// In a VMM, an ioctl that can fail for many reasons.
///     fn step(&self, mapped: &mut BTreeSet<AddrRange>, op: &Op) -> Result<(), NoRoom> {
///         match op {
///             Op::Unmap(range) => {
///                 mapped.remove(range);
///             }
///             &Op::Map(range) if mapped.len() == self.room => {
///                 return Err(NoRoom { range, rolled_back: true });
///             }
///             Op::Map(range) => {
///                 mapped.insert(*range);
///             }
///         }
///         Ok(())
///     }
/// }
///
/// impl ApplyPlan for Iommu {
///     type State = BTreeSet<AddrRange>;
///     type Plan = Vec<Op>;
///     type Applied = Vec<Op>;
///     type Error = NoRoom;
///
///     fn name(&self) -> &str {
///         "IOMMU"
///     }
///
///     fn apply(&self, mapped: &mut Self::State, plan: &Vec<Op>) -> Result<Vec<Op>, NoRoom> {
///         let mut done = Vec::new();
///         for op in plan {
///             if let Err(error) = self.step(mapped, op) {
///                 let rolled_back = self.undo(mapped, done).is_ok();
///                 return Err(NoRoom { rolled_back, ..error });
///             }
///             done.push(match *op {
///                 Op::Map(range) => Op::Unmap(range),
///                 Op::Unmap(range) => Op::Map(range),
///             });
///         }
///         Ok(done)
///     }
///
///     fn undo(&self, mapped: &mut Self::State, applied: Vec<Op>) -> Result<(), NoRoom> {
///         applied.iter().rev().try_for_each(|op| self.step(mapped, op))
///     }
///
///     fn rolled_back(&self, error: &NoRoom) -> bool {
///         error.rolled_back
///     }
///
///     fn applies_in_prepare(&self, plan: &Vec<Op>) -> bool {
///         plan.iter().all(|op| matches!(op, Op::Map(_)))
///     }
/// }
///
/// fn ram<H>(run: &FlatRange<H>) -> Option<AddrRange> {
///     matches!(run.backing(), Backing::Memory(_)).then(|| run.range())
/// }
///
/// impl<H> Follow<H> for Iommu {
///     fn plan_change(
///         &self,
///         _: &mut Self::State,
///         update: &Update<'_, H>,
///     ) -> Result<Option<Vec<Op>>, NoRoom> {
///         let diff = update.diff;
///         let (old, new) = (diff.changed.iter().map(|c| &c.0), diff.changed.iter().map(|c| &c.1));
///         let removed = diff.removed.iter().chain(old).filter_map(ram).map(Op::Unmap);
///         let added = diff.added.iter().chain(new).filter_map(ram).map(Op::Map);
///         Ok(Some(removed.chain(added).collect()))
///     }
///
///     fn plan_resync(
///         &self,
///         mapped: &mut Self::State,
///         update: &Update<'_, H>,
///     ) -> Result<Vec<Op>, NoRoom> {
///         let removed = mapped.iter().map(|range| Op::Unmap(*range));
///         Ok(removed.chain(update.new.ranges().filter_map(ram).map(Op::Map)).collect())
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let mut model = MemoryModel::new();
///     let mut t = model.transaction();
///     let bus = t.add(Region::container("bus", 1 << 64))?;
///     let mut rams = Vec::new();
///     for n in 0..3 {
///         // SAFETY: nothing accesses the address, as there is no guest.
///         let host =
///             unsafe { HostMemory::new(0x7000_0000_0000 + n * 0x1000, 0x1000, Arc::new(())) };
///         let memory = Memory::host_only(host.ok_or("no such memory")?);
///         rams.push(t.add(Region::ram("ram", memory))?);
///     }
///     t.place(rams[0], bus, 0x0000, 0)?;
///     t.place(rams[1], bus, 0x2000, 0)?;
///     t.commit()?;
///     let space = model.add_space("what the device sees", bus)?;
///
///     let iommu = Arc::new(Follower::new(Iommu { room: 2 }, BTreeSet::new()));
///     model.add_listener(space, 0, iommu.clone())?;
///     assert_eq!(iommu.with_state(|mapped| mapped.len()), 2);
///
///     // A third mapping does not fit, and nothing has happened.
///     let mut t = model.transaction();
///     t.move_to(rams[0], 0x8000)?;
///     t.place(rams[2], bus, 0x4000, 0)?;
///     assert!(matches!(t.commit(), Err(CommitError::Refused { .. })));
///     assert!(model.view(space).find(0x8000).is_none() && !iommu.needs_resync());
///     let there = |at| iommu.with_state(|mapped| mapped.iter().any(|range| range.contains(at)));
///     assert!(there(0x0000) && there(0x2000) && !there(0x8000));
///
///     let mut t = model.transaction();
///     t.move_to(rams[0], 0x8000)?;
///     t.commit()?;
///     assert!(there(0x8000) && !there(0x0000));
///     Ok(())
/// }
/// ```
pub struct Follower<F: ApplyPlan> {
    follow: F,
    keeps_latest_plan: bool,
    progress: Mutex<Progress<F>>,
}

impl<F> fmt::Debug for Follower<F>
where
    F: ApplyPlan + fmt::Debug,
    F::State: fmt::Debug,
    F::Plan: fmt::Debug,
    F::Applied: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Follower");
        fields.field("follow", &self.follow);
        // The follower itself may be at work.
        if let Ok(progress) = self.progress.try_lock() {
            fields
                .field("state", &progress.state)
                .field("stage", &progress.stage)
                .field("needs_resync", &progress.needs_resync);
        }
        fields.finish_non_exhaustive()
    }
}

impl<F: ApplyPlan> Follower<F> {
    /// Makes a follower that has carried out no plan yet. `state` is the initial
    /// state.
    pub fn new(follow: F, state: F::State) -> Self {
        Self {
            follow,
            keeps_latest_plan: false,
            progress: Mutex::new(Progress {
                state,
                stage: Stage::Idle,
                latest: None,
                needs_resync: false,
            }),
        }
    }

    /// Keeps the latest plan for [`take_latest_plan`](Self::take_latest_plan),
    /// and with it all that the plan owns.
    #[must_use]
    pub fn keeping_latest_plan(self) -> Self {
        Self {
            keeps_latest_plan: true,
            ..self
        }
    }

    /// What makes the plans and carries them out.
    pub fn get_ref(&self) -> &F {
        &self.follow
    }

    /// As [`get_ref`](Self::get_ref), to configure it before it follows a space.
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.follow
    }

    /// Calls `f` with the state. Transactions wait for it.
    pub fn with_state<R>(&self, f: impl FnOnce(&mut F::State) -> R) -> R {
        f(&mut self.progress().state)
    }

    /// Whether a plan could not be rolled back. The state may then differ from the
    /// published view until a transaction, or [`resync_with`](Self::resync_with),
    /// resyncs.
    pub fn needs_resync(&self) -> bool {
        self.progress().needs_resync
    }

    /// Makes the next transaction resync, after a change outside of the model.
    pub fn require_resync(&self) {
        self.progress().needs_resync = true;
    }

    /// Takes the latest plan that was carried out since the last call. The follower
    /// keeps it only after [`keeping_latest_plan`](Self::keeping_latest_plan).
    pub fn take_latest_plan(&self) -> Option<F::Plan> {
        self.progress().latest.take()
    }

    /// Makes a plan and carries it out, outside of the model's transactions.
    ///
    /// # Errors
    /// As `plan` and [`ApplyPlan::apply`] return.
    pub fn apply_with(
        &self,
        plan: impl FnOnce(&mut F::State) -> Result<F::Plan, F::Error>,
    ) -> Result<(), F::Error> {
        self.apply_between(&mut self.progress(), plan)
    }

    /// As [`apply_with`](Self::apply_with), for a plan that considers the whole
    /// view: no further resync is needed.
    ///
    /// # Errors
    /// As for [`apply_with`](Self::apply_with).
    pub fn resync_with(
        &self,
        plan: impl FnOnce(&mut F::State) -> Result<F::Plan, F::Error>,
    ) -> Result<(), F::Error> {
        let progress = &mut *self.progress();
        self.apply_between(progress, plan)?;
        progress.needs_resync = false;
        Ok(())
    }

    fn apply_between(
        &self,
        progress: &mut Progress<F>,
        plan: impl FnOnce(&mut F::State) -> Result<F::Plan, F::Error>,
    ) -> Result<(), F::Error> {
        let plan = plan(&mut progress.state)?;
        let _ = self.carry_out(progress, &plan)?;
        self.keep(progress, plan);
        Ok(())
    }

    /// A poisoned lock is no problem: `needs_resync` is set during each call of `F`
    /// that could panic with a plan half carried out.
    fn progress(&self) -> MutexGuard<'_, Progress<F>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(
        &self,
        progress: &mut Progress<F>,
        plan: &F::Plan,
    ) -> Result<F::Applied, F::Error> {
        // After a panic, the state of the steps is unknown.
        let needed_resync = core::mem::replace(&mut progress.needs_resync, true);
        let applied = self.follow.apply(&mut progress.state, plan);
        progress.needs_resync = match &applied {
            Ok(_) => needed_resync,
            Err(error) => needed_resync || !self.follow.rolled_back(error),
        };
        applied
    }

    fn keep(&self, progress: &mut Progress<F>, plan: F::Plan) {
        if self.keeps_latest_plan {
            progress.latest = Some(plan);
        }
    }
}
