// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Collects dirty pages from KVM's logs and rings into a tracker.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clears::clears;
use super::error::DirtyError;
use super::ops::BeforeOp;
use super::rings::Rings;
use super::tracker::DirtyTracker;
use super::vm::{DirtyCapabilities, DirtyMode, DirtyRing, LoggingVm, ManualProtect, RingId};
use crate::plan::op::Op;
use crate::slots::slot::Slot;
use crate::slots::table::SlotTable;
use crate::vm::caps::Capabilities;
use crate::vm::errno::Errno;

/// Collects the pages that KVM logged into a [`DirtyTracker`]: on request, and before
/// memslot operations that end a log. It is the [`BeforeOp`] of
/// [`Slots::with_watcher`](crate::Slots::with_watcher).
#[derive(Debug)]
pub struct DirtyCollector<V> {
    vm: V,
    mode: DirtyMode,
    tracker: DirtyTracker,
    rings: Mutex<Rings>,
}

impl<V: LoggingVm> DirtyCollector<V> {
    /// Enables dirty tracking of `vm` by `mode`. Call this before the first vCPU is
    /// created if the mode uses rings, and before the first slot logs if logs are
    /// initially set.
    ///
    /// # Errors
    /// [`DirtyError::Mode`], with EOPNOTSUPP for rings on a kernel that also
    /// needs logs.
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

    /// The tracker of the collected pages.
    pub fn tracker(&self) -> &DirtyTracker {
        &self.tracker
    }

    /// Adds the ring of a vCPU. Each vCPU's ring must be added before the vCPU runs.
    pub fn add_ring(&self, ring: Box<dyn DirtyRing>) -> RingId {
        self.rings().add(ring)
    }

    /// [`collect`](Self::collect) for a vCPU that exited with
    /// `KVM_EXIT_DIRTY_RING_FULL`, so that it can run again.
    ///
    /// # Errors
    /// [`DirtyError`]. It is [`StaysFull`](DirtyError::StaysFull) if nothing was
    /// collected from this ring since the last call: the vCPU would exit
    /// forever, and the pages that it wrote are unknown.
    pub fn make_room(&self, table: &SlotTable, ring: RingId) -> Result<(), DirtyError> {
        self.collect(table)?;
        match self.rings().was_harvested(ring) {
            true => Ok(()),
            false => Err(DirtyError::StaysFull(ring)),
        }
    }

    /// Collects the pages that the guest wrote, and write-protects them again, so
    /// that the next write is logged. `table` must have KVM's current slots until
    /// this returns.
    ///
    /// vCPUs may run meanwhile. Their writes are reported by this call or the next.
    /// Clients may take pages meanwhile, but are guaranteed to get the pages of this
    /// call only after it returns. Processors that log pages in batches deliver them
    /// when a vCPU exits. To get the last pages, make vCPUs exit first.
    ///
    /// # Errors
    /// [`DirtyError`]. Pages that were read are kept, so this can be called again.
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
        // After protecting, even if that failed: a client that takes a page
        // before it is protected again would miss later writes.
        self.tracker.add_log(slot, &log);
        cleared
    }

    /// Reads a log before its end. No vCPU should write meanwhile, so pages are not
    /// protected.
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
        for clear in clears(log, self.tracker.page_size().number(slot.size())) {
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
        // As for logs: protect again first, then report.
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

/// Collects a log before the operation that ends it. Writes of a running vCPU between
/// that and the operation are lost: see
/// [`Plan::ends_log`](crate::Plan::ends_log).
impl<V: LoggingVm> BeforeOp for DirtyCollector<V> {
    fn before(&self, op: &Op, table: &SlotTable) -> Result<(), Errno> {
        let collected = match (self.mode, op) {
            // Entries name slots by number, which a new slot may get.
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
