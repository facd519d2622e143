// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that keeps DMA mappings in step with a flat view.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memory_model::{FlatRange, FlatView, Listener, ListenerError, PageSet, Update, ViewReader};
use vfio_private::Span;
use vfio_private::dma::{
    AddressSpace, DmaApplied, DmaApplyError, DmaChange, DmaLimits, DmaNotUndone, DmaOp, DmaPlan,
    DmaPlanError, DmaRange, DmaRefusal, DmaTable, apply_dma, plan_dma, plan_dma_change, undo_dma,
};

use super::wanted::{DmaPolicy, span, want};

/// Keeps what devices reach in step with the view of one address space and with
/// its guest's conversions.
///
/// A change that only adds mappings is made in [`Listener::prepare`]: if it
/// exceeds a limit of the kernel, it is refused before anything else has changed.
/// A change that removes mappings is made in [`Listener::apply`], when all other
/// listeners have prepared.
///
/// A change costs what it changes, not what there is. Only after a failure that
/// could not be undone does the next transaction look at everything.
///
/// The mappings stay when this goes: the owners of the memory are with the
/// [`AddressSpace`].
///
/// # Panics
///
/// If the [`AddressSpace`] does. The transaction or the conversion is refused, but
/// earlier calls on the address space are not undone: the next transaction
/// resyncs ([`is_out_of_step`](Self::is_out_of_step)).
#[derive(Debug)]
pub struct DmaListener<S, H> {
    pub(super) space: S,
    pub(super) reader: ViewReader<H>,
    pub(super) policy: DmaPolicy<H>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    table: DmaTable,
    limits: DmaLimits,
    latest: Option<DmaPlan>,
    stage: Stage,
    /// The mappings may differ from those of the published view.
    pub(super) out_of_step: bool,
}

/// How far a transaction has come.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Planned; nothing has changed.
    Prepared(DmaPlan),
    /// Carried out.
    Applied {
        applied: DmaApplied,
        was_out_of_step: bool,
    },
}

