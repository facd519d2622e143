// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From KVM's logs and rings to a tracker.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clears::clears;
use super::error::DirtyError;
use super::ops::BeforeOp;
use super::rings::Rings;
use super::tracker::DirtyTracker;
use super::vm::{DirtyCapabilities, DirtyMode, DirtyRing, LoggingVm, ManualProtect, RingId};
use crate::caps::Capabilities;
use crate::errno::Errno;
use crate::plan::op::Op;
use crate::slot::Slot;
use crate::table::SlotTable;

/// Brings what KVM logged to a [`DirtyTracker`]: on request, and before
/// memslot operations that would take a log away. It is the [`BeforeOp`] of
/// [`Slots::with_watcher`](crate::Slots::with_watcher).
#[derive(Debug)]
pub struct DirtyCollector<V> {
    vm: V,
    mode: DirtyMode,
    tracker: DirtyTracker,
    rings: Mutex<Rings>,
}

impl<V: LoggingVm> DirtyCollector<V> {
    /// Has `vm` track writes by `mode`. With rings this must be before the
    /// first vCPU is made; with initially set logs before the first slot logs.
    ///
    /// # Errors
    /// [`DirtyError::Mode`], with EOPNOTSUPP for rings on a kernel that needs
    /// logs beside them.
    pub fn new(vm: V, capabilities: &Capabilities, mode: DirtyMode) -> Result<Self, DirtyError> {
        let enabled = match mode {
            DirtyMode::Log => Ok(()),
            DirtyMode::ManualProtect { initially_set } => {
                let mut options = ManualProtect::ENABLE;
                options.set(ManualProtect::INITIALLY_SET, initially_set);
                vm.set_manual_protect(options)
            }
            DirtyMode::Ring { .. } if DirtyCapabilities::probe(&vm).ring_needs_log => {
                Err(Errno::EOPNOTSUPP)
            }
            DirtyMode::Ring { bytes } => vm.enable_dirty_ring(bytes),
        };
        enabled.map_err(|errno| DirtyError::Mode { mode, errno })?;
        Ok(Self {
            vm,
            mode,
            tracker: DirtyTracker::new(capabilities.page_size),
            rings: Mutex::default(),
        })
    }

    /// The mode.
    pub fn mode(&self) -> DirtyMode {
        self.mode
    }

    /// Where the pages are collected.
    pub fn tracker(&self) -> &DirtyTracker {
        &self.tracker
    }

    /// Collects from the ring of one more vCPU. Each vCPU's ring must be added
    /// before the vCPU runs.
    pub fn add_ring(&self, ring: Box<dyn DirtyRing>) -> RingId {
        self.rings().add(ring)
    }

    /// [`collect`](Self::collect) for a vCPU that exited with
    /// `KVM_EXIT_DIRTY_RING_FULL`, so that it can run again.
    ///
    /// # Errors
    /// [`DirtyError`]. It is [`StaysFull`](DirtyError::StaysFull) if nothing was
    /// collected from this ring since the last call: the vCPU would exit
    /// forever, and the pages that it wrote are not known.
    pub fn make_room(&self, table: &SlotTable, ring: RingId) -> Result<(), DirtyError> {
        self.collect(table)?;
        match self.rings().was_harvested(ring) {
            true => Ok(()),
            false => Err(DirtyError::StaysFull(ring)),
        }
    }

    /// Collects what the guest wrote, and write-protects those pages again, so
    /// that the next write to them is seen. `table` must be the slots as KVM
    /// has them, from now until this returns.
    ///
    /// vCPUs may run meanwhile. What they write during this is reported by
    /// this call or by the next. Clients may take pages meanwhile, but get
    /// those of this call for sure only after it. Processors that log pages in
    /// batches hand them over when a vCPU exits: for the last pages, make vCPUs
    /// exit first.
    ///
    /// # Errors
    /// [`DirtyError`]. What was read of the kernel is kept, so that this may be
    /// called again.
    pub fn collect(&self, table: &SlotTable) -> Result<(), DirtyError> {
        for slot in table.slots().filter(|slot| slot.log_dirty()) {
            self.tracker.track(slot);
            self.collect_log(slot)?;
        }
        self.collect_rings(table)
    }

    fn collect_log(&self, slot: &Slot) -> Result<(), DirtyError> {
        let Some(log) = self.read_log(slot)? else {
            return Ok(());
        };
        let cleared = match self.mode {
            DirtyMode::ManualProtect { .. } => self.clear_log(slot, &log),
            DirtyMode::Log | DirtyMode::Ring { .. } => Ok(()),
        };
        // Only now, though also after a refusal: a client that took a page
        // before it is protected again would miss what is written to it after
        // it was read.
        self.tracker.add_log(slot, &log);
        cleared
    }

    /// Keeps a log that is about to go. No vCPU is to write meanwhile, so there
    /// is nothing to protect.
    fn rescue_log(&self, slot: &Slot) -> Result<(), DirtyError> {
        if let Some(log) = self.read_log(slot)? {
            self.tracker.add_log(slot, &log);
        }
        Ok(())
    }

    fn read_log(&self, slot: &Slot) -> Result<Option<Vec<u64>>, DirtyError> {
        if let DirtyMode::Ring { .. } = self.mode {
            return Ok(None);
        }
        let got = self.vm.get_dirty_log(slot.id.into());
        got.map(Some).map_err(|errno| DirtyError::Get {
            slot: slot.id,
            errno,
        })
    }

    fn clear_log(&self, slot: &Slot, log: &[u64]) -> Result<(), DirtyError> {
        for clear in clears(log, slot.size() / self.tracker.page_size()) {
            let cleared = self.vm.clear_dirty_log(
                slot.id.into(),
                clear.first_page,
                clear.num_pages,
                clear.bitmap,
            );
            cleared.map_err(|errno| DirtyError::Clear {
                slot: slot.id,
                first_page: clear.first_page,
                errno,
            })?;
        }
        Ok(())
    }

    fn collect_rings(&self, table: &SlotTable) -> Result<(), DirtyError> {
        if !matches!(self.mode, DirtyMode::Ring { .. }) {
            return Ok(());
        }
        let rings = &mut *self.rings();
        let (mut entries, skipped) = rings.harvest();
        // As with logs: protected again first, then reported.
        let reset = rings.reset(&self.vm);
        entries.retain(|entry| !self.tracker.add_entry(table, entry));
        let left = reset.map_err(DirtyError::Reset)?;
        if let Some(skipped) = skipped {
            return Err(skipped);
        }
        match (entries.first(), left) {
            (Some(stray), _) => Err(DirtyError::Stray(*stray)),
            (None, 0) => Ok(()),
            (None, left) => Err(DirtyError::NotReset { left }),
        }
    }

    /// A panic of a ring leaves the counts consistent: they change in whole steps.
    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an operation would take away is collected before it. What a running
/// vCPU writes between that and the operation is lost: see
/// [`Plan::ends_log`](crate::Plan::ends_log).
impl<V: LoggingVm> BeforeOp for DirtyCollector<V> {
    fn before(&self, op: &Op, table: &SlotTable) -> Result<(), Errno> {
        let collected = match (self.mode, op) {
            // Entries name slots by numbers, which the next slot may get.
            (DirtyMode::Ring { .. }, Op::Delete(_)) => self.collect_rings(table),
            (DirtyMode::Ring { .. }, _) => Ok(()),
            _ => op.ends_log().map_or(Ok(()), |slot| self.rescue_log(slot)),
        };
        collected.map_err(|error| error.errno())?;
        if let Some(slot) = op.logs_after() {
            self.tracker.track(slot);
        }
        Ok(())
    }
}
