// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What dirty tracking asks of a VM, and of the ring of a vCPU.

use std::fmt;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
};

use crate::errno::Errno;
use crate::vm::Vm;

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

/// What a VM's kernel can do to track writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirtyCapabilities {
    /// The options of manual protection; none before Linux 5.0.
    pub manual_protect: ManualProtect,
    /// The largest ring, in bytes: 16 for each entry. 0 if there are no rings.
    pub ring_bytes: u32,
    /// Some writes go past the rings into logs: so far on Arm only. This crate
    /// has no rings on such a kernel.
    pub ring_needs_log: bool,
}

impl DirtyCapabilities {
    /// Asks `vm`.
    pub fn probe(vm: &impl Vm) -> Self {
        let ask = |capability| u32::try_from(vm.check_extension(capability)).unwrap_or(0);
        let options = ask(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
        Self {
            manual_protect: ManualProtect::from_bits_truncate(options.into()),
            // The newer one is there on processors that order stores weakly.
            // x86 has both, and they say the same.
            ring_bytes: ask(KVM_CAP_DIRTY_LOG_RING_ACQ_REL).max(ask(KVM_CAP_DIRTY_LOG_RING)),
            ring_needs_log: ask(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0,
        }
    }
}

/// A VM that reports which pages its guest wrote.
pub trait LoggingVm: Vm + std::fmt::Debug {
    /// `KVM_ENABLE_CAP` of `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
    ///
    /// # Errors
    /// EINVAL for options that the kernel does not have, or that need others.
    fn set_manual_protect(&self, options: ManualProtect) -> Result<(), Errno>;

    /// `KVM_ENABLE_CAP` of `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`: each vCPU has a
    /// ring of `bytes` bytes, and slots have no log. Once, and before the first
    /// vCPU is made.
    ///
    /// # Errors
    /// E2BIG above [`DirtyCapabilities::ring_bytes`]. EINVAL if it is no power
    /// of two, less than a page, too small for what the processor may log at
    /// once, or too late.
    fn enable_dirty_ring(&self, bytes: u32) -> Result<(), Errno>;

    /// `KVM_GET_DIRTY_LOG`: a bit for each page of the slot. With manual
    /// protection the log stays as it is, else it is clear after that.
    ///
    /// # Errors
    /// In this order: ENXIO if there are rings instead; EINVAL if no slot can
    /// have this number; ENOENT if there is no such slot, or it does not log.
    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>, Errno>;

    /// `KVM_CLEAR_DIRTY_LOG`: clears those of the `num_pages` pages of a slot
    /// from `first_page` on that `bitmap` has.
    ///
    /// # Errors
    /// EINVAL if `bitmap` has fewer bits than that; if `first_page` is no
    /// multiple of 64; if `num_pages` is none and does not end with the slot.
    /// As for [`get_dirty_log`](Self::get_dirty_log).
    fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno>;

    /// `KVM_RESET_DIRTY_RINGS`: the kernel takes back the entries that were
    /// harvested, and reports these pages again. Returns how many: fewer
    /// than were harvested if a signal interrupts it.
    ///
    /// # Errors
    /// EINVAL if there are no rings.
    fn reset_dirty_rings(&self) -> Result<u32, Errno>;
}

/// An entry of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyEntry {
    /// The slot's number, with that of its address space from bit 16 on.
    pub slot: u32,
    /// The page's number within the slot.
    pub page: u64,
}

/// The dirty ring of a vCPU.
pub trait DirtyRing: std::fmt::Debug + Send {
    /// The oldest entry that was not harvested yet, which is then. The kernel
    /// takes it back at the next [`LoggingVm::reset_dirty_rings`].
    fn harvest(&mut self) -> Option<DirtyEntry>;

    /// The position of the next entry in the ring, if the kernel skipped it and
    /// filled later ones: harvesting never gets past it. Call it on a ring that
    /// has nothing left to harvest.
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
