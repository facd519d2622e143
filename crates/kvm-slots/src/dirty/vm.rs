// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty tracking calls of a VM, and of a vCPU's ring.

use std::fmt;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
};

use crate::vm::Vm;
use crate::vm::errno::Errno;

bitflags::bitflags! {
    /// Options of `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ManualProtect: u64 {
        /// Reading a log does not clear it.
        const ENABLE = 1 << 0;
        /// All pages count as written when logging starts.
        const INITIALLY_SET = 1 << 1;
    }
}

/// The way in which KVM reports written pages. It does not change during the life of
/// a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DirtyMode {
    /// A log for each slot. Reading it write-protects all its dirty pages.
    Log,
    /// A log for each slot. Separate calls write-protect at most 2^18 pages each, so
    /// that vCPUs do not wait long.
    ManualProtect {
        /// All pages count as written when logging starts.
        initially_set: bool,
    },
    /// A ring for each vCPU. The cost depends on the pages written and on the size
    /// of the rings, not on the size of the guest's memory. Where the kernel needs it
    /// ([`DirtyCapabilities::ring_needs_log`]), slots have a log as well.
    Ring {
        /// The size of the ring: a power of two, 16 bytes for each entry.
        bytes: u32,
    },
}

/// The dirty tracking capabilities of a VM's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirtyCapabilities {
    /// The options of manual protection; none before Linux 5.0.
    pub manual_protect: ManualProtect,
    /// The largest ring, in bytes: 16 for each entry. 0 if there are no rings.
    pub ring_bytes: u32,
    /// Whether rings do not report all writes, so far on Arm: KVM itself writes to guest
    /// memory without a vCPU, for example to save the tables of an interrupt controller.
    /// Slots then need a log beside the rings
    /// ([`LoggingVm::enable_log_beside_ring`]), which
    /// [`DirtyCollector::collect_final`](super::DirtyCollector::collect_final) reads.
    pub ring_needs_log: bool,
}

impl DirtyCapabilities {
    /// Queries the capabilities of `vm`.
    pub fn probe(vm: &impl Vm) -> Self {
        let ask = |capability| u32::try_from(vm.check_extension(capability)).unwrap_or(0);
        let options = ask(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
        Self {
            manual_protect: ManualProtect::from_bits_truncate(options.into()),
            // Processors with weakly ordered stores have the newer one. x86 has
            // both, with the same value.
            ring_bytes: ask(KVM_CAP_DIRTY_LOG_RING_ACQ_REL).max(ask(KVM_CAP_DIRTY_LOG_RING)),
            ring_needs_log: ask(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0,
        }
    }
}

/// A VM that reports the pages that its guest wrote.
pub trait LoggingVm: Vm + std::fmt::Debug {
    /// `KVM_ENABLE_CAP` of `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
    ///
    /// # Errors
    /// EINVAL for options that the kernel does not have, or that require others.
    fn set_manual_protect(&self, options: ManualProtect) -> Result<(), Errno>;

    /// `KVM_ENABLE_CAP` of `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`: each vCPU has a ring of
    /// `bytes` bytes, and slots have no log unless
    /// [`enable_log_beside_ring`](Self::enable_log_beside_ring) follows. Call it once,
    /// before the first vCPU is created.
    ///
    /// # Errors
    /// E2BIG above [`DirtyCapabilities::ring_bytes`]. EINVAL if the size is not a
    /// power of two, less than a page, or smaller than the pages that the processor
    /// may log at once, or if a vCPU exists.
    fn enable_dirty_ring(&self, bytes: u32) -> Result<(), Errno>;

    /// `KVM_ENABLE_CAP` of `KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP`: slots have a log although
    /// there are rings, for the pages that KVM writes without a vCPU. Call it after
    /// [`enable_dirty_ring`](Self::enable_dirty_ring) and before the first slot is created.
    ///
    /// # Errors
    /// EINVAL if the kernel has no such writes
    /// ([`DirtyCapabilities::ring_needs_log`] is false), if there are no rings, or if the
    /// VM has a slot.
    fn enable_log_beside_ring(&self) -> Result<(), Errno>;

    /// `KVM_GET_DIRTY_LOG`: a bit for each page of the slot. Without manual
    /// protection, this clears the log.
    ///
    /// # Errors
    /// In this order: ENXIO if the VM uses rings without a log beside them; EINVAL if no slot can have this
    /// number; ENOENT if there is no such slot, or it does not log.
    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>, Errno>;

    /// `KVM_CLEAR_DIRTY_LOG`: clears the pages that are set in `bitmap`, which starts at
    /// `first_page` of a slot and has `num_pages` bits.
    ///
    /// # Errors
    /// EINVAL if `bitmap` has fewer bits; if `first_page` is not a multiple of 64; or
    /// if `num_pages` is not a multiple of 64 and does not end with the slot. Other
    /// errors as for [`get_dirty_log`](Self::get_dirty_log).
    fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno>;

    /// `KVM_RESET_DIRTY_RINGS`: the kernel frees the harvested entries, and reports
    /// their pages again when they are written. Returns the number of entries, which
    /// is smaller than the number of harvested ones if a signal interrupts the ioctl.
    ///
    /// # Errors
    /// EINVAL if the VM has no rings.
    fn reset_dirty_rings(&self) -> Result<u32, Errno>;
}

/// An entry of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyEntry {
    /// The slot's number, with the address space from bit 16.
    pub slot: u32,
    /// The page's number within the slot.
    pub page: u64,
}

/// The dirty ring of a vCPU.
pub trait DirtyRing: std::fmt::Debug + Send {
    /// Harvests the oldest entry. The kernel frees it at the next
    /// [`LoggingVm::reset_dirty_rings`].
    fn harvest(&mut self) -> Option<DirtyEntry>;

    /// The position of the next entry, if the kernel skipped it and filled later ones.
    /// Harvesting never gets past it. Call this on a ring that has nothing left to
    /// harvest.
    fn skipped(&self) -> Option<usize>;
}

/// The dirty ring of one vCPU, as
/// [`DirtyCollector::add_ring`](crate::dirty::DirtyCollector::add_ring) numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingId(pub(super) usize);

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
