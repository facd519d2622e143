// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Collects dirty pages from KVM's logs and rings into a tracker.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clears::clears;
use super::error::DirtyError;
use super::ops::OpWatcher;
use super::rings::Rings;
use super::tracker::DirtyTracker;
use super::vm::{DirtyCapabilities, DirtyMode, DirtyRing, LoggingVm, ManualProtect, RingId};
use crate::plan::op::Op;
use crate::slots::slot::Slot;
use crate::slots::table::SlotTable;
use crate::vm::caps::Capabilities;
use crate::vm::errno::Errno;

/// Collects the pages that KVM logged into a [`DirtyTracker`]: on request, and before
/// memslot operations that end a log. It is the [`OpWatcher`] of
/// [`Slots::with_watcher`](crate::Slots::with_watcher).
#[derive(Debug)]
pub struct DirtyCollector<V> {
    vm: V,
    mode: DirtyMode,
    tracker: DirtyTracker,
    rings: Mutex<Rings>,
    /// Whether slots have a log although there are rings.
    log_beside_rings: bool,
}

impl<V: LoggingVm> DirtyCollector<V> {
    /// Enables dirty tracking of `vm` by `mode`. Call this before the first vCPU and the
    /// first slot are created if the mode uses rings, and before the first slot logs if
    /// logs are initially set.
    ///
    /// # Errors
    /// [`DirtyError::Mode`]. If the kernel needs a log beside rings and refuses it, the
    /// VM has rings that do not report all writes: it cannot be tracked any more.
    pub fn new(vm: V, capabilities: &Capabilities, mode: DirtyMode) -> Result<Self, DirtyError> {
        let mut log_beside_rings = false;
        let enabled = match mode {
            DirtyMode::Log => Ok(()),
            DirtyMode::ManualProtect { initially_set } => {
                let mut options = ManualProtect::ENABLE;
                options.set(ManualProtect::INITIALLY_SET, initially_set);
                vm.set_manual_protect(options)
            }
            DirtyMode::Ring { bytes } => {
                log_beside_rings = DirtyCapabilities::probe(&vm).ring_needs_log;
                let enabled = vm.enable_dirty_ring(bytes);
                match log_beside_rings {
                    true => enabled.and_then(|()| vm.enable_log_beside_ring()),
                    false => enabled,
                }
            }
        };
        enabled.map_err(|errno| DirtyError::Mode { mode, errno })?;
        Ok(Self {
            vm,
            mode,
            tracker: DirtyTracker::new(capabilities.page_size),
            rings: Mutex::default(),
            log_beside_rings,
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
    /// With rings, this reads no logs. Pages that KVM writes without a vCPU are then left
    /// to [`collect_final`](Self::collect_final).
    ///
    /// # Errors
    /// [`DirtyError`]. Pages that were read are kept, so this can be called again.
    pub fn collect(&self, table: &SlotTable) -> Result<(), DirtyError> {
        self.collect_logs(table, !matches!(self.mode, DirtyMode::Ring { .. }))?;
        self.collect_rings(table)
    }

    /// [`collect`](Self::collect) for the last time, including the logs beside rings.
    ///
    /// Call this when the vCPUs have stopped, after every ioctl by which KVM writes state
    /// to guest memory, such as `KVM_DEV_ARM_ITS_SAVE_TABLES`. Its cost depends on the
    /// size of the guest's memory where there are such logs
    /// ([`DirtyCapabilities::ring_needs_log`]). Elsewhere it is the same as `collect`.
    ///
    /// # Errors
    /// As for [`collect`](Self::collect).
    pub fn collect_final(&self, table: &SlotTable) -> Result<(), DirtyError> {
        self.collect_logs(table, self.has_logs())?;
        self.collect_rings(table)
    }

    /// Whether slots have logs.
    fn has_logs(&self) -> bool {
        self.log_beside_rings || !matches!(self.mode, DirtyMode::Ring { .. })
    }

    fn collect_logs(&self, table: &SlotTable, read: bool) -> Result<(), DirtyError> {
        for slot in table.slots().filter(|slot| slot.log_dirty()) {
            self.tracker.track(slot);
            if read {
                self.collect_log(slot)?;
            }
        }
        Ok(())
    }

    fn collect_log(&self, slot: &Slot) -> Result<(), DirtyError> {
        let log = self.read_log(slot)?;
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
        let log = self.read_log(slot)?;
        self.tracker.add_log(slot, &log);
        Ok(())
    }

    fn read_log(&self, slot: &Slot) -> Result<Vec<u64>, DirtyError> {
        let got = self.vm.get_dirty_log(slot.id.into());
        got.map_err(|errno| DirtyError::Get {
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
impl<V: LoggingVm> OpWatcher for DirtyCollector<V> {
    fn before(&self, op: &Op, table: &SlotTable) -> Result<(), Errno> {
        // Entries name slots by number, which a new slot may get.
        let rings = match op {
            Op::Delete(_) => self.collect_rings(table),
            _ => Ok(()),
        };
        let log = match op.ends_log().filter(|_| self.has_logs()) {
            Some(slot) => self.rescue_log(slot),
            None => Ok(()),
        };
        rings.and(log).map_err(|error| error.errno())?;
        if let Some(slot) = op.logs_after() {
            self.tracker.track(slot);
        }
        Ok(())
    }
}
