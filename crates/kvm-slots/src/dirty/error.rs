// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The errors of collecting dirty pages.

use super::vm::{DirtyEntry, DirtyMode, RingId};
use crate::slots::slot::SlotId;
use crate::vm::errno::Errno;

/// The reason why pages could not be collected. Pages collected before are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The kernel does not have the mode, or can no longer enable it for this VM.
    #[error("{mode:?} cannot be enabled: {errno}")]
    Mode {
        /// The mode.
        mode: DirtyMode,
        /// The kernel's error.
        errno: Errno,
    },
    /// A slot's log could not be read.
    #[error("the dirty log of slot {slot} cannot be read: {errno}")]
    Get {
        /// The slot.
        slot: SlotId,
        /// The kernel's error.
        errno: Errno,
    },
    /// A slot's log could not be cleared. Its pages are reported again.
    #[error("the dirty log of slot {slot} cannot be cleared from page {first_page} on: {errno}")]
    Clear {
        /// The slot.
        slot: SlotId,
        /// The first page of the call.
        first_page: u64,
        /// The kernel's error.
        errno: Errno,
    },
    /// The rings could not be reset. Their entries were collected, but new writes to
    /// these pages are not logged until the rings are reset.
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
    /// collect; see [`DirtyCollector::make_room`](super::DirtyCollector::make_room).
    #[error("dirty ring {0} is full, and there is nothing in it to collect")]
    StaysFull(RingId),
    /// An entry of a ring names a page that is in no slot of the table. This is the
    /// first such entry. All others were collected.
    #[error("the dirty ring names page {page:#x} of slot {slot:#x}, which is in no slot", page = .0.page, slot = .0.slot)]
    Stray(DirtyEntry),
}

impl DirtyError {
    pub(super) fn errno(&self) -> Errno {
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
