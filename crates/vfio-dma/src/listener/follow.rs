// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that keeps DMA mappings in step with a flat view.

use guest_ranges::PAGE_SIZE;
use memory_model::{
    AddrRange, ApplyPlan, FlatRange, FlatView, Follow, Follower, Listener, ListenerError, PageSet,
    Update, ViewReader,
};

use super::error::DmaFollowError;
use super::target::{DmaPolicy, extend_target};
use crate::apply::{AddressSpace, DmaApplied, apply_dma, undo_dma};
use crate::limits::DmaLimits;
use crate::plan::{DmaChange, DmaOp, DmaPlan, DmaPlanError, Gaps, plan_dma, plan_dma_change};
use crate::range::DmaRange;
use crate::refusal::DmaRefusal;
use crate::table::DmaTable;

/// Keeps what devices reach in step with the view of one address space and with
/// its guest's conversions.
///
/// A change that only adds mappings is made in [`Listener::prepare`]: if it
/// exceeds a limit of the kernel, it is refused before anything else has changed.
/// A change that removes mappings is made in [`Listener::apply`], when all other
/// listeners have prepared.
///
/// The cost of a change depends on what it changes, not on the number of
/// mappings. Only after a failure that could not be undone, or a panic, does the
/// next transaction resync: it plans from the whole view. If an IOMMU page has several
/// guest pages ([`PAGE_SIZE`]), a transaction also copies the set of private pages.
///
/// The mappings stay when the listener is dropped: the [`AddressSpace`] holds the
/// owners of the memory.
///
/// # Panics
///
/// If the [`AddressSpace`] does. The transaction or the conversion is refused, but
/// earlier calls on the address space are not undone: the next transaction
/// resyncs ([`needs_resync`](Self::needs_resync)).
#[derive(Debug)]
pub struct DmaListener<S: AddressSpace, H> {
    pub(super) follower: Follower<Mappings<S, H>>,
}

/// Where mappings are made, and what they follow.
#[derive(Debug)]
pub(super) struct Mappings<S, H> {
    space: S,
    pub(super) reader: ViewReader<H>,
    pub(super) policy: DmaPolicy<H>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: DmaTable,
    pub(super) limits: DmaLimits,
    /// The private pages, if an IOMMU page has several guest pages; `None` until a
    /// transaction or a resync supplies them. They may be wrong while a resync is needed.
    pub(super) private: Option<PageSet>,
}

impl State {
    fn needs_private(&self) -> bool {
        self.limits.page_size() > PAGE_SIZE
    }

    fn set_private(&mut self, private: &PageSet) {
        self.private = self.needs_private().then(|| private.clone());
    }
}

impl<S: AddressSpace, H> DmaListener<S, H> {
    /// A listener whose mappings in `space` follow the view that `reader` reads.
    /// `space` has no mappings yet.
    ///
    /// # Errors
    /// [`DmaRefusal`] if the kernel does not report what can be mapped: a
    /// container does so only after a device was opened.
    pub fn new(space: S, reader: ViewReader<H>, policy: DmaPolicy<H>) -> Result<Self, DmaRefusal> {
        let limits = space.limits()?;
        let mappings = Mappings {
            space,
            reader,
            policy,
        };
        let state = State {
            table: DmaTable::new(),
            limits,
            private: None,
        };
        Ok(Self {
            follower: Follower::new(mappings, state),
        })
    }

    /// Keeps the latest plan for [`take_latest_plan`](Self::take_latest_plan), and
    /// with it the owners of memory that it unmapped.
    #[must_use]
    pub fn keeping_latest_plan(self) -> Self {
        Self {
            follower: self.follower.keeping_latest_plan(),
        }
    }

    /// Queries again what can be mapped. Call it after opening a device. Existing
    /// mappings stay: the kernel refuses a device that they conflict with. If an IOMMU
    /// page now has several guest pages, the next transaction resyncs, because only a
    /// transaction knows which pages are private.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn device_added(&self) -> Result<(), DmaRefusal> {
        let limits = self.space().limits()?;
        let lacks_private = self.follower.with_state(|state| {
            state.limits = limits;
            state.needs_private() && state.private.is_none()
        });
        if lacks_private {
            self.follower.require_resync();
        }
        Ok(())
    }

    /// Resyncs from the whole view. Call it after page states were changed with
    /// [`memory_model::MemoryModel`] directly, without the conversion engine.
    ///
    /// # Errors
    /// [`DmaFollowError`].
    pub fn resync(&self, view: &FlatView<H>, private: &PageSet) -> Result<(), DmaFollowError> {
        let mappings = self.follower.get_ref();
        self.follower
            .resync_with(|state| mappings.plan_all(state, view, private))
    }

    /// The address space of the mappings.
    pub fn space(&self) -> &S {
        &self.follower.get_ref().space
    }

    /// The reader of the view that the mappings follow. A conversion looks up in
    /// it which memory its pages are.
    pub fn reader(&self) -> &ViewReader<H> {
        &self.follower.get_ref().reader
    }

    /// A copy of the mappings as they are now.
    pub fn table(&self) -> DmaTable {
        self.follower.with_state(|state| state.table.clone())
    }

    /// Whether a change could not be undone. Devices may reach more or less than
    /// the view shows until a transaction resyncs.
    pub fn needs_resync(&self) -> bool {
        self.follower.needs_resync()
    }

    /// The latest plan that was carried out since the last call: what it left out,
    /// and which gaps it had. Plans are kept only by request:
    /// [`keeping_latest_plan`](Self::keeping_latest_plan).
    pub fn take_latest_plan(&self) -> Option<DmaPlan> {
        self.follower.take_latest_plan()
    }
}

