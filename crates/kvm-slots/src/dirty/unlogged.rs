// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds slots whose writes are not logged.

use std::fmt;

use crate::range::{SlotAccess, SlotBacking};
use crate::slots::slot::Slot;
use crate::slots::table::SlotTable;

/// A slot whose writes are not logged, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size:#x} bytes at {gpa:#x} in slot {id}: {why}", id = .slot.id, gpa = .slot.gpa(), size = .slot.size())]
#[non_exhaustive]
pub struct UnloggedSlot {
    /// The slot.
    pub slot: Slot,
    /// The reason.
    pub why: Unlogged,
}

/// The reason why the writes to a slot are not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unlogged {
    /// [`Slot::log_dirty`] is off.
    Off,
    /// Its pages are in a guest_memfd. KVM does not log these and refuses both flags
    /// together (`check_memory_region_flags`,
    /// virt/kvm/kvm_main.c).
    GuestMemfd,
    /// It is private MMIO. Only the guest can access it, so it cannot be copied
    /// either.
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
    /// The reason why `slot` is not logged; `None` if it is, or if the guest cannot
    /// write it directly.
    pub fn of(slot: &Slot) -> Option<Self> {
        match (slot.backing(), slot.access()) {
            (SlotBacking::GuestMemfd { .. }, _) => Some(Self::GuestMemfd),
            (SlotBacking::FdOffset(_), _) => Some(Self::PrivateMmio),
            (SlotBacking::Host(_), SlotAccess::ReadOnly) => None,
            (SlotBacking::Host(_), SlotAccess::ReadWrite) => {
                (!slot.log_dirty()).then_some(Self::Off)
            }
        }
    }
}

impl SlotTable {
    /// The slots that a guest can write without a log. A client that needs every
    /// write, such as a migration, requires that there are none.
    pub fn unlogged(&self) -> impl Iterator<Item = UnloggedSlot> + '_ {
        self.slots().filter_map(|slot| {
            Some(UnloggedSlot {
                why: Unlogged::of(slot)?,
                slot: slot.clone(),
            })
        })
    }
}