/// Why devices could not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DmaFollowError {
    /// There is no plan; nothing was touched.
    #[error(transparent)]
    Plan(#[from] DmaPlanError),
    /// A mapping was refused.
    #[error(transparent)]
    Apply(#[from] Box<DmaApplyError>),
    /// The transaction was aborted and these steps could not be undone.
    #[error("could not be undone: {}", list(.0))]
    NotUndone(Vec<DmaNotUndone>),
}

fn list(steps: &[DmaNotUndone]) -> String {
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl<S: AddressSpace, H> DmaListener<S, H> {
    /// Follows the view that `reader` reads with the mappings of `space`, which
    /// has none yet.
    ///
    /// # Errors
    /// [`DmaRefusal`], if the kernel does not say what can be mapped: a
    /// container does not before it has a device.
    pub fn new(space: S, reader: ViewReader<H>, policy: DmaPolicy<H>) -> Result<Self, DmaRefusal> {
        let limits = space.limits()?;
        Ok(Self {
            space,
            reader,
            policy,
            state: Mutex::new(State {
                table: DmaTable::new(),
                limits,
                latest: None,
                stage: Stage::Idle,
                out_of_step: false,
            }),
        })
    }

    /// Asks anew what can be mapped: after a device was opened. What is mapped
    /// already stays; the kernel takes no device that this is in the way of.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn device_added(&self) -> Result<(), DmaRefusal> {
        let limits = self.space.limits()?;
        self.state().limits = limits;
        Ok(())
    }

    /// Looks at everything: after the state of pages was changed behind the
    /// conversion engine's back, with [`memory_model::MemoryModel`]'s own calls.
    ///
    /// # Errors
    /// [`DmaFollowError`].
    pub fn look_at_all(&self, view: &FlatView<H>, private: &PageSet) -> Result<(), DmaFollowError> {
        let state = &mut *self.state();
        let plan = self.plan_all(state, view, private)?;
        let _ = self.apply(state, plan)?;
        state.out_of_step = false;
        Ok(())
    }

    /// Where the mappings are.
    pub fn space(&self) -> &S {
        &self.space
    }

    /// The mappings as they are now.
    pub fn table(&self) -> DmaTable {
        self.state().table.clone()
    }

    /// Whether something could not be taken back: devices may reach more or less
    /// than the view shows, until a transaction looks at everything.
    pub fn is_out_of_step(&self) -> bool {
        self.state().out_of_step
    }

    /// The latest plan that was carried out, if there was one since the last
    /// time that this was asked: what was left out, and which gaps there were.
    pub fn take_latest_plan(&self) -> Option<DmaPlan> {
        self.state().latest.take()
    }

    /// A panic cannot have left the state half changed: the table follows the
    /// kernel one whole mapping at a time, and `out_of_step` is set while an
    /// address space is called that could panic.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan_all(
        &self,
        state: &State,
        view: &FlatView<H>,
        private: &PageSet,
    ) -> Result<DmaPlan, DmaPlanError> {
        let wanted = self.wanted(view.ranges(), private)?;
        plan_dma(&state.table, &wanted, &state.limits, self.policy.gaps)
    }

    fn wanted<'a>(
        &self,
        runs: impl Iterator<Item = &'a FlatRange<H>>,
        private: &PageSet,
    ) -> Result<Vec<DmaRange>, DmaPlanError>
    where
        H: 'a,
    {
        let mut wanted = Vec::new();
        for run in runs {
            want(run, run.range(), Some(private), &self.policy, &mut wanted)?;
        }
        Ok(wanted)
    }

    pub(super) fn plan_change(
        &self,
        state: &State,
        change: &DmaChange<'_>,
    ) -> Result<DmaPlan, DmaPlanError> {
        plan_dma_change(&state.table, change, &state.limits, self.policy.gaps)
    }

    pub(super) fn apply(
        &self,
        state: &mut State,
        plan: DmaPlan,
    ) -> Result<DmaApplied, DmaFollowError> {
        let was_out_of_step = mem::replace(&mut state.out_of_step, true);
        let applied = apply_dma(&self.space, &plan, &mut state.table);
        state.out_of_step = was_out_of_step;
        match applied {
            Ok(applied) => {
                state.latest = Some(plan);
                Ok(applied)
            }
            Err(error) => {
                state.out_of_step |= !error.not_undone.is_empty();
                Err(error.into())
            }
        }
    }

    fn follow(&self, state: &mut State, update: &Update<'_, H>) -> Result<(), DmaFollowError> {
        let plan = match state.out_of_step {
            true => self.plan_all(state, update.new, update.private)?,
            false => {
                let diff = update.diff;
                let were = diff.changed.iter().map(|both| &both.0);
                let are = diff.changed.iter().map(|both| &both.1);
                let gone = diff.removed.iter().chain(were);
                let gone: Vec<Span> = gone.filter_map(|run| span(run.range())).collect();
                let come = self.wanted(diff.added.iter().chain(are), update.private)?;
                let change = DmaChange {
                    gone: &gone,
                    come: &come,
                };
                self.plan_change(state, &change)?
            }
        };
        let only_maps = |op: &DmaOp| matches!(op, DmaOp::Map(_));
        match plan.ops.iter().all(only_maps) {
            true => self.make(state, plan),
            false => {
                state.stage = Stage::Prepared(plan);
                Ok(())
            }
        }
    }

    /// Carries out the plan of a transaction.
    fn make(&self, state: &mut State, plan: DmaPlan) -> Result<(), DmaFollowError> {
        let was_out_of_step = state.out_of_step;
        let applied = self.apply(state, plan)?;
        state.out_of_step = false;
        state.stage = Stage::Applied {
            applied,
            was_out_of_step,
        };
        Ok(())
    }
}

impl<S: AddressSpace + Send + Sync, H: Send + Sync> Listener<H> for DmaListener<S, H> {
    fn name(&self) -> &str {
        "DMA mappings"
    }

    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        let state = &mut *self.state();
        state.stage = Stage::Idle;
        if update.diff.is_empty() && !state.out_of_step {
            return Ok(());
        }
        Ok(self.follow(state, update)?)
    }

    fn apply(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        let state = &mut *self.state();
        match mem::take(&mut state.stage) {
            Stage::Prepared(plan) => Ok(self.make(state, plan)?),
            stage => {
                state.stage = stage;
                Ok(())
            }
        }
    }

    fn commit(&self, _update: &Update<'_, H>) {
        self.state().stage = Stage::Idle;
    }

    fn abort(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        let state = &mut *self.state();
        let Stage::Applied {
            applied,
            was_out_of_step,
        } = mem::take(&mut state.stage)
        else {
            return Ok(());
        };
        state.latest = None;
        state.out_of_step = true;
        let not_undone = undo_dma(&self.space, applied, &mut state.table);
        state.out_of_step = was_out_of_step || !not_undone.is_empty();
        match not_undone.is_empty() {
            true => Ok(()),
            false => Err(DmaFollowError::NotUndone(not_undone).into()),
        }
    }
}
