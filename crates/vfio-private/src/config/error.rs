// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can be wrong with configuration space.

use thiserror::Error;

use crate::bar::{BarIndex, InputError};

/// Why configuration space is not valid. Offsets are from its start, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The number of bytes is not a size of configuration space.
    #[error("{len} bytes are no configuration space: it has 64, 256 or 4096")]
    Length {
        /// How many bytes there were.
        len: usize,
    },
    /// Every byte of the header is `0xff`: no device answered the reads.
    #[error("all ones from offset 0x0 to 0x3f: no device answers, or it is powered down")]
    NoDevice,
    /// A header of another type than 0: a bridge has other BARs, and is not assigned to guests.
    #[error("header type {kind:#x} at offset 0xe is not that of a device with BARs (type 0)")]
    HeaderType {
        /// The type, without the multi-function bit.
        kind: u8,
    },
    /// A memory BAR of the reserved type 3.
    #[error("{bar} at offset {offset:#x} has the reserved type 3")]
    BarType {
        /// The BAR.
        bar: BarIndex,
        /// Where its register is.
        offset: usize,
    },
    /// A 64-bit BAR without a register for the upper half.
    #[error("{bar} at offset {offset:#x} is 64 bits wide, and there is no register behind it")]
    NoUpperHalf {
        /// The BAR, always the last.
        bar: BarIndex,
        /// Where its register is.
        offset: usize,
    },
    /// A capability pointer into the header.
    #[error("capability pointer {pointer:#x} at offset {offset:#x} is inside the header")]
    PointerIntoHeader {
        /// Where the pointer is.
        offset: usize,
        /// What it points to.
        pointer: usize,
    },
    /// A capability past the bytes that are there. Without privilege Linux shows the header alone.
    #[error(
        "capability at offset {offset:#x} ends past the {len} bytes that are there \
         (only root can read more than 64)"
    )]
    Truncated {
        /// Where the capability starts.
        offset: usize,
        /// How many bytes of its kind of space there are.
        len: usize,
    },
    /// A chain of capabilities with a cycle.
    #[error("capability at offset {offset:#x} points back to the one at {pointer:#x}")]
    Cycle {
        /// The capability that points back.
        offset: usize,
        /// The earlier capability that it points to.
        pointer: usize,
    },
    /// A capability that reads as all ones, so that neither its kind nor the next one is known.
    #[error("capability at offset {offset:#x} reads as all ones")]
    NoCapability {
        /// Where it should be.
        offset: usize,
    },
    /// An MSI-X register with a number that cannot be.
    #[error("MSI-X capability at offset {offset:#x}")]
    Msix {
        /// Where the capability starts.
        offset: usize,
        /// Why it cannot be.
        source: InputError,
    },
    /// An Enhanced Allocation entry that reaches into the next capability or past the bytes.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x} reaches past {end:#x}, where the capability \
         must end"
    )]
    EaCut {
        /// Where the entry starts.
        offset: usize,
        /// Where the next capability starts, or the bytes end.
        end: usize,
    },
    /// An Enhanced Allocation entry of another size than its fields have.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x}: {bar} takes {due} registers after the \
         first, and the entry has {found}"
    )]
    EaEntrySize {
        /// Where the entry starts.
        offset: usize,
        /// The BAR.
        bar: BarIndex,
        /// How many registers follow the first, by the entry.
        found: usize,
        /// How many registers the sizes of its fields take.
        due: usize,
    },
    /// An Enhanced Allocation entry for a BAR with properties that no BAR has.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x}: {bar} has the properties {primary:#x} and \
         {secondary:#x}, which are neither memory nor I/O of the device"
    )]
    EaProperties {
        /// Where the entry starts.
        offset: usize,
        /// The BAR.
        bar: BarIndex,
        /// The primary properties.
        primary: u8,
        /// The secondary properties, which count if the primary ones are reserved.
        secondary: u8,
    },
    /// An Enhanced Allocation entry whose range wraps around.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x}: {bar} at {base:#x} wraps around with the \
         offset {max:#x}"
    )]
    EaWraps {
        /// Where the entry starts.
        offset: usize,
        /// The BAR.
        bar: BarIndex,
        /// Its first address.
        base: u64,
        /// The offset of its last byte.
        max: u64,
    },
    /// An Enhanced Allocation entry of a size that [`Bar`](crate::Bar) cannot have. The PCI
    /// specification allows it.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x}: {bar} has {size:#x} bytes, and only powers \
         of two are supported"
    )]
    EaBarSize {
        /// Where the entry starts.
        offset: usize,
        /// The BAR.
        bar: BarIndex,
        /// Its size in bytes.
        size: u64,
    },
    /// An Enhanced Allocation entry for a memory BAR that may start inside a host page. The PCI
    /// specification allows it, but offsets in the BAR do not tell which host page they are in.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x}: {bar} starts at {base:#x}, and only \
         multiples of its size or of 64 KiB are supported"
    )]
    EaUnaligned {
        /// Where the entry starts.
        offset: usize,
        /// The BAR.
        bar: BarIndex,
        /// Its first address.
        base: u64,
    },
    /// Two Enhanced Allocation entries for one BAR.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x} is for the same BAR as the one at {first:#x}"
    )]
    EaTwice {
        /// Where the second entry starts.
        offset: usize,
        /// Where the first one starts.
        first: usize,
    },
    /// Two Enhanced Allocation entries for different BARs at the same addresses. What one BAR traps,
    /// the guest would reach through the other.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x} is for addresses that the one at {first:#x} \
         has, too"
    )]
    EaOverlap {
        /// Where the second entry starts.
        offset: usize,
        /// Where the first one starts.
        first: usize,
    },
    /// An Enhanced Allocation entry for a BAR whose register is in use.
    #[error(
        "Enhanced Allocation entry at offset {offset:#x} is for {bar}, which has a register that is \
         not 0, or is the upper half of the BAR below"
    )]
    EaBarInUse {
        /// Where the entry starts.
        offset: usize,
        /// The BAR.
        bar: BarIndex,
    },
}
