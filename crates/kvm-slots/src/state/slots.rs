// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slots of a VM as data.

use serde::{Deserialize, Serialize};

use super::{VERSION, version};
use crate::range::{RangeError, SlotAccess, SlotBacking, SlotRange};
use crate::slots::slot::{Slot, SlotId};
use crate::slots::table::SlotTable;

/// The slots of a VM as data. `D` is what the caller saves of each slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotsState<D> {
    #[serde(deserialize_with = "version")]
    version: u32,
    /// By number.
    slots: Vec<SavedSlot<D>>,
}

/// A slot as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSlot<D> {
    id: SlotId,
    gpa: u64,
    size: u64,
    read_only: bool,
    log_dirty: bool,
    backing: SavedBacking,
    data: D,
}

/// The kind of a slot's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum SavedBacking {
    /// Memory of the host process.
    Host,
    /// A guest_memfd.
    GuestMemfd {
        /// Whether host memory has the shared pages.
        with_host: bool,
    },
    /// A device's file.
    FdOffset,
}

impl SavedBacking {
    fn of(backing: &SlotBacking) -> Self {
        match backing {
            SlotBacking::Host(_) => Self::Host,
            SlotBacking::GuestMemfd { host, .. } => Self::GuestMemfd {
                with_host: host.is_some(),
            },
            SlotBacking::FdOffset(_) => Self::FdOffset,
        }
    }
}

impl<D> SavedSlot<D> {
    /// The number that the slot had. A restored slot can have another one.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// The first guest-physical address.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The kind of the memory.
    pub fn backing(&self) -> SavedBacking {
        self.backing
    }

    /// What the caller saved of the slot.
    pub fn data(&self) -> &D {
        &self.data
    }
}

/// Why data does not describe slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError<E> {
    /// The caller could not supply the memory.
    #[error("the slot at {gpa:#x}: {source}")]
    Supply {
        /// The first guest-physical address.
        gpa: u64,
        /// The caller's error.
        source: E,
    },
    /// The caller supplied memory of another kind.
    #[error("the slot at {gpa:#x} was on {saved:?}, and the memory is {supplied:?}")]
    Kind {
        /// The first guest-physical address.
        gpa: u64,
        /// The saved kind.
        saved: SavedBacking,
        /// The supplied kind.
        supplied: SavedBacking,
    },
    /// The caller supplied memory of another size.
    #[error("the slot at {gpa:#x} had {saved:#x} bytes, and the memory has {supplied:#x}")]
    Size {
        /// The first guest-physical address.
        gpa: u64,
        /// The saved size.
        saved: u64,
        /// The supplied size.
        supplied: u64,
    },
    /// Two slots overlap.
    #[error("two slots have the address {gpa:#x}")]
    Overlap {
        /// The first address that both have.
        gpa: u64,
    },
    /// Two slots have the same number, or the numbers are not in order.
    #[error("slot {id} does not follow the slot before it")]
    Order {
        /// The number.
        id: SlotId,
    },
    /// No memory can be there.
    #[error(transparent)]
    Range(#[from] RangeError),
}

impl SlotTable {
    /// The slots as data. `describe` returns what the caller needs to find the slot's
    /// memory again.
    pub fn state<D>(&self, mut describe: impl FnMut(&Slot) -> D) -> SlotsState<D> {
        let slots = self.slots().map(|slot| SavedSlot {
            id: slot.id(),
            gpa: slot.gpa(),
            size: slot.size(),
            read_only: slot.access() == SlotAccess::ReadOnly,
            log_dirty: slot.log_dirty(),
            backing: SavedBacking::of(slot.backing()),
            data: describe(slot),
        });
        SlotsState {
            version: VERSION,
            slots: slots.collect(),
        }
    }
}

impl<D> SlotsState<D> {
    /// The slots, by number.
    pub fn slots(&self) -> &[SavedSlot<D>] {
        &self.slots
    }

    /// The ranges of all slots, by address, on the memory that `memory` supplies.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn ranges<E>(
        &self,
        mut memory: impl FnMut(&SavedSlot<D>) -> Result<SlotBacking, E>,
    ) -> Result<Vec<SlotRange>, RestoreError<E>> {
        for pair in self.slots.windows(2) {
            let id = pair[1].id;
            if pair[0].id >= id {
                return Err(RestoreError::Order { id });
            }
        }
        let mut ranges = Vec::new();
        for saved in &self.slots {
            let gpa = saved.gpa;
            let backing = memory(saved);
            let backing = backing.map_err(|source| RestoreError::Supply { gpa, source })?;
            ranges.push(range(saved, backing)?);
        }
        ranges.sort_by_key(SlotRange::gpa);
        for pair in ranges.windows(2) {
            let gpa = pair[1].gpa();
            if pair[0].last() >= gpa {
                return Err(RestoreError::Overlap { gpa });
            }
        }
        Ok(ranges)
    }
}

fn range<D, E>(saved: &SavedSlot<D>, backing: SlotBacking) -> Result<SlotRange, RestoreError<E>> {
    let gpa = saved.gpa;
    let supplied = SavedBacking::of(&backing);
    if supplied != saved.backing {
        let saved = saved.backing;
        return Err(RestoreError::Kind {
            gpa,
            saved,
            supplied,
        });
    }
    if backing.size() != saved.size {
        return Err(RestoreError::Size {
            gpa,
            saved: saved.size,
            supplied: backing.size(),
        });
    }
    let access = match saved.read_only {
        true => SlotAccess::ReadOnly,
        false => SlotAccess::ReadWrite,
    };
    let range = SlotRange::new(gpa, access, backing)?;
    Ok(range.with_log_dirty(saved.log_dirty))
}
