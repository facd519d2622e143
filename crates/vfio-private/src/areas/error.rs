// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Errors of areas: BARs that cannot be carved, places that a BAR cannot have, accesses without an
//! area.

use guest_ranges::AddrRange;
use thiserror::Error;

use crate::bar::BarIndex;
use crate::error::ClassifyError;
use crate::piece::Access;

/// Why a BAR has no areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AreasError {
    /// The facts about the BAR contradict each other, or private bytes cannot be separated.
    #[error(transparent)]
    Classify(#[from] ClassifyError),
    /// More areas than there is room for. None is left out: the BAR has no areas at all.
    #[error("{bar}: {needed} areas are more than the {capacity} that there is room for")]
    TooMany {
        /// The BAR.
        bar: BarIndex,
        /// How many areas it has.
        needed: usize,
        /// How many there is room for.
        capacity: usize,
    },
    /// A relocation of another BAR, or one that does not enlarge this one.
    #[error(
        "{bar}: MSI-X was relocated in {relocated} to {size:#x} bytes, which does not enlarge it"
    )]
    NotEnlarged {
        /// The BAR.
        bar: BarIndex,
        /// The BAR that the relocation is of.
        relocated: BarIndex,
        /// The size of that BAR as the guest sees it, in bytes.
        size: u64,
    },
    /// The second BAR with its number.
    #[error("{bar} is there twice")]
    Twice {
        /// The BAR.
        bar: BarIndex,
    },
    /// An I/O BAR, which has no place in memory.
    #[error("{bar} is an I/O BAR, which is not in memory")]
    Io {
        /// The BAR.
        bar: BarIndex,
    },
}

/// Why a BAR cannot be where the guest puts it.
///
/// The places are as before. The VMM takes the BAR out of the guest's memory
/// ([`moved`](super::DeviceAreas::moved) to `None`). After an [`Overlap`](Self::Overlap), it tries the
/// address in the BAR's register again once the guest has moved another BAR: the guest may be
/// half-way through a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The device has no such memory BAR.
    #[error("the device has no memory {bar}")]
    NoSuchBar {
        /// The BAR.
        bar: BarIndex,
    },
    /// Address 0, which firmware and drivers write to a BAR that is not in use.
    #[error("{bar} cannot be at address 0, which stands for no address")]
    AtZero {
        /// The BAR.
        bar: BarIndex,
    },
    /// An address that is no multiple of the size. The register of a BAR cannot hold it.
    #[error("{bar} cannot be at {at:#x}, which is no multiple of its size {size:#x}")]
    Misaligned {
        /// The BAR.
        bar: BarIndex,
        /// The address.
        at: u64,
        /// The size of the BAR as the guest sees it, in bytes.
        size: u64,
    },
    /// Two BARs of the device share addresses while the device decodes both.
    #[error("{bar} at {} would overlap {other} at {}", range.dashed(), other_range.dashed())]
    Overlap {
        /// The BAR with the lower number.
        bar: BarIndex,
        /// Its addresses.
        range: AddrRange,
        /// The other BAR.
        other: BarIndex,
        /// The addresses of the other BAR.
        other_range: AddrRange,
    },
}

/// Why an access, or a range to be mapped, has no area. Offsets are from the start of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AreaAccessError {
    /// No bytes at all, or bytes that wrap around.
    #[error("{len:#x} bytes at {at:#x} are not a range")]
    NotARange {
        /// The offset or the address.
        at: u64,
        /// The number of bytes.
        len: u64,
    },
    /// The device does not decode memory.
    #[error("{} is at no BAR: memory decoding is off", range.dashed())]
    DecodeOff {
        /// The guest-physical addresses.
        range: AddrRange,
    },
    /// The first byte is in no BAR of the device.
    #[error("{} is at no BAR of the device", range.dashed())]
    NoBar {
        /// The guest-physical addresses.
        range: AddrRange,
    },
    /// The access leaves the BAR that its first byte is in.
    #[error("{bar}: {} leaves the {bar_size:#x} bytes of the BAR", range.dashed())]
    LeavesBar {
        /// The BAR.
        bar: BarIndex,
        /// The bytes of the access.
        range: AddrRange,
        /// The size of the BAR as the guest sees it, in bytes.
        bar_size: u64,
    },
    /// The access leaves the area that its first byte is in.
    #[error("{bar}: {} leaves the area {}", range.dashed(), area.dashed())]
    LeavesArea {
        /// The BAR.
        bar: BarIndex,
        /// The bytes of the access.
        range: AddrRange,
        /// The area.
        area: AddrRange,
    },
    /// Bytes that have no host address, so that they cannot be mapped for DMA by it.
    #[error("{bar}: {} is {access}, and cannot be mapped for DMA", range.dashed())]
    NotForDma {
        /// The BAR.
        bar: BarIndex,
        /// The bytes.
        range: AddrRange,
        /// How the guest reaches them.
        access: Access,
    },
}
