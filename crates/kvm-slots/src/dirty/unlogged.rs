// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest writes and no log has.

use std::fmt;

use crate::range::{Backing, SlotAccess};
use crate::slot::Slot;
use crate::table::SlotTable;

/// A slot whose writes are not logged, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size:#x} bytes at {gpa:#x} in slot {id}: {why}", id = .slot.id, gpa = .slot.gpa(), size = .slot.size())]
#[non_exhaustive]
pub struct UnloggedSlot {
    /// The slot.
    pub slot: Slot,
    /// The reason.
    pub why: Unlogged,
}

/// Why the writes to a slot are not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unlogged {
    /// It could be, but is not requested: [`Slot::log_dirty`] is off.
    Off,
    /// Its pages are in a guest_memfd, which KVM keeps no log of: it refuses
    /// the one flag beside the other (`check_memory_region_flags`,
    /// virt/kvm/kvm_main.c).
    GuestMemfd,
    /// It is private MMIO. Only the guest reaches it, so that there is
    /// nothing to copy either.
    PrivateMmio,
}

impl fmt::Display for Unlogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "logging is off",
            Self::GuestMemfd => "its pages are in a guest_memfd",
            Self::PrivateMmio => "no host address reaches it",
        })
    }
}

impl Unlogged {
    /// Why `slot` is not logged; `None` if it is, or if the guest cannot write
    /// it directly.
    pub fn of(slot: &Slot) -> Option<Self> {
        match (slot.backing(), slot.access()) {
            (Backing::GuestMemfd { .. }, _) => Some(Self::GuestMemfd),
            (Backing::FdOffset(_), _) => Some(Self::PrivateMmio),
            (Backing::Host(_), SlotAccess::ReadOnly) => None,
            (Backing::Host(_), SlotAccess::ReadWrite) => (!slot.log_dirty()).then_some(Self::Off),
        }
    }
}

impl SlotTable {
    /// The slots that a guest can write without a trace. A client that wants
    /// every write, such as a migration, has all it needs only if there are
    /// none.
    pub fn unlogged(&self) -> impl Iterator<Item = UnloggedSlot> + '_ {
        self.slots().filter_map(|slot| {
            Some(UnloggedSlot {
                why: Unlogged::of(slot)?,
                slot: slot.clone(),
            })
        })
    }
}
