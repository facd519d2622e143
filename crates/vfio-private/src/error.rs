// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Errors of the classifier, each with the numbers that show the problem.

use core::fmt;

use guest_ranges::AddrRange;
use thiserror::Error;

use crate::bar::{BarIndex, BarRange};
use crate::bar_input::ReportedRange;
use crate::msix::MsixPart;

/// What a private range would have to share a host page with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Neighbour {
    /// An MSI-X structure whose host pages are trapped.
    Msix(MsixPart, AddrRange),
    /// A NON_TEE range of the report.
    NonTee(AddrRange),
    /// Bytes in no range of the report.
    Unreported(AddrRange),
    /// The bytes behind a BAR that is smaller than a host page.
    BehindBar(AddrRange),
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Msix(part, range) => write!(f, "the {part} {}", range.dashed()),
            Self::NonTee(range) => write!(f, "the non-TEE range {}", range.dashed()),
            Self::Unreported(range) => write!(f, "the unreported bytes {}", range.dashed()),
            Self::BehindBar(range) => write!(f, "what follows the BAR, {}", range.dashed()),
        }
    }
}

/// Displays what to do about a locked MSI-X structure.
struct Remedy {
    can_be_left: bool,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lock without LOCK_MSIX")?;
        match self.can_be_left {
            true => f.write_str(" or leave the table to the guest"),
            false => Ok(()),
        }
    }
}

/// Displays where an MSI-X structure is.
struct Place(Option<BarRange>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "at {place}"),
            None => f.write_str("nowhere: the device has no MSI-X capability"),
        }
    }
}

/// Facts about a BAR that do not fit it, or each other. Raised by [`classify`](crate::classify).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// A sparse-mmap area that leaves the BAR or wraps around.
    #[error("{bar}: sparse area of {size:#x} bytes at {offset:#x} leaves the BAR of {bar_size:#x}")]
    SparseAreaOutsideBar {
        /// The BAR.
        bar: BarIndex,
        /// Size of the BAR in bytes.
        bar_size: u64,
        /// Where the area starts, in bytes.
        offset: u64,
        /// Size of the area in bytes.
        size: u64,
    },
    /// An MSI-X structure that leaves the BAR its capability names.
    #[error("{bar}: {part} {} leaves the {bar_size:#x} bytes of the BAR", range.dashed())]
    MsixOutsideBar {
        /// The BAR.
        bar: BarIndex,
        /// Size of the BAR in bytes.
        bar_size: u64,
        /// Table or PBA.
        part: MsixPart,
        /// Where the structure would be.
        range: AddrRange,
    },
    /// An MSI-X structure in an I/O BAR; the PCI specification wants a memory BAR.
    #[error("{bar}: {part} {} is in an I/O BAR", range.dashed())]
    MsixInIoBar {
        /// The BAR.
        bar: BarIndex,
        /// Table or PBA.
        part: MsixPart,
        /// Where the structure would be.
        range: AddrRange,
    },
    /// A BAR that is too large for MSI-X structures behind its end.
    #[error("{bar}: MSI-X behind {bar_size:#x} bytes is out of reach of a 32-bit offset")]
    NoRoomForMsix {
        /// The BAR.
        bar: BarIndex,
        /// Size of the BAR in bytes.
        bar_size: u64,
    },
    /// A range of the TDISP report that leaves the BAR.
    #[error("{bar}: reported range {} leaves the {bar_size:#x} bytes of the BAR", range.range.dashed())]
    ReportOutsideBar {
        /// The BAR.
        bar: BarIndex,
        /// Size of the BAR in bytes.
        bar_size: u64,
        /// The range.
        range: ReportedRange,
    },
    /// A range of the TDISP report in an I/O BAR; a report is about memory only.
    #[error("{bar}: reported range {} is in an I/O BAR", range.range.dashed())]
    ReportInIoBar {
        /// The BAR.
        bar: BarIndex,
        /// The range.
        range: ReportedRange,
    },
    /// Bytes that the TDISP report lists both as TEE and as NON_TEE.
    #[error("{bar}: report lists {} as TEE and {} as non-TEE, which overlap", tee.dashed(), non_tee.dashed())]
    ReportContradicts {
        /// The BAR.
        bar: BarIndex,
        /// A TEE range.
        tee: AddrRange,
        /// A NON_TEE range with a byte in common.
        non_tee: AddrRange,
    },
    /// A range that the TDISP report marks to hold an MSI-X structure, but that does not. Either
    /// the report is of another device, or a wrong rule converted it to offsets in the BAR.
    #[error("{bar}: report marks {} to hold the {part}, which is {}", range.dashed(), Place(*at))]
    ReportMisplacesMsix {
        /// The BAR.
        bar: BarIndex,
        /// Table or PBA.
        part: MsixPart,
        /// The range, as reported.
        range: AddrRange,
        /// Where the capability says the structure is; `None` without the capability.
        at: Option<BarRange>,
    },
    /// The TDISP report marks a private range as holding an MSI-X structure, which the policy leaves
    /// to the host: the device has locked it into TEE memory, where the host cannot write it.
    #[error(
        "{bar}: the device has locked the {part} {} into the private range {}: {}",
        structure.dashed(),
        private.dashed(),
        Remedy { can_be_left: *can_be_left }
    )]
    MsixLocked {
        /// The BAR.
        bar: BarIndex,
        /// Table or PBA.
        part: MsixPart,
        /// Where the structure is.
        structure: AddrRange,
        /// The TEE range, as reported.
        private: AddrRange,
        /// The host page, as offsets in the BAR; the lowest one that is not separable.
        page: AddrRange,
        /// Whether all structures that TEE ranges touch are locked into them as a whole, so that
        /// they can be left to the guest: [`TeeMsixPolicy::Private`](crate::TeeMsixPolicy::Private).
        can_be_left: bool,
    },
    /// A private range that host pages cannot keep apart from something that is not private.
    ///
    /// The lowest such page is named. A smaller host page size may help; trapping or sharing the
    /// page would break what the device has attested.
    #[error(
        "{bar}: private range {} shares the host page {} with {neighbour}",
        private.dashed(),
        page.dashed()
    )]
    PrivateNotSeparable {
        /// The BAR.
        bar: BarIndex,
        /// The TEE range, as reported.
        private: AddrRange,
        /// What else is in the page.
        neighbour: Neighbour,
        /// The host page, as offsets in the BAR.
        page: AddrRange,
    },
}