impl<S, H> Mappings<S, H> {
    fn plan_all(
        &self,
        state: &mut State,
        view: &FlatView<H>,
        private: &PageSet,
    ) -> Result<DmaPlan, DmaFollowError> {
        state.set_private(private);
        let target = self.target(view.ranges(), private)?;
        let plan = plan_dma(&state.table, &target, &state.limits, self.policy.gaps);
        Ok(plan?)
    }

    fn target<'a>(
        &self,
        runs: impl Iterator<Item = &'a FlatRange<H>>,
        private: &PageSet,
    ) -> Result<Vec<DmaRange>, DmaPlanError>
    where
        H: 'a,
    {
        let mut target = Vec::new();
        for run in runs {
            extend_target(run, run.range(), Some(private), &self.policy, &mut target)?;
        }
        Ok(target)
    }

    pub(super) fn plan_dma_change(
        &self,
        state: &State,
        change: &DmaChange<'_>,
        gaps: Gaps,
    ) -> Result<DmaPlan, DmaFollowError> {
        let plan = plan_dma_change(&state.table, change, &state.limits, gaps);
        Ok(plan?)
    }
}

impl<S: AddressSpace, H> ApplyPlan for Mappings<S, H> {
    type State = State;
    type Plan = DmaPlan;
    type Applied = DmaApplied;
    type Error = DmaFollowError;

    fn name(&self) -> &str {
        "DMA mappings"
    }

    fn apply(&self, state: &mut State, plan: &DmaPlan) -> Result<DmaApplied, DmaFollowError> {
        Ok(apply_dma(&self.space, plan, &mut state.table)?)
    }

    fn undo(&self, state: &mut State, applied: DmaApplied) -> Result<(), DmaFollowError> {
        let not_undone = undo_dma(&self.space, applied, &mut state.table);
        match not_undone.is_empty() {
            true => Ok(()),
            false => Err(DmaFollowError::NotUndone(not_undone)),
        }
    }

    fn rolled_back(&self, error: &DmaFollowError) -> bool {
        error.rolled_back()
    }

    /// New memory is mapped before the guest has it.
    fn applies_in_prepare(&self, plan: &DmaPlan) -> bool {
        plan.ops.iter().all(|op| matches!(op, DmaOp::Map(_)))
    }
}

impl<S: AddressSpace, H> Follow<H> for Mappings<S, H> {
    fn plan_change(
        &self,
        state: &mut State,
        update: &Update<'_, H>,
    ) -> Result<Option<DmaPlan>, DmaFollowError> {
        let diff = update.diff;
        if diff.is_empty() {
            return Ok(None);
        }
        state.set_private(update.private);
        let were = diff.changed.iter().map(|both| &both.0);
        let are = diff.changed.iter().map(|both| &both.1);
        let removed = diff.removed.iter().chain(were);
        let removed: Vec<AddrRange> = removed.map(FlatRange::range).collect();
        let added = self.target(diff.added.iter().chain(are), update.private)?;
        let change = DmaChange {
            removed: &removed,
            added: &added,
        };
        self.plan_dma_change(state, &change, self.policy.gaps)
            .map(Some)
    }

    /// Leftovers are unmapped before any listener changes what their memory is: it could
    /// become private in new memslots.
    fn plan_cleanup(
        &self,
        state: &mut State,
        update: &Update<'_, H>,
    ) -> Result<Option<DmaPlan>, DmaFollowError> {
        let mut plan = self.plan_all(state, update.old, update.private)?;
        plan.ops.retain(|op| matches!(op, DmaOp::Unmap(_)));
        Ok((!plan.ops.is_empty()).then_some(plan))
    }

    fn plan_resync(
        &self,
        state: &mut State,
        update: &Update<'_, H>,
    ) -> Result<DmaPlan, DmaFollowError> {
        self.plan_all(state, update.new, update.private)
    }
}

impl<S: AddressSpace + Send + Sync, H: Send + Sync> Listener<H> for DmaListener<S, H> {
    fn name(&self) -> &str {
        self.follower.name()
    }

    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        self.follower.prepare(update)
    }

    fn apply(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        self.follower.apply(update)
    }

    fn commit(&self, update: &Update<'_, H>) {
        self.follower.commit(update);
    }

    fn abort(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        self.follower.abort(update)
    }
}
