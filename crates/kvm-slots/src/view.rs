// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Flat views of the crate `memory-model` as input, and a listener that keeps
//! a VM's memslots in step with one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory_model::{self as model, FlatView, GuestAccess, Listener, ListenerError, Update};

use crate::range::{Backing, FileStart, HostMemory, SlotAccess, SlotRange};
use crate::{
    AbiProfile, Applied, ApplyError, BeforeOp, Capabilities, Errno, Op, Plan, PlanError, SlotTable,
    Vm, apply_with, plan, undo_with,
};

/// What of `view` the guest is to reach directly: everything that is not
/// trapped.
pub fn slot_ranges<H>(view: &FlatView<H>) -> Vec<SlotRange> {
    let ranges = view.ranges().filter_map(|run| {
        let access = match run.access() {
            GuestAccess::ReadWrite => SlotAccess::ReadWrite,
            GuestAccess::ReadOnly | GuestAccess::ReadTrapWrite => SlotAccess::ReadOnly,
            GuestAccess::Trap => return None,
        };
        let backing = backing(run.backing())?;
        // KVM has a log for memory at a host address and for no other.
        let plain = matches!(backing, Backing::Host(_));
        Some(SlotRange {
            gpa: run.range().start(),
            // What has bytes behind it has fewer than 2^64 of them.
            size: u64::try_from(run.range().size()).ok()?,
            access,
            backing,
            log_dirty: plain && !run.attributes().logged.is_empty(),
        })
    });
    ranges.collect()
}

fn backing(backing: model::Backing) -> Option<Backing> {
    Some(match backing {
        model::Backing::Memory(memory) => match memory.guest_memfd() {
            None => Backing::Host(host(memory.host())),
            // Whichever pages the file holds, the host address is where the
            // shared ones are, or a view of them: KVM takes it in either case.
            Some((slice, _)) => Backing::GuestMemfd {
                file: file(slice),
                host: Some(host(memory.host())),
            },
        },
        model::Backing::DeviceRam(mapping) => Backing::Host(host(&mapping)),
        model::Backing::PrivateMmio(registers) => Backing::FdOffset(file(registers.file())),
        model::Backing::Nothing => return None,
    })
}

fn host(memory: &model::HostMemory) -> HostMemory {
    HostMemory::new(memory.address(), memory.owner().clone())
}

fn file(slice: &model::FileSlice) -> FileStart {
    FileStart::new(slice.fd(), slice.offset(), slice.owner().clone())
}

/// Keeps the memslots of a VM in step with the view of one address space: it
/// plans and applies while a transaction prepares, and goes back if the
/// transaction is aborted.
#[derive(Debug)]
pub struct SlotListener<V> {
    vm: V,
    capabilities: Capabilities,
    abi: AbiProfile,
    watcher: Arc<dyn BeforeOp + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: SlotTable,
    latest: Option<Plan>,
    applied: Option<Applied>,
}

/// Why a VM's memslots could not follow a view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// There is no plan; KVM was not touched.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// KVM refused a step.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The transaction was aborted and these steps could not be undone.
    #[error("could not be undone: {0:?}")]
    NotUndone(Vec<(Op, Errno)>),
}

impl<V: Vm> SlotListener<V> {
    /// Follows a view with the memslots of `vm`, which has none yet.
    ///
    /// # Safety
    /// Every host address in every view that this listener is given must be
    /// memory that the guest may access as the view says, at any time for as
    /// long as its owner lives: mapped, and not otherwise used by the process.
    ///
    /// The listener holds the owners: it must be kept until the VM is gone.
    pub unsafe fn new(vm: V, abi: AbiProfile) -> Self {
        Self {
            capabilities: Capabilities::probe(&vm),
            vm,
            abi,
            watcher: Arc::new(()),
            state: Mutex::default(),
        }
    }

    /// Has `watcher` asked before each operation: a
    /// [`DirtyCollector`](crate::DirtyCollector), so that no log is lost.
    #[must_use]
    pub fn with_watcher(self, watcher: Arc<dyn BeforeOp + Send + Sync>) -> Self {
        Self { watcher, ..self }
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

    #[expect(
        clippy::result_large_err,
        reason = "the error names whole slots, and its only caller boxes it"
    )]
    fn follow<H>(&self, view: &FlatView<H>) -> Result<(), FollowError> {
        let mut state = self.state();
        let wanted = slot_ranges(view);
        let plan = plan(&state.table, &wanted, &self.capabilities, self.abi)?;
        // SAFETY: the host ranges come from the views, for which the creator
        // of this listener has vouched in `new`.
        let applied = unsafe {
            apply_with(
                &self.vm,
                &self.capabilities,
                self.abi,
                &plan,
                &mut state.table,
                &*self.watcher,
            )
        }?;
        state.applied = Some(applied);
        state.latest = Some(plan);
        Ok(())
    }
}

impl<H, V: Vm + Send + Sync> Listener<H> for SlotListener<V> {
    fn name(&self) -> &str {
        "KVM memslots"
    }

    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        if update.diff.is_empty() {
            return Ok(());
        }
        Ok(self.follow(update.new)?)
    }

    fn commit(&self, _update: &Update<'_, H>) {
        self.state().applied = None;
    }

    fn abort(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        let mut state = self.state();
        state.latest = None;
        let Some(applied) = state.applied.take() else {
            return Ok(());
        };
        // SAFETY: these slots were made from earlier views, whose host ranges
        // the creator of this listener has vouched for in `new`.
        let not_undone = unsafe {
            undo_with(
                &self.vm,
                &self.capabilities,
                self.abi,
                applied,
                &mut state.table,
                &*self.watcher,
            )
        };
        match not_undone.is_empty() {
            true => Ok(()),
            false => Err(FollowError::NotUndone(not_undone).into()),
        }
    }
}
