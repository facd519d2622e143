// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From KVM's logs and rings to a tracker.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clears::clears;
use super::ops::BeforeOp;
use super::rings::{RingId, Rings};
use super::tracker::DirtyTracker;
use super::vm::{DirtyCapabilities, DirtyEntry, DirtyRing, LoggingVm, ManualProtect};
use crate::caps::Capabilities;
use crate::errno::Errno;
use crate::plan::op::Op;
use crate::slot::{Slot, SlotId};
use crate::table::SlotTable;

/// How KVM reports what was written. One way for the life of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyMode {
    /// A log for each slot; reading it write-protects all pages that it has.
    Log,
    /// A log for each slot; pages are write-protected by further calls, of at
    /// most 2^18 pages each, so that vCPUs do not wait long for any of them.
    ManualProtect {
        /// All pages count as written when logging starts.
        initially_set: bool,
    },
    /// A ring for each vCPU. The cost depends on the pages written and on the size
    /// of the rings, not on the size of the guest's memory.
    Ring {
        /// Its size: a power of two, 16 bytes for each entry.
        bytes: u32,
    },
}

/// Why pages could not be collected. What was collected before is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The kernel does not have the mode, or not any more for this VM.
    #[error("{mode:?} cannot be enabled: {errno}")]
    Mode {
        /// The mode.
        mode: DirtyMode,
        /// What the kernel said.
        errno: Errno,
    },
    /// A slot's log could not be read.
    #[error("the dirty log of slot {slot} cannot be read: {errno}")]
    Get {
        /// The slot.
        slot: SlotId,
        /// What the kernel said.
        errno: Errno,
    },
    /// A slot's log could not be cleared: its pages will be reported again.
    #[error("the dirty log of slot {slot} cannot be cleared from page {first_page} on: {errno}")]
    Clear {
        /// The slot.
        slot: SlotId,
        /// The first page of the call.
        first_page: u64,
        /// What the kernel said.
        errno: Errno,
    },
    /// The rings could not be reset. Their entries were collected, but what is
    /// written to these pages now leaves no trace until they are.
    #[error("the dirty rings cannot be reset: {0}")]
    Reset(Errno),
    /// The kernel did not reset all collected entries, even after retries:
    /// further writes to their pages are not logged.
    #[error("the kernel did not reset {left} entries of the dirty rings")]
    NotReset {
        /// The number of entries that were not reset.
        left: u64,
    },
    /// The kernel skipped an entry of a ring. Later entries were not collected
    /// and never will be.
    #[error("entry {position} of dirty ring {ring} is missing although later ones are there")]
    Skipped {
        /// The ring.
        ring: RingId,
        /// The position of the entry in the ring.
        position: usize,
    },
    /// A vCPU exits because its ring is full, but the ring has no entry to
    /// collect; see [`DirtyCollector::make_room`].
    #[error("dirty ring {0} is full, and there is nothing in it to collect")]
    StaysFull(RingId),
    /// An entry of a ring names a page that no slot of the table has: the first
    /// one, if several do. All other entries were collected.
    #[error("the dirty ring names page {page:#x} of slot {slot:#x}, which is in no slot", page = .0.page, slot = .0.slot)]
    Stray(DirtyEntry),
}

impl DirtyError {
    fn errno(&self) -> Errno {
        match self {
            Self::Mode { errno, .. } | Self::Get { errno, .. } | Self::Clear { errno, .. } => {
                *errno
            }
            Self::Reset(errno) => *errno,
            Self::NotReset { .. } | Self::Skipped { .. } | Self::StaysFull(_) => Errno::EIO,
            Self::Stray(_) => Errno::ENOENT,
        }
    }
}

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
        for slot in table.slots().filter(|slot| slot.log_dirty) {
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
        for clear in clears(log, slot.size / self.tracker.page_size()) {
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
