// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The form of the data.

use alloc::string::String;
use alloc::vec::Vec;

use guest_ranges::{AddrRange, GuestMemfdSides, PageSet};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::region::Switches;

/// The version of the form that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// A model as data. `D` is what the caller saves of each region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelState<D> {
    #[serde(deserialize_with = "version")]
    pub(super) version: u32,
    /// An alias comes after its target.
    pub(super) regions: Vec<RegionState<D>>,
    /// In the order of the placings: among equal priorities, the latest wins.
    pub(super) places: Vec<PlaceState>,
    pub(super) spaces: Vec<SpaceState>,
    /// The clients for which all memory is logged.
    pub(super) global_logging: u8,
}

/// Reads the version before anything else, because the rest depends on it.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        VERSION => Ok(VERSION),
        other => Err(de::Error::custom(format_args!(
            "version {other} of a memory model's state; this is version {VERSION}"
        ))),
    }
}

impl<D> ModelState<D> {
    /// The regions. The number of a region is its index.
    pub fn regions(&self) -> &[RegionState<D>] {
        &self.regions
    }
}

/// A region as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionState<D> {
    pub(super) name: String,
    pub(super) kind: SavedKind,
    /// The last offset, which is one less than the size.
    pub(super) last: u64,
    pub(super) switches: Switches,
    /// The clients for which writes are logged.
    pub(super) logging: u8,
    pub(super) ioeventfds: Vec<IoEventFdState>,
    pub(super) coalesced: Vec<AddrRange>,
    pub(super) data: D,
}

impl<D> RegionState<D> {
    /// The region's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The region's kind.
    pub fn kind(&self) -> SavedKind {
        self.kind
    }

    /// The size in bytes, 1 to 2^64.
    pub fn size(&self) -> u128 {
        u128::from(self.last) + 1
    }

    /// What the caller saved of the region.
    pub fn data(&self) -> &D {
        &self.data
    }
}

/// The kind of a region as data: without its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum SavedKind {
    /// Contains other regions.
    Container,
    /// Reserves addresses.
    Reservation,
    /// Traps every access.
    Mmio,
    /// RAM. `sides` are those of its guest_memfd, if it has one; likewise below.
    Ram {
        /// The pages that the guest_memfd holds.
        sides: Option<GuestMemfdSides>,
    },
    /// ROM.
    Rom {
        /// The pages that the guest_memfd holds.
        sides: Option<GuestMemfdSides>,
    },
    /// A ROM device.
    RomDevice {
        /// The pages that the guest_memfd holds.
        sides: Option<GuestMemfdSides>,
    },
    /// A device's memory that the host has mapped.
    DeviceRam,
    /// Device registers without a host address.
    PrivateMmio,
    /// A window onto another region.
    Alias {
        /// The number of the other region.
        target: usize,
        /// The offset in it, in bytes.
        offset: u64,
    },
}

/// An ioeventfd, without its eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IoEventFdState {
    pub(super) at: u64,
    /// The number of bytes of the write: 1, 2, 4 or 8, or 0 for any.
    pub(super) size: u64,
    pub(super) value: Option<u64>,
}

/// The place of a region in another, both by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceState {
    pub(super) region: usize,
    pub(super) parent: usize,
    pub(super) address: u64,
    pub(super) priority: i32,
}

/// An address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpaceState {
    pub(super) name: String,
    /// The number of its root.
    pub(super) root: usize,
    pub(super) private: PageSet,
    pub(super) accepted: PageSet,
    /// The most bytes that the state of private pages may take.
    pub(super) state_limit: u64,
}
